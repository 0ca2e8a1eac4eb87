"""The forecaster for MLX: frames in, any number of future frames out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from convlstm.engine.mlx.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.mlx.convolution import convolve
from convlstm.engine.mlx.recurrence import State
from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.loading import HoldsExtra
from convlstm.mlx import inputs
from convlstm.mlx.dropout import sample_masks
from convlstm.mlx.layer import ConvLSTM, States
from convlstm.mlx.stack import run_stack
from convlstm.mlx.weights import reset
from convlstm.spec import calls
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import enlargement


class Forecaster(HoldsExtra, nn.Module):
    r"""Encoder–forecaster of Shi et al. (2015), or one stack fed its own predictions (`rollout="feedback"`).

    Frames are folded into patches; the encoder's final states start a second stack, whose first layer has no input;
    a 1×1 convolution over the hidden states of all its layers makes each future frame. No future frame is needed,
    and the horizon is free. Definition: `convlstm.reference.forecaster`.

    Args:
        spec: Every option of the model.
        dtype: Type of the parameters.

    Shapes:
        frames:  (batch, time, height, width, frame_channels), height and width multiples of patch_size
        returns: (batch, horizon, height, width, output_channels): frames, or logits with `spec.thresholds`

    Attributes:
        spec: The options as a `ForecasterSpec`.
        encoder: The stack over the input frames.
        forecaster: The stack over the lead times; None with `rollout="feedback"`.
        head: The 1×1 convolution of the hidden states, which is a linear map of the channels.
        detail: The two convolutions of the last frames; None without `spec.detail_channels`.
        output: The 1×1 convolution at full resolution; None without `spec.detail_channels`.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=[8, 8], kernel_size=3)
        >>> model = Forecaster(ForecasterSpec(encoder=stack, patch_size=4))
        >>> model(mx.zeros((2, 6, 32, 32, 1)), horizon=12).shape
        (2, 12, 32, 32, 1)
    """

    def __init__(self, spec: ForecasterSpec, *, dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        check_spec_type(spec, ForecasterSpec)
        self.spec = spec
        self.encoder = ConvLSTM.from_spec(spec.encoder, dtype=dtype)
        self.forecaster = None
        if spec.rollout == "states":
            self.forecaster = ConvLSTM.from_spec(spec.forecaster, dtype=dtype)
        self.head = nn.Linear(spec.head_channels, spec.head_outputs, bias=spec.head_bias)
        self.detail, self.output = None, None
        if spec.detail_channels:
            features, kernel = spec.detail_channels, spec.detail_kernel
            self.detail = [
                nn.Conv2d(channels, features, kernel, padding=kernel // 2)
                for channels in (spec.detail_frames * spec.frame_channels, features)
            ]
            self.output = nn.Linear(spec.detail_features, spec.output_channels)
        self.set_dtype(dtype)
        self.reset_parameters()

    def reset_parameters(self, seed: int | None = None) -> None:
        """Initialise the parameters again, as the contract defines it.

        Args:
            seed: Any integer of at least 0; None draws one from MLX's global generator.
        """
        reset(self, seed)

    def __call__(
        self,
        frames: mx.array,
        horizon: int,
        *,
        state: States | None = None,
        lengths: mx.array | Sequence[int] | None = None,
        mask: mx.array | None = None,
        durations: mx.array | float | None = None,
        lead_durations: mx.array | float | None = None,
        gaps: mx.array | None = None,
        key: mx.array | None = None,
        return_state: bool = False,
    ) -> Any:
        """Forecast the frames that follow.

        Args:
            frames: (batch, time, height, width, frame_channels), of the weights' type; with weights in low
                precision float32 is also right, and keeps what `residual` adds exact.
            horizon: Number of frames to forecast, at least 1.
            state: Initial (h_0, c_0) of the encoder, as a call with `return_state` returned them; None means zeros.
            lengths: Valid frames of each row, 0 to time; the rest is masked.
            mask: True where an input frame is valid (batch, time).
            durations: Δ of the input frames (batch, time), for a duration strategy.
            lead_durations: Δ of the forecast frames (batch, horizon); None means the reference duration.
            gaps: Time since the last valid frame (batch, time), for memory decay.
            key: Source of random numbers in training, from `mx.random.key`; None means MLX's global one.
            return_state: Whether (h_n, c_n) of the encoder after the last frame follow the forecast.

        Returns:
            (batch, horizon, height, width, output_channels): frames, or logits with `spec.thresholds`; with
            `return_state` a pair of them and (h_n, c_n).

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid, or if a row that continues from it has no valid
                frame and the output needs one (`residual`, `detail_channels`). In compiled code and on an accelerator,
                zero is used for it.
        """
        self._check(frames, horizon)
        inputs.check_key(key)
        lead = inputs.CallReader(frames, frames.shape[0], horizon).lead_durations(self.spec, lead_durations)
        reader = inputs.CallReader(frames, frames.shape[0], frames.shape[1])
        valid = reader.valid_steps(lengths, mask)
        reader.check_last_frames(self.spec, state, valid)
        encoding, rolling = (None, None) if key is None else mx.random.split(key)
        patched = self._patched(frames)
        _, (h, c) = self.encoder(patched, state, mask=valid, durations=durations, gaps=gaps, key=encoding)
        future = self._future(frames, valid, list(zip(h, c, strict=True)), horizon, lead, rolling)
        return (future, (h, c)) if return_state else future

    def _future(
        self,
        frames: mx.array,
        mask: mx.array | None,
        states: list[State],
        horizon: int,
        lead: mx.array | None,
        key: mx.array | None,
    ) -> mx.array:
        """Return the forecast from the encoder's states after the last frame."""
        if self.forecaster is None:
            return self._feedback(_last_valid(frames, mask), states, horizon, key)
        hidden = self._hidden(self.forecaster, states, horizon, lead, key)
        if self.spec.detail_channels:
            output = self._detailed_output(hidden, _last_frames(frames, mask, self.spec.detail_frames))
        else:
            output = self._head(hidden)
        if self.spec.thresholds:
            return _ordered_logits(output)
        future = ACTIVATION_FUNCTIONS[self.spec.output_activation](output)
        return future + _last_valid(frames, mask)[:, None] if self.spec.residual else future

    def _hidden(
        self, stack: ConvLSTM, states: list[State], horizon: int, lead: mx.array | None, key: mx.array | None
    ) -> mx.array:
        """Return the hidden states of all forecaster layers (batch, horizon, height, width, Σ hidden)."""
        h = states[0][0]
        like = mx.zeros((horizon, h.shape[0]), dtype=h.dtype)
        outputs, _ = run_stack(
            stack.spec,
            stack.layer_weights,
            None,
            states,
            steps=horizon,
            durations=lead,
            dropout_masks=sample_masks(stack.spec, like, tuple(h.shape[1:-1]), horizon, key) if self.training else None,
        )
        return mx.concatenate([parts[0] for parts in outputs], axis=-1).swapaxes(0, 1)

    def _feedback(self, last: mx.array, states: list[State], horizon: int, key: mx.array | None) -> mx.array:
        """Return the frames of the roll-out; in training each fed-back step is a call with its own dropout masks."""
        spec, future = self.spec.encoder, list[mx.array]()
        keys = [None] * horizon if key is None else list(mx.random.split(key, horizon))
        for step in range(horizon):
            frame = ACTIVATION_FUNCTIONS[self.spec.output_activation](self._head(states[-1][0]))
            last = frame + last if self.spec.residual else frame
            future.append(last)
            if step == horizon - 1:
                break
            patched = self._patched(last)[None]
            dropout_masks = (
                sample_masks(spec, patched, tuple(patched.shape[2:-1]), 1, keys[step]) if self.training else None
            )
            _, states = run_stack(
                spec, self.encoder.layer_weights, patched, states, steps=1, dropout_masks=dropout_masks
            )
        return mx.stack(future, axis=1)

    def _patched(self, frames: mx.array) -> mx.array:
        """Fold p×p patches into channels (..., height / p, width / p, c·p² + dy·p + dx), in the type of the weights."""
        p = self.spec.patch_size
        *lead, height, width, channels = frames.shape
        split = frames.reshape(*lead, height // p, p, width // p, p, channels)
        n = len(lead)
        folded = split.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
        return folded.reshape(*lead, height // p, width // p, channels * p**2).astype(self.encoder.dtype)

    def _head(self, hidden: mx.array) -> mx.array:
        """Return the output (..., height, width, channel) from hidden states on the patches' grid."""
        p = self.spec.patch_size
        *lead, height, width, _ = hidden.shape
        split = self.head(hidden).reshape(*lead, height, width, self.spec.output_channels, p, p)
        n = len(lead)
        unfolded = split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
        return unfolded.reshape(*lead, height * p, width * p, self.spec.output_channels)

    def _detailed_output(self, hidden: mx.array, last: mx.array) -> mx.array:
        """Return the output (batch, horizon, height, width, output_channels) from features of the last frames."""
        assert self.detail is not None
        assert self.output is not None
        first, second = self.detail
        convolved = _silu(_convolve_same(first, last))
        convolved = convolved + _silu(_convolve_same(second, convolved))
        features = mx.concatenate([convolved, last.astype(convolved.dtype)], axis=-1)
        gain, offset = _enlarge(self.head(hidden), self.spec.patch_size).split(2, axis=-1)
        modulated = features[:, None] * (1 + gain) + offset
        channels = self.spec.detail_channels
        modulated = mx.concatenate([_silu(modulated[..., :channels]), modulated[..., channels:]], axis=-1)
        result: mx.array = self.output(modulated.astype(self.output.weight.dtype))
        return result

    def _check(self, frames: mx.array, horizon: int) -> None:
        inputs.check_array("frames", frames, *inputs.frame_types(self.encoder.dtype))
        calls.check_forecast(self.spec, frames.shape, channels_last=True)
        calls.check_horizon(horizon)


def _convolve_same(convolution: nn.Conv2d, x: mx.array) -> mx.array:
    """Return a convolution of x (batch, height, width, channel) in the type of its kernel, with zeros around x."""
    weight = convolution.weight  # not the module's own call, which has single precision in float64
    widths = tuple((side // 2, side // 2) for side in weight.shape[1:-1])
    z = convolve(x.astype(weight.dtype), weight, widths, ("zeros", "zeros"))
    return z + convolution.bias


def _silu(x: mx.array) -> mx.array:
    return x * ACTIVATION_FUNCTIONS["sigmoid"](x)


def _enlarge(x: mx.array, factor: int) -> mx.array:
    """Enlarge height and width of x (..., height, width, channel) by linear interpolation."""
    *lead, height, width, channels = x.shape
    rows, columns = (mx.array(enlargement(n, factor), dtype=x.dtype) for n in (height, width))
    x = (rows @ x.reshape(*lead, height, width * channels)).reshape(*lead, height * factor, width, channels)
    return columns @ x


def _ordered_logits(output: mx.array) -> mx.array:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    logits = [output[..., :1]]
    for k in range(1, output.shape[-1]):  # a sum in another order could increase by its rounding
        logits.append(logits[-1] - ACTIVATION_FUNCTIONS["softplus"](output[..., k : k + 1]))
    return mx.concatenate(logits, axis=-1)


def _last_frames(frames: mx.array, mask: mx.array | None, count: int) -> mx.array:
    """Return the last frames as channels (batch, height, width, count · channel); masked or absent ones are zero."""
    last = frames[:, -count:]
    if mask is not None:
        valid = mx.array(mask).astype(mx.bool_)[:, -count:, None, None, None]
        last = mx.where(valid, last, mx.zeros_like(last))
    last = last.transpose(0, 2, 3, 1, 4).flatten(3)
    absent = count * frames.shape[-1] - last.shape[-1]
    return mx.pad(last, [(0, 0), (0, 0), (0, 0), (absent, 0)])


def _last_valid(frames: mx.array, mask: mx.array | None) -> mx.array:
    """Return each row's last valid frame, zeros where there is none."""
    if mask is None:
        return frames[:, -1]
    rows, steps = (mx.arange(n) for n in frames.shape[:2])
    last = mx.where(mx.array(mask).astype(mx.bool_), steps, -1).max(axis=1)
    chosen = frames[rows, mx.maximum(last, 0)]
    return mx.where((last >= 0)[:, None, None, None], chosen, mx.zeros_like(chosen))
