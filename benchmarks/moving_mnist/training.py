"""Train a forecaster of PyTorch by one of the protocols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.moving_mnist.protocols import INPUTS, Protocol
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.torch import Forecaster, load_canonical
from convlstm.weights.canonical import initialise


class Training:
    """A forecaster with the optimiser and the schedules of a protocol.

    Args:
        protocol: The protocol.
        spec: The model; with the loss `cross_entropy` its outputs are logits here.
        steps: Steps of the whole training, over which the schedules extend.
        seed: Of the initial weights and of the scheduled sampling.
        device: As in PyTorch.
        precision: `float32`, or `bfloat16` for convolutions in bfloat16 with weights and cell state in float32.
    """

    def __init__(
        self,
        protocol: Protocol,
        spec: ForecasterSpec,
        *,
        steps: int,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.protocol = protocol
        self.steps = steps
        self._seed = seed
        self._device = torch.device(device)
        self._bfloat16 = precision == "bfloat16"
        self.model = Forecaster(replace(spec, output_activation="identity"), device=self._device)
        load_canonical(self.model, initialise(self.model.spec, seed))
        self._scheduler: torch.optim.lr_scheduler.OneCycleLR | None = None
        rate = protocol.learning_rate
        if protocol.loss == "mse":
            self._optimiser: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
            self._scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self._optimiser, max_lr=rate, total_steps=steps, final_div_factor=1e4
            )
        else:
            self._optimiser = torch.optim.RMSprop(self.model.parameters(), lr=rate, alpha=0.9)

    def step(self, frames: np.ndarray, number: int) -> float:
        """Take the step of this number on sequences (batch, frame, 1, 64, 64), and return the loss before it."""
        self.model.train()
        with self._autocast():
            loss = self._loss(self._tensor(frames), number)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        if self._scheduler is not None:
            self._scheduler.step()
        return float(loss.detach())

    def forecast(self, inputs: np.ndarray, horizon: int) -> np.ndarray:
        """Return frames, or logits with the loss `cross_entropy` (batch, horizon, 1, 64, 64)."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            return self.model(self._tensor(inputs), horizon).float().cpu().numpy()

    def true_share(self, number: int) -> float:
        """Return the probability that an input frame after the first 10 is the true one in the step of this number."""
        stop = self.protocol.sampling * self.steps
        return max(0.0, 1.0 - (number + 1) / stop) if stop else 0.0

    def _loss(self, frames: Tensor, number: int) -> Tensor:
        if self.protocol.loss == "cross_entropy":
            logits = self.model(frames[:, :INPUTS], frames.shape[1] - INPUTS).float()
            total = F.binary_cross_entropy_with_logits(logits, frames[:, INPUTS:], reduction="sum")
            return total / len(frames)
        random = np.random.default_rng([self._seed, number])
        is_true = random.random((len(frames), frames.shape[1] - INPUTS - 1)) < self.true_share(number)
        return F.mse_loss(next_frames(self.model, frames, is_true).float(), frames[:, 1:])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def next_frames(model: Forecaster, frames: Tensor, is_true: np.ndarray) -> Tensor:
    """Return the forecast of each frame from the one before it (batch, frame − 1, 1, height, width).

    The first 10 inputs are true frames. After that, an input is the true frame where `is_true` (batch, frame − 11) is
    True, and the forecast of this frame elsewhere. With no true frame, the last 10 forecasts are `model(inputs, 10)`.
    """
    patches = F.pixel_unshuffle(frames.flatten(0, 1), model.spec.patch_size).unflatten(0, frames.shape[:2])
    hidden, state = model.encoder(patches[:, :INPUTS])
    forecasts = [model.head(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])]
    chosen = torch.from_numpy(is_true).to(frames.device)[:, :, None, None, None]
    for number in range(INPUTS, frames.shape[1] - 1):
        inputs = torch.where(chosen[:, number - INPUTS], patches[:, number], forecasts[-1][:, -1])
        hidden, state = model.encoder(inputs.unsqueeze(1), state)
        forecasts.append(model.head(hidden[:, 0]).unsqueeze(1))
    joined = torch.cat(forecasts, dim=1)
    return F.pixel_shuffle(joined.flatten(0, 1), model.spec.patch_size).unflatten(0, joined.shape[:2])
