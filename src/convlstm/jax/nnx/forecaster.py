"""The forecaster for Flax nnx: frames in, any number of future frames out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State
from convlstm.frontend.arguments import check_spec_type
from convlstm.jax.forecasting import forecast
from convlstm.jax.nnx.module import RandomSource, SpecModule
from convlstm.spec.forecaster import ForecasterSpec


class Forecaster(SpecModule):
    r"""Encoder–forecaster of Shi et al. (2015), or one stack fed its own predictions (`rollout="feedback"`).

    Frames are folded into patches; the encoder's final states start a second stack, whose first layer has no input;
    a 1×1 convolution over the hidden states of all its layers makes each future frame. No future frame is needed,
    and the horizon is free. Definition: `convlstm.reference.forecaster`.

    Args:
        spec: Every option of the model.
        dtype: Type of the convolutions; None takes that of frames and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        rngs: Keys: `params` for the weights, `dropout` for the masks in training.

    Shapes:
        frames:  (batch, time, height, width, frame_channels), height and width multiples of patch_size
        returns: (batch, horizon, height, width, output_channels): frames, or logits with `spec.thresholds`

    Attributes:
        spec: The options as a `ForecasterSpec`.
        encoder: The parameters of the stack over the input frames.
        forecaster: Those of the stack over the lead times; not there with `rollout="feedback"`.
        head: Those of the 1×1 convolution of the hidden states.
        detail_0, detail_1: Those of the convolutions of the last frames; not there without `spec.detail_channels`.
        output: Those of the 1×1 convolution at full resolution; not there without `spec.detail_channels`.
        deterministic: True in evaluation, as `nnx.Module.eval` and `train` set it.

    Raises:
        SpecError: for anything but a `ForecasterSpec`.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=[8, 8], kernel_size=3)
        >>> model = Forecaster(ForecasterSpec(encoder=stack, patch_size=4), rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 6, 32, 32, 1)), horizon=12).shape
        (2, 12, 32, 32, 1)
    """

    spec: ForecasterSpec

    def __init__(
        self,
        spec: ForecasterSpec,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        check_spec_type(spec, ForecasterSpec)
        super().__init__(spec, dtype, param_dtype, generic, rngs)

    def __call__(
        self,
        frames: ArrayLike,
        horizon: int,
        *,
        carry: State | None = None,
        lengths: ArrayLike | Sequence[int] | None = None,
        mask: ArrayLike | None = None,
        durations: ArrayLike | None = None,
        lead_durations: ArrayLike | None = None,
        gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
        rngs: RandomSource | None = None,
        return_carry: bool = False,
    ) -> Any:
        """Forecast the frames that follow.

        Args:
            frames: (batch, time, height, width, frame_channels).
            horizon: Number of frames to forecast, at least 1; static under `jit`.
            carry: Initial State(h_0, c_0) of the encoder, as a call with `return_carry` returned it; None means zeros.
            lengths: Valid frames of each row, 0 to time; the rest is masked.
            mask: True where an input frame is valid (batch, time).
            durations: Δ of the input frames (batch, time), for a duration strategy.
            lead_durations: Δ of the forecast frames (batch, horizon); None means the reference duration.
            gaps: Time since the last valid frame (batch, time), for memory decay.
            rngs: Source of random numbers in training: `nnx.Rngs` or a key; None takes the model's own.
            return_carry: Whether the carry of the encoder after the last frame precedes the forecast, as in `nnx.RNN`.

        Returns:
            (batch, horizon, height, width, output_channels): frames, or logits with `spec.thresholds`; with
            `return_carry` a pair of State(h_n, c_n) and them.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid, or if a row that continues from it has no valid
                frame and the output needs one (`residual`, `detail_channels`). In compiled code and on an accelerator,
                zero is used for it.
        """
        return forecast(
            self.spec,
            self.params,
            frames,
            horizon,
            carry=carry,
            lengths=lengths,
            mask=mask,
            durations=durations,
            lead_durations=lead_durations,
            gaps=gaps,
            key=self._key(rngs),
            dtype=self.dtype,
            generic=self.generic,
            return_carry=return_carry,
        )
