"""Training a forecaster in PyTorch, on whatever device and precision Lightning Fabric is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from convlstm.engine.torch.native import is_native
from convlstm.errors import ConfigError
from convlstm.frontend import trainer
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample, event_loss, weighted_loss
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.weights import load_canonical, to_canonical

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

# Fabric announces the precision on standard error, where a command says nothing but what is wrong
logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)


class Trainer(trainer.Trainer):
    """A PyTorch forecaster with its optimiser."""

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        accelerator, devices = _fabric_device(None if optimisation is None else optimisation.device)
        super().__init__(optimisation, _best_precision(accelerator))
        self._fabric = Fabric(accelerator=accelerator, devices=devices, precision=_PRECISIONS[self._precision])
        self.module = Forecaster(spec)
        load_canonical(self.module, weights)
        kernels: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.module.named_parameters():
            (kernels if any(word in name for word in DECAYED) else others).append(parameter)
        groups = [
            {"params": kernels, "weight_decay": self._options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-3)
        self._model, self._optimiser = self._fabric.setup(self.module, optimiser)

    @property
    def description(self) -> str:
        """Framework, compiled operators if they are used, device and precision in words."""
        device = self._fabric.device
        native = " with convlstm-native" if is_native(torch.empty(0, device=device)) else ""
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"PyTorch {torch.__version__}{native}, {where}, {self._precision}"

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        generator = torch.Generator(device=self._fabric.device).manual_seed(key)
        self._model.train()
        loss = self._loss(sample, generator)
        self._optimiser.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        self._fabric.clip_gradients(
            self._model, self._optimiser, max_norm=self._options.clip_norm, error_if_nonfinite=False
        )
        self._optimiser.step()
        return float(loss.detach())

    def _evaluate(self, sample: Sample) -> float:
        self._model.eval()
        with torch.inference_mode():
            return float(self._loss(sample, None))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        self._model.eval()
        with torch.inference_mode():
            result: Array = self._forecast(sample, horizon, None).float().cpu().numpy()
            return result

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return to_canonical(self.module)

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        load_canonical(self.module, weights)

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}.{moment}": () if moment == "step" else tuple(parameter.shape)
            for name, parameter in self.module.named_parameters()
            for moment in _MOMENTS
        }

    def _moments_to_arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for name, parameter in self.module.named_parameters():
            moments = self._optimiser.state.get(parameter, {})
            arrays |= {f"{name}.{moment}": moments[moment].cpu().numpy().copy() for moment in moments}
        return arrays

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        self._optimiser.state.clear()
        for name, parameter in self.module.named_parameters() if moments else ():
            self._optimiser.state[parameter] = {
                m: torch.from_numpy(moments[f"{name}.{m}"].copy()).to("cpu" if m == "step" else parameter.device)
                for m in _MOMENTS
            }

    def _is_memory_error(self, error: RuntimeError) -> bool:
        # PyTorch has an error class for memory of devices, and none for the host's
        return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

    def _loss(self, sample: Sample, generator: torch.Generator | None) -> Tensor:
        forecast = self._forecast(sample, sample.targets.shape[1], generator)
        targets, weight = self._tensor(sample.targets), self._tensor(sample.weight)
        loss: Tensor
        if self.module.spec.thresholds:
            loss = event_loss(forecast.float(), targets, weight, F.softplus, torch.sum, torch.clamp)
        else:
            share = self._options.absolute_error
            loss = weighted_loss(forecast.float(), targets, weight, share, torch.square, torch.sum, torch.clamp)
        return loss

    def _forecast(self, sample: Sample, horizon: int, generator: torch.Generator | None) -> Tensor:
        times: dict[str, Any] = {name: None if a is None else self._tensor(a) for name, a in sample.times().items()}
        result: Tensor = self._model(self._tensor(sample.inputs), horizon, generator=generator, **times)
        return result

    def _tensor(self, array: Array) -> Tensor:
        tensor: Tensor = self._fabric.to_device(torch.from_numpy(array))
        return tensor


def set_threads(count: int) -> None:
    """Set the number of threads that PyTorch computes with."""
    torch.set_num_threads(count)


def _fabric_device(name: str | None) -> tuple[str, int | list[int]]:
    """Return a device such as cpu, cuda or cuda:1 as the accelerator and devices of Fabric."""
    if name is None:
        return "auto", 1
    available = {"cpu": ("cpu", 1)} | {f"cuda:{n}": ("cuda", [n]) for n in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        available["mps"] = ("mps", 1)
    chosen = available.get("cuda:0" if name == "cuda" else name)
    if chosen is None:
        raise ConfigError(
            "device",
            expected=f"a device of this machine ({', '.join(available)})",
            received=repr(name),
            hint="Pass one of these, or leave `--device` out.",
        )
    return chosen


def _best_precision(accelerator: str) -> str:
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    quick = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if quick else "float32"
