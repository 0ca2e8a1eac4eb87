"""The forecaster for PyTorch: frames in, any number of future frames out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.engine.torch.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.torch.buffers import release_memory
from convlstm.engine.torch.modes import is_traced, transforms_are_active
from convlstm.engine.torch.recurrence import State
from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.loading import HoldsExtra
from convlstm.spec import calls
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import enlargement
from convlstm.torch import inputs
from convlstm.torch.dropout import check_generator, sample_masks
from convlstm.torch.layer import ConvLSTM, States
from convlstm.torch.module import ExportableModule
from convlstm.torch.stack import StepInputs, run_stack
from convlstm.torch.weights import reset

_LONGEST_PRODUCT = 128
"""Longest side of a grid that is enlarged by products with matrices."""


class Forecaster(HoldsExtra, ExportableModule):
    r"""Encoder–forecaster of Shi et al. (2015), or one stack fed its own predictions (`rollout="feedback"`).

    Frames are folded into patches; the encoder's final states start a second stack, whose first layer has no input;
    a 1×1 convolution over the hidden states of all its layers makes each future frame. No future frame is needed,
    and the horizon is free. Definition: `convlstm.reference.forecaster`.

    Args:
        spec: Every option of the model, as a `ForecasterSpec` or as the dict of `ForecasterSpec.to_dict`.
        device: As in every PyTorch module.
        dtype: As in every PyTorch module.

    Shapes:
        frames:  (batch, time, frame_channels, height, width), height and width multiples of patch_size
        returns: (batch, horizon, output_channels, height, width): frames, or logits with `spec.thresholds`

    Attributes:
        spec: The options as a `ForecasterSpec`.
        encoder: The stack over the input frames.
        forecaster: The stack over the lead times; None with `rollout="feedback"`.
        head: The 1×1 convolution of the hidden states.
        detail: The two convolutions of the last frames; None without `spec.detail_channels`.
        output: The 1×1 convolution at full resolution; None without `spec.detail_channels`.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=[8, 8], kernel_size=3)
        >>> model = Forecaster(ForecasterSpec(encoder=stack, patch_size=4))
        >>> tuple(model(torch.zeros(2, 6, 1, 32, 32), horizon=12).shape)
        (2, 12, 1, 32, 32)
    """

    def __init__(
        self,
        spec: ForecasterSpec | dict[str, Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        spec = ForecasterSpec.from_dict(spec) if isinstance(spec, dict) else spec
        check_spec_type(spec, ForecasterSpec)
        self.spec = spec
        self.encoder = ConvLSTM.from_spec(spec.encoder, device=device, dtype=dtype)
        self.forecaster = None
        if spec.rollout == "states":
            self.forecaster = ConvLSTM.from_spec(spec.forecaster, device=device, dtype=dtype)
        self.head = nn.Conv2d(spec.head_channels, spec.head_outputs, 1, bias=spec.head_bias, device=device, dtype=dtype)
        self.detail, self.output = None, None
        if spec.detail_channels:
            frames = spec.detail_frames * spec.frame_channels
            self.detail = nn.ModuleList(
                nn.Conv2d(
                    channels, spec.detail_channels, spec.detail_kernel, padding="same", device=device, dtype=dtype
                )
                for channels in (frames, spec.detail_channels)
            )
            self.output = nn.Conv2d(spec.detail_features, spec.output_channels, 1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self, seed: int | None = None) -> None:
        """Initialise the parameters again, as the contract defines it.

        Args:
            seed: Any integer of at least 0; None draws one from PyTorch's global generator.
        """
        reset(self, seed)

    def forward(
        self,
        frames: Tensor,
        horizon: int,
        *,
        state: States | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        durations: Tensor | float | None = None,
        lead_durations: Tensor | float | None = None,
        gaps: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_state: bool = False,
    ) -> Any:
        """Forecast the frames that follow.

        Args:
            frames: (batch, time, frame_channels, height, width).
            horizon: Number of frames to forecast, at least 1.
            state: Initial (h_0, c_0) of the encoder, as a call with `return_state` returned them; None means zeros.
            lengths: Valid frames of each row, 0 to time; the rest is masked.
            mask: True where an input frame is valid (batch, time).
            durations: Δ of the input frames (batch, time), for a duration strategy.
            lead_durations: Δ of the forecast frames (batch, horizon); None means the reference duration.
            gaps: Time since the last valid frame (batch, time), for memory decay.
            generator: Source of random numbers in training.
            return_state: Whether (h_n, c_n) of the encoder after the last frame follow the forecast.

        Returns:
            (batch, horizon, output_channels, height, width): frames, or logits with `spec.thresholds`; with
            `return_state` a pair of them and (h_n, c_n).

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid, or if a row that continues from it has no valid
                frame and the output needs one (`residual`, `detail_channels`). In compiled code and on an accelerator,
                zero is used for it.
        """
        self._check(frames, horizon)
        check_generator(generator, frames)
        lead = inputs.CallReader(frames, frames.shape[0], horizon).lead_durations(self.spec, lead_durations)
        reader = inputs.CallReader(frames, frames.shape[0], frames.shape[1])
        valid = reader.valid_steps(lengths, mask)
        reader.check_last_frames(self.spec, state, valid)
        # on single frames, since the older ONNX exporter knows no other form
        patched = F.pixel_unshuffle(frames.flatten(0, 1), self.spec.patch_size).unflatten(0, frames.shape[:2])
        _, (h, c) = self.encoder(patched, state, mask=valid, durations=durations, gaps=gaps, generator=generator)
        future = self._future(frames, valid, list(zip(h, c, strict=True)), horizon, lead, generator)
        if not return_state:
            return future
        # the forecaster saved these arrays for its backward pass, and the caller may change them in place
        return future, (tuple(part.clone() for part in h), tuple(part.clone() for part in c))

    def _future(
        self,
        frames: Tensor,
        mask: Tensor | None,
        states: list[State],
        horizon: int,
        lead: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the forecast from the encoder's states after the last frame."""
        if self.forecaster is None:
            return self._feedback(_last_valid(frames, mask), states, horizon, generator)
        hidden = self._hidden(states, horizon, lead, generator)
        if self.spec.detail_channels:
            output = self._detailed_output(hidden, _last_frames(frames, mask, self.spec.detail_frames))
        else:
            output = self._finish(self._head(hidden))
        if self.spec.thresholds:
            return output
        future = ACTIVATION_FUNCTIONS[self.spec.output_activation](output)
        if self.spec.residual:
            return future + _last_valid(frames, mask).unsqueeze(1)
        # an activation saves its result for the backward pass, and the caller may change the forecast in place
        return future if self.spec.output_activation == "identity" else future.clone()

    def _hidden(
        self, states: list[State], horizon: int, lead: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return the hidden states of all forecaster layers (batch, horizon, Σ hidden, height, width)."""
        assert self.forecaster is not None
        spec, h = self.spec.forecaster, states[0][0]
        like = h.new_empty((horizon, *h.shape[:1]))
        dropout_masks = sample_masks(spec, like, tuple(h.shape[2:]), horizon, generator) if self.training else None
        given = StepInputs(durations=lead, dropout_masks=dropout_masks)
        weights_of = self.forecaster.layer_weights
        outputs, _ = run_stack(
            spec, weights_of, None, states, given, steps=horizon, every_layer=True, rows=self.forecaster.rows
        )
        return torch.cat([parts[0] for parts in outputs], dim=2).transpose(0, 1)

    def _feedback(self, last: Tensor, states: list[State], horizon: int, generator: torch.Generator | None) -> Tensor:
        """Return the frames of the roll-out; in training each fed-back step is a call with its own dropout masks."""
        spec, future = self.spec.encoder, list[Tensor]()
        for step in range(horizon):
            patches = self._head(states[-1][0].unsqueeze(1)).squeeze(1)
            frame = ACTIVATION_FUNCTIONS[self.spec.output_activation](patches)
            last = frame + last if self.spec.residual else frame
            future.append(last)
            if step == horizon - 1:
                break
            patched = F.pixel_unshuffle(last, self.spec.patch_size).unsqueeze(0)
            dropout_masks = (
                sample_masks(spec, patched, tuple(patched.shape[3:]), 1, generator) if self.training else None
            )
            _, states = run_stack(
                spec,
                self.encoder.layer_weights,
                patched,
                states,
                StepInputs(dropout_masks=dropout_masks),
                steps=1,
                rows=self.encoder.rows,
            )
        return torch.stack(future, dim=1)

    def _head(self, hidden: Tensor) -> Tensor:
        patches = self.head(hidden.flatten(0, 1))
        frames: Tensor = F.pixel_shuffle(patches, self.spec.patch_size).unflatten(0, hidden.shape[:2])
        return frames

    def _finish(self, output: Tensor) -> Tensor:
        """Return the logits in their order, of a forecaster with thresholds."""
        return _ordered_logits(output) if self.spec.thresholds else output

    def _detailed_output(self, hidden: Tensor, last: Tensor) -> Tensor:
        """Return the output (batch, horizon, output_channels, height, width) from features of the last frames."""
        assert self.detail is not None
        first, second = self.detail
        is_recorded = _is_recorded()
        in_place = not is_recorded and not torch.is_autocast_enabled(last.device.type)  # which mixes types
        convolved = F.silu(first(last), inplace=in_place)
        again = F.silu(second(convolved), inplace=in_place)
        features = torch.cat([convolved.add_(again) if in_place else convolved + again, last], dim=1)
        del convolved, again
        if is_recorded:
            return self._output_of(features, hidden, in_place=False)
        release_memory()  # of the encoder's arrays, which this call needs no more
        # one lead time at a time, so that a large grid needs the memory of one beyond the result
        parts = (self._output_of(features, part, in_place=in_place) for part in hidden.split(1, dim=1))
        first_part = next(parts)
        output = first_part.new_empty((*hidden.shape[:2], *first_part.shape[2:]))
        for step, part in enumerate(chain([first_part], parts)):
            output[:, step : step + 1] = part
        return output

    def _output_of(self, features: Tensor, hidden: Tensor, *, in_place: bool) -> Tensor:
        """Return the output at lead times from the features (batch, feature, height, width) and hidden states."""
        assert self.output is not None
        coarse = self.head(hidden.flatten(0, 1))
        fine = _enlarge(coarse, features.shape[-2], features.shape[-1]).unflatten(0, hidden.shape[:2])
        gain, offset = fine.chunk(2, dim=2)
        channels = self.spec.detail_channels
        if in_place:
            modulated = gain.add_(1).mul_(features.unsqueeze(1)).add_(offset)
            F.silu(modulated[:, :, :channels], inplace=True)
        else:
            modulated = features.unsqueeze(1) * (1 + gain) + offset
            modulated = torch.cat([F.silu(modulated[:, :, :channels]), modulated[:, :, channels:]], dim=2)
        return self._finish(self.output(modulated.flatten(0, 1)).unflatten(0, hidden.shape[:2]))

    def _check(self, frames: Tensor, horizon: int) -> None:
        inputs.check_tensor("frames", frames, self.head.weight)
        calls.check_forecast(self.spec, frames.shape)
        calls.check_horizon(horizon, torch.SymInt)


def _is_recorded() -> bool:
    """Return whether a graph may be recorded; elsewhere arrays of this call may be changed in place to save memory."""
    is_traced_or_compiled = torch.compiler.is_compiling() or is_traced()
    return torch.is_grad_enabled() or is_traced_or_compiled or transforms_are_active()


def _enlarge(coarse: Tensor, height: int, width: int) -> Tensor:
    """Enlarge the grid to a multiple of its height and width by linear interpolation.

    In training two products with the matrices of `geometry.enlargement` take half the time of PyTorch's operator, whose
    backward pass is slow. The time of a product increases with the side of the grid, so that large grids use the
    operator.
    """
    rows, columns = coarse.shape[-2:]
    is_recorded = torch.compiler.is_compiling() or is_traced()
    if is_recorded or not torch.is_grad_enabled() or max(rows, columns) > _LONGEST_PRODUCT:
        return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    downward = coarse.new_tensor(enlargement(rows, height // rows))
    across = coarse.new_tensor(enlargement(columns, width // columns))
    return downward @ (coarse @ across.T)


def _ordered_logits(output: Tensor) -> Tensor:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    first, others = output[:, :, :1], output[:, :, 1:]
    return torch.cat([first, first - F.softplus(others).cumsum(dim=2)], dim=2)


def _last_frames(frames: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Return the last frames as channels (batch, count · channel, height, width); masked or absent ones are zero."""
    valid = None if mask is None else torch.as_tensor(mask, device=frames.device).bool()
    if not isinstance(frames.shape[1], torch.SymInt):  # of an open number of steps, a slice would assume enough
        frames, valid = frames[:, -count:], None if valid is None else valid[:, -count:]
    if valid is not None:
        frames = torch.where(valid[..., None, None, None], frames, torch.zeros_like(frames))
    return F.pad(frames, (0, 0) * 3 + (count, 0))[:, -count:].flatten(1, 2)


def _last_valid(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Return each row's last valid frame, zeros where there is none."""
    if mask is None:
        return frames[:, -1]
    rows, steps = (torch.arange(n, device=frames.device) for n in frames.shape[:2])
    last = torch.where(torch.as_tensor(mask, device=frames.device).bool(), steps, -1).amax(dim=1)
    chosen = frames[rows, last]
    return torch.where((last >= 0)[:, None, None, None], chosen, torch.zeros_like(chosen))
