"""The forecaster for Keras: frames in, any number of future frames out."""

from __future__ import annotations

from typing import Any

import keras

from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.layouts import channels_last_shape
from convlstm.frontend.loading import HoldsExtra
from convlstm.keras import inputs
from convlstm.keras.dropout import sample_masks, swap_time_and_batch
from convlstm.keras.engines import State, Tensor, at_hand, to_array
from convlstm.keras.stack import cell_dtype, run_stack
from convlstm.keras.stack_layer import ConvLSTMStack, States
from convlstm.keras.weights import load_canonical, seed_of
from convlstm.spec.calls import check_forecast, check_horizon, check_last_frames, lead_durations_or_reference
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import enlargement
from convlstm.spec.types import Array
from convlstm.weights.canonical import canonical_shapes, initialise

_OUTPUTS = {
    "identity": lambda x: x,
    "sigmoid": keras.ops.sigmoid,
    "relu": keras.ops.relu,
    "softplus": keras.ops.softplus,
}
_STACKS = ("encoder.", "forecaster.")


@keras.saving.register_keras_serializable("convlstm")
class Forecaster(HoldsExtra, inputs.MasksOnly, keras.Model):  # type: ignore[misc]
    """Encoder–forecaster of Shi et al. (2015), or one stack fed its own predictions (`rollout="feedback"`).

    Frames are folded into patches; the encoder's final states start a second stack, whose first layer has no input;
    a 1×1 convolution over the hidden states of all its layers makes each future frame. No future frame is needed,
    and the horizon is free. Definition: `convlstm.reference.forecaster`.

    Args:
        spec: Every option of the model.
        horizon: Number of frames to forecast where a call does not say, as in `fit` and `export`.
        seed: Of the initial weights and of the dropout masks in training; None draws one.
        **options: As of every Keras model (name, dtype, trainable).

    Shapes:
        frames:  (batch, time, height, width, frame_channels), height and width multiples of patch_size
        returns: (batch, horizon, height, width, output_channels), in at least float32: frames, or logits with
            `spec.thresholds`

    Attributes:
        spec: The options as a `ForecasterSpec`.
        encoder: The stack over the input frames.
        forecaster: The stack over the lead times; None with `rollout="feedback"`.
        output_variables: The kernels and biases of the convolutions that make the output, by canonical key.

    Example:
        >>> import numpy as np
        >>> from convlstm import ConvLSTMSpec
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=[8, 8], kernel_size=3)
        >>> model = Forecaster(ForecasterSpec(encoder=stack, patch_size=4))
        >>> tuple(model(np.zeros((2, 6, 32, 32, 1)), horizon=12).shape)
        (2, 12, 32, 32, 1)
    """

    def __init__(
        self, spec: ForecasterSpec, *, horizon: int | None = None, seed: int | None = None, **options: Any
    ) -> None:
        check_spec_type(spec, ForecasterSpec)
        super().__init__(autocast=False, **options)
        self.spec, self.horizon, self.seed = spec, horizon, seed
        self.supports_masking = True
        self._frame_size: tuple[int | None, ...] | None = None
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.encoder = ConvLSTMStack(spec.encoder, name="encoder", dtype=self.dtype_policy)
        self.forecaster = None
        if spec.rollout == "states":
            self.forecaster = ConvLSTMStack(spec.forecaster, name="forecaster", dtype=self.dtype_policy)
        self.output_variables = {
            key: self.add_weight(shape=channels_last_shape(key, shape), name=key.replace(".", "_"), autocast=False)
            for key, shape in sorted(canonical_shapes(spec).items(), reverse=True)
            if not key.startswith(_STACKS)
        }
        self.built = True
        load_canonical(self, initialise(spec, seed_of(self.seed_generator)))

    def canonical_variables(self) -> dict[str, Any]:
        """Return the variables by canonical key."""
        stacks = {"encoder.": self.encoder} | ({} if self.forecaster is None else {"forecaster.": self.forecaster})
        variables: dict[str, Any] = {}
        for prefix, stack in stacks.items():
            variables |= {prefix + key: variable for key, variable in stack.canonical_variables().items()}
        return variables | self.output_variables

    @inputs.errors_unchanged
    def call(
        self,
        frames: Tensor,
        horizon: int | None = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        lead_durations: Any = None,
        gaps: Any = None,
        state: States | None = None,
        return_state: bool = False,
    ) -> Any:
        """Forecast the frames that follow.

        Args:
            frames: (batch, time, height, width, frame_channels).
            horizon: Number of frames to forecast, at least 1; None takes the model's own.
            mask: True where an input frame is valid (batch, time).
            training: Whether dropout and zoneout are applied.
            durations: Δ of the input frames (batch, time), for a duration strategy.
            lead_durations: Δ of the forecast frames (batch, horizon); None means the reference duration.
            gaps: Time since the last valid frame (batch, time), for memory decay.
            state: Initial (h_0, c_0) of the encoder, as a call with `return_state` returned them; None means zeros.
            return_state: Whether (h_n, c_n) of the encoder after the last frame follow the forecast.

        Returns:
            (batch, horizon, height, width, output_channels): frames, or logits with `spec.thresholds`; with
            `return_state` a pair of them and (h_n, c_n).

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid, or if a row that continues from it has no valid
                frame and the output needs one (`residual`, `detail_channels`). In a graph and on an accelerator,
                zero is used for it.
        """
        frames, steps, valid, lead = self._read(frames, horizon, mask, lead_durations)
        if state is not None and valid is not None:
            check_last_frames(self.spec, to_array(valid) if at_hand(valid) else None)
        patched = space_to_depth(frames, self.spec.patch_size)
        size = tuple(keras.ops.shape(patched)[2:-1])
        masks = self._sample_masks(self.spec.encoder, frames, size, keras.ops.shape(frames)[1], training)
        _, (h, c) = self.encoder(
            patched,
            state,
            mask=valid,
            training=training,
            durations=durations,
            gaps=gaps,
            dropout_masks=None if masks is None else masks.map_steps(swap_time_and_batch),
        )
        future = self._future(frames, valid, list(zip(h, c, strict=True)), steps, lead, training)
        return (future, (h, c)) if return_state else future

    def _future(
        self,
        frames: Tensor,
        valid: Tensor | None,
        states: list[State],
        steps: int,
        lead: Tensor | None,
        training: bool,
    ) -> Tensor:
        """Return the forecast from the encoder's states after the last frame."""
        if self.forecaster is None:
            return self._feedback(_last_valid(frames, valid), states, steps, training)
        size = tuple(keras.ops.shape(states[0][0])[1:-1])
        dropout_masks = self._sample_masks(self.spec.forecaster, frames, size, steps, training)
        outputs, _ = run_stack(
            self.spec.forecaster,
            self.forecaster.weights_of,
            None,
            states,
            steps=steps,
            durations=lead,
            dropout_masks=dropout_masks,
        )
        hidden = keras.ops.swapaxes(keras.ops.concatenate([parts[0] for parts in outputs], axis=-1), 0, 1)
        return self.output_of(hidden, frames, valid)

    def output_of(self, hidden: Tensor, frames: Tensor, valid: Tensor | None) -> Tensor:
        """Return the forecast from the hidden states of all forecaster layers (batch, horizon, *grid, Σ hidden)."""
        if self.spec.detail_channels:
            output = self._detailed_output(hidden, _last_frames(frames, valid, self.spec.detail_frames))
        else:
            output = depth_to_space(self._convolve("head", hidden), self.spec.patch_size)
        if self.spec.thresholds:
            return _ordered_logits(output)
        future = _OUTPUTS[self.spec.output_activation](output)
        return future + keras.ops.expand_dims(_last_valid(frames, valid), 1) if self.spec.residual else future

    @inputs.errors_unchanged
    def compute_output_spec(
        self,
        frames: Any,
        horizon: int | None = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        lead_durations: Any = None,
        gaps: Any = None,
        state: States | None = None,
        return_state: bool = False,
    ) -> Any:
        """Return the results as symbols, for inputs that `call` takes."""
        frames, steps, valid, _ = self._read(frames, horizon, mask, lead_durations)
        batch, time, *size, _ = frames.shape
        grid = (None if n is None else n // self.spec.patch_size for n in size)
        patched = keras.KerasTensor((batch, time, *grid, self.spec.patch_channels), dtype=frames.dtype)
        _, states = self.encoder.compute_output_spec(patched, state, mask=valid, durations=durations, gaps=gaps)
        shape = (batch, steps, *size, self.spec.output_channels)
        future = keras.KerasTensor(shape, dtype=cell_dtype(self.compute_dtype))
        return (future, states) if return_state else future

    def export(self, filepath: Any, format: str = "tf_saved_model", **options: Any) -> None:
        """Write the forecast of `horizon` frames from frames alone, as every Keras model writes its call.

        Args:
            filepath: Where to.
            format: As of `keras.Model.export`.
            **options: As of `keras.Model.export`. Without `input_signature` batch and time are dynamic, and frames have
                the size of the last call.
        """
        if options.get("input_signature") is None and self._frame_size is not None:
            shape = (None, None, *self._frame_size, self.spec.frame_channels)
            options["input_signature"] = [keras.InputSpec(shape=shape, dtype=cell_dtype(self.compute_dtype))]
        super().export(filepath, format, **options)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Return None: no output carries the mask on."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments the model was made with."""
        config = {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}
        return config | {"spec": self.spec.to_dict(), "horizon": self.horizon, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Forecaster:
        """Return the model that `get_config` describes."""
        return cls(**config | {"spec": ForecasterSpec.from_dict(config["spec"])})

    def _feedback(self, last: Tensor, states: list[State], horizon: int, training: bool) -> Tensor:
        """Return the frames of the roll-out; in training each fed-back step is a call with its own dropout masks."""
        spec, future = self.spec.encoder, list[Tensor]()
        for step in range(horizon):
            patches = self._convolve("head", keras.ops.expand_dims(states[-1][0], 1))
            frame = _OUTPUTS[self.spec.output_activation](depth_to_space(patches, self.spec.patch_size))[:, 0]
            last = frame + last if self.spec.residual else frame
            future.append(last)
            if step == horizon - 1:
                break
            patched = space_to_depth(keras.ops.expand_dims(last, 1), self.spec.patch_size)
            dropout_masks = self._sample_masks(spec, last, tuple(keras.ops.shape(patched)[2:-1]), 1, training)
            x = keras.ops.cast(keras.ops.swapaxes(patched, 0, 1), self.compute_dtype)
            _, states = run_stack(
                spec, self.encoder.weights_of, x, states, steps=1, dropout_masks=dropout_masks, training=training
            )
        return keras.ops.stack(future, axis=1)

    def _sample_masks(self, spec: Any, like: Tensor, size: tuple[Any, ...], steps: Any, training: bool) -> Any:
        batch = keras.ops.shape(like)[0]
        return sample_masks(spec, self.compute_dtype, batch, size, steps, self.seed_generator) if training else None

    def _detailed_output(self, hidden: Tensor, last: Tensor) -> Tensor:
        """Return the output (batch, horizon, height, width, output_channels) from features of the last frames."""
        convolved = keras.ops.silu(self._convolve("detail.0", last))
        convolved = convolved + keras.ops.silu(self._convolve("detail.1", convolved))
        features = keras.ops.concatenate([convolved, keras.ops.cast(last, convolved.dtype)], axis=-1)
        gain, offset = keras.ops.split(enlarge(self._convolve("head", hidden), self.spec.patch_size), 2, axis=-1)
        modulated = keras.ops.expand_dims(features, 1) * (1.0 + gain) + offset
        channels = self.spec.detail_channels
        modulated = keras.ops.concatenate(
            [keras.ops.silu(modulated[..., :channels]), modulated[..., channels:]], axis=-1
        )
        return self._convolve("output", modulated)

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        """Return W ∗ x + b in at least float32, zeros around x (*batch, height, width, in)."""
        weight, bias = (self.output_variables.get(f"{name}.{part}") for part in ("weight", "bias"))
        weight = keras.ops.cast(keras.ops.convert_to_tensor(weight), self.compute_dtype)
        x = keras.ops.cast(x, self.compute_dtype)
        if tuple(weight.shape[:2]) == (1, 1):
            # the operator: keras.ops.matmul computes float64 in float32 on PyTorch
            z = x @ weight[0, 0]
        else:
            # TensorFlow's float32 convolution of an empty batch has the shape of the input
            shape = (*keras.ops.shape(x)[:-1], weight.shape[-1])
            z = keras.ops.reshape(keras.ops.conv(x, weight, padding="same", data_format="channels_last"), shape)
        z = keras.ops.cast(z, cell_dtype(self.compute_dtype))
        return z if bias is None else z + keras.ops.cast(bias, z.dtype)

    def _read(self, frames: Any, horizon: Any, mask: Any, lead_durations: Any) -> tuple[Any, ...]:
        """Return frames in at least float32, the horizon, mask and durations of the forecast frames, all checked."""
        valid, frames = inputs.read_mask(mask, frames), inputs.tensor("frames", frames, cell_dtype(self.compute_dtype))
        check_forecast(self.spec, tuple(frames.shape), channels_last=True)
        self._frame_size = tuple(frames.shape[2:4])
        horizon = self.horizon if horizon is None else horizon
        check_horizon(horizon)
        lead_durations = lead_durations_or_reference(self.spec, lead_durations)
        if lead_durations is None:
            return frames, horizon, valid, None
        if inputs.is_symbol(frames):
            like = keras.KerasTensor((frames.shape[0], horizon), dtype=frames.dtype)
        else:
            like = keras.ops.zeros((keras.ops.shape(frames)[0], horizon), dtype=frames.dtype)
        return frames, horizon, valid, inputs.per_step("lead_durations", lead_durations, like)


def space_to_depth(frames: Tensor, patch: int) -> Tensor:
    """Fold p×p patches of frames (batch, time, height, width, channel) into channels, in the order c·p² + dy·p + dx."""
    batch, steps, height, width, channels = keras.ops.shape(frames)
    split = keras.ops.reshape(frames, (batch * steps, height // patch, patch, width // patch, patch, channels))
    folded = keras.ops.transpose(split, (0, 1, 3, 5, 2, 4))
    return keras.ops.reshape(folded, (batch, steps, height // patch, width // patch, channels * patch**2))


def depth_to_space(patched: Tensor, patch: int) -> Tensor:
    """Undo `space_to_depth`."""
    batch, steps, height, width, channels = keras.ops.shape(patched)
    split = keras.ops.reshape(patched, (batch * steps, height, width, channels // patch**2, patch, patch))
    unfolded = keras.ops.transpose(split, (0, 1, 4, 2, 5, 3))
    return keras.ops.reshape(unfolded, (batch, steps, height * patch, width * patch, channels // patch**2))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Enlarge the grid of x (batch, time, height, width, channel) as `geometry.enlargement` does along each axis.

    Between three cells in a row, all points of the middle one are weighted means of the three. So the middle rows of
    the matrix for three cells serve a grid of any size, also of one that only a graph knows.
    """
    if factor == 1:
        return x
    weights = enlargement(3, factor)[factor : 2 * factor]
    batch, steps, height, width, channels = keras.ops.shape(x)
    flat = keras.ops.reshape(x, (batch * steps, height, width, channels))
    rows = keras.ops.reshape(_interpolate(flat, 1, weights), (batch * steps, height * factor, width, channels))
    return keras.ops.reshape(_interpolate(rows, 2, weights), (batch, steps, height * factor, width * factor, channels))


def _interpolate(x: Tensor, axis: int, weights: Array) -> Tensor:
    """Return the points of each cell along an axis of x in a new axis after it, from weights (points, 3)."""
    start = (slice(None),) * axis
    first, last = x[(*start, slice(None, 1))], x[(*start, slice(-1, None))]
    before = keras.ops.concatenate([first, x[(*start, slice(None, -1))]], axis=axis)
    after = keras.ops.concatenate([x[(*start, slice(1, None))], last], axis=axis)
    dtype, later_axes = keras.backend.standardize_dtype(x.dtype), len(x.shape) - axis - 1
    columns = weights.T.reshape(3, -1, *(1,) * later_axes)
    parts = (
        keras.ops.expand_dims(cell, axis + 1) * keras.ops.convert_to_tensor(column, dtype=dtype)
        for cell, column in zip((before, x, after), columns, strict=True)
    )
    return sum(parts)


def _ordered_logits(output: Tensor) -> Tensor:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    # a sum for each threshold: keras.ops.cumsum computes float64 in float32 on PyTorch
    logits = [output[..., :1]]
    for k in range(1, output.shape[-1]):
        logits.append(logits[-1] - keras.ops.softplus(output[..., k : k + 1]))
    return keras.ops.concatenate(logits, axis=-1)


def _last_frames(frames: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Return the last frames as channels (batch, height, width, count · channel); masked or absent ones are zero."""
    if mask is not None:
        valid = keras.ops.reshape(mask, (*keras.ops.shape(frames)[:2], 1, 1, 1))
        frames = keras.ops.where(valid, frames, keras.ops.zeros_like(frames))
    steps = frames.shape[1]
    absent = max(count - steps, 0) if isinstance(steps, int) else count - 1
    last = keras.ops.pad(frames, ((0, 0), (absent, 0), (0, 0), (0, 0), (0, 0)))[:, -count:]
    batch, _, height, width, channels = keras.ops.shape(last)
    return keras.ops.reshape(keras.ops.transpose(last, (0, 2, 3, 1, 4)), (batch, height, width, count * channels))


def _last_valid(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Return each row's last valid frame, zeros where there is none."""
    if mask is None:
        return frames[:, -1]
    steps = keras.ops.arange(keras.ops.shape(frames)[1])
    last = keras.ops.max(keras.ops.where(mask, steps, -1), axis=1, keepdims=True)
    chosen = keras.ops.reshape(steps == last, (-1, keras.ops.shape(frames)[1], 1, 1, 1))
    return keras.ops.sum(keras.ops.where(chosen, frames, keras.ops.zeros_like(frames)), axis=1)
