"""The ConvLSTM for Haiku: the layer and the cell, used inside `hk.transform`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Unpack

import haiku as hk
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State
from convlstm.errors import ShapeError, SpecError
from convlstm.frontend.arguments import cell_spec, layer_spec
from convlstm.frontend.dropout import check_use
from convlstm.jax import functional, inputs
from convlstm.jax.inputs import as_type_of_carry, state_from_pair
from convlstm.jax.weights import fresh, parameter_shapes
from convlstm.spec.choices import StackOptions
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import LayerSizes, PerAxis


class ConvLSTM(hk.Module):
    r"""A stack of convolutional LSTM layers over a sequence of fields (equations: `convlstm.flax.ConvLSTM`).

    Args:
        in_features: Channels of the input frames.
        hidden_features: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is
            given; an int, a tuple per spatial axis, or a list of these per layer.
        num_layers: Number of layers; None takes the length of a list of hidden channels, or 1.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        name: As in every Haiku module.
        **options: Every further option of `ConvLSTMSpec`: stride, padding, direction, peephole, durations and so on.

    Shapes:
        x:     (batch, time, *space, in_features), or (time, *space, in_features) without a batch
        y:     (batch, time, *grid, D · hidden_features) with D = 2 if bidirectional (merge concat), else 1
        carry: State(h, c), tuples indexed layer · D + direction, forward first, each (batch, *grid, hidden_features)

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> layer = hk.without_apply_rng(hk.transform(lambda x: ConvLSTM(1, 8, kernel_size=3)(x)))
        >>> x = jnp.zeros((2, 5, 16, 16, 1))
        >>> params = layer.init(jax.random.key(0), x)
        >>> carry, y = layer.apply(params, x)
        >>> y.shape, carry.h[0].shape
        ((2, 5, 16, 16, 8), (2, 16, 16, 8))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int],
        kernel_size: LayerSizes,
        num_layers: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        name: str | None = None,
        **options: Unpack[StackOptions],
    ) -> None:
        super().__init__(name=name)
        self.spec = layer_spec(
            in_features, hidden_features, kernel_size, num_layers, options, in_argument="in_features"
        )
        self.dtype, self.param_dtype, self.generic = dtype, inputs.floating("param_dtype", param_dtype), generic

    def __call__(
        self,
        x: ArrayLike | None,
        carry: State | None = None,
        *,
        steps: int | None = None,
        lengths: ArrayLike | Sequence[int] | None = None,
        mask: ArrayLike | None = None,
        durations: ArrayLike | None = None,
        gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
        dropout_masks: DropoutMasks | None = None,
        deterministic: bool = False,
    ) -> tuple[State, Any]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, *space, in_features), or without the batch axis. None in a layer without input
                (`in_features=0`), which needs `steps` and a carry.
            carry: State (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            steps: Number of steps of a layer without input.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.
            deterministic: True in evaluation; training draws from Haiku's own key.

        Returns:
            The carry State(h_n, c_n) and the outputs; with merge `separate` these are a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        check_use(dropout_masks, not deterministic, False, "key", "Pass `deterministic=False`.")
        return functional.layer(
            self.spec,
            declared(self.spec, self.param_dtype),
            x,
            carry,
            steps=steps,
            lengths=lengths,
            mask=mask,
            durations=durations,
            gaps=gaps,
            key=random_key(self.spec, deterministic) if dropout_masks is None else None,
            dropout_masks=dropout_masks,
            dtype=self.dtype,
            generic=self.generic,
        )

    def sample_masks(
        self, x: ArrayLike | None, key: jax.Array, steps: int | None = None, *, carry: State | None = None
    ) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            x: Frames as of a call, of which batch, size and type count. None in a layer without input, which needs
                `steps` and `carry`.
            key: Random key.
            steps: Number of steps of the whole sequence; None takes that of x.
            carry: Initial State(h_0, c_0) as of a call, of a layer without input.

        Returns:
            The masks, per-step ones (batch, time, *grid, channels); without any mask for a layer without a random part.
        """
        return functional.sample_masks(self.spec, x, key, steps, carry=carry, dtype=self.dtype)


class ConvLSTMCell(hk.RNNCore):
    """One convolutional LSTM layer, one step a call, for `hk.dynamic_unroll` and loops (equations: `ConvLSTM`).

    Args:
        hidden_features: Channels of h and c.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is given.
        input_shape: Spatial size of the frames, as in `hk.Conv2DLSTM`; for `initial_state` of a batch size.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        generic: Leave every derivative to JAX.
        name: As in every Haiku module.
        **options: Every further option of `ConvLSTMSpec` that makes sense in one step.

    Example:
        >>> def call(frames):
        ...     core = ConvLSTMCell(8, kernel_size=3, input_shape=(16, 16))
        ...     return hk.dynamic_unroll(core, frames, core.initial_state(2))
        >>> unroll = hk.without_apply_rng(hk.transform(call))
        >>> frames = jnp.zeros((5, 2, 16, 16, 1))
        >>> y, state = unroll.apply(unroll.init(jax.random.key(0), frames), frames)
        >>> y.shape, state.h.shape
        ((5, 2, 16, 16, 8), (2, 16, 16, 8))
    """

    def __init__(
        self,
        hidden_features: int,
        kernel_size: PerAxis,
        *,
        input_shape: Sequence[int] | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        name: str | None = None,
        **options: Unpack[StackOptions],
    ) -> None:
        super().__init__(name=name)
        self._hidden_features, self._kernel_size, self._options = hidden_features, kernel_size, options
        self._input_shape = None if input_shape is None else tuple(input_shape)
        self.dtype, self.param_dtype, self.generic = dtype, inputs.floating("param_dtype", param_dtype), generic

    def __call__(
        self,
        x: Any,
        state: State | hk.LSTMState | None,
        *,
        duration: ArrayLike | None = None,
        gap: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Take one step.

        Args:
            x: (batch, *space, in_features), or without the batch axis; a pair (frame, duration) in place of `duration`;
                None in a cell without input, which needs a state.
            state: State (h, c) of the step before, or `hk.LSTMState`; None means zeros.
            duration: Δ of this step: a number, (), (batch,) or (batch, 1).
            gap: Time since the last valid frame, of the same shapes; for `memory_decay`.
            deterministic: True in evaluation; training draws from Haiku's own key.

        Returns:
            h as output, and the state after the step, of the type of the state passed in.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: for a bare pair, or a state that does not fit the batch or the grid.
        """
        states = (State, hk.LSTMState)
        if isinstance(x, states) or (x is None and not isinstance(state, states)):
            raise ShapeError(
                "x",
                expected="frames, followed by the state",
                received=type(x).__name__,
                hint="Call `cell(x, state)`, in the order of `hk.RNNCore`.",
            )
        if isinstance(x, tuple) and duration is None:
            x, duration = _frame_and_duration(x)
        is_lstm_state = isinstance(state, hk.LSTMState)
        before = State(state.hidden, state.cell) if isinstance(state, hk.LSTMState) else state
        if before is not None:
            hint = "Pass `State(h=..., c=...)`, or `hk.LSTMState(hidden=..., cell=...)`."
            inputs.check_state_type("state", before, hint)
        spec = self._spec(0 if x is None else jnp.shape(x)[-1])
        after, y = functional.cell(
            spec,
            declared(spec, self.param_dtype),
            before,
            x,
            duration=duration,
            gap=gap,
            key=random_key(spec, deterministic),
            dtype=self.dtype,
            generic=self.generic,
        )
        return y, hk.LSTMState(after.h, after.c) if is_lstm_state else after

    def initial_state(self, batch_size: int | Sequence[int] | None) -> State:
        """Return zeros before the first step.

        Args:
            batch_size: Rows of the batch, or None for states without a batch axis, for a cell with `input_shape`; or
                the shape of a frame (batch, *space, in_features), or without the batch axis.

        Returns:
            State(h, c), each (batch, *grid, hidden_features).

        Raises:
            SpecError: for a batch size in a cell without `input_shape`.
        """
        if isinstance(batch_size, Sequence):
            shape = tuple(batch_size)
        elif self._input_shape is None:
            raise SpecError(
                "input_shape",
                expected="the spatial size of the frames, for a state of this batch size",
                received="None",
                hint="Build the cell with `input_shape=(height, width)`, or pass the shape of a frame.",
            )
        else:
            lead = () if batch_size is None else (batch_size,)
            groups = self._options.get("groups", 1)
            shape = (*lead, *self._input_shape, groups if isinstance(groups, int) else 1)
        zeros, key = jax.nn.initializers.zeros, jax.random.key(0)
        return functional.initial_carry(self._spec(shape[-1]), shape, zeros, key, self.dtype, self.param_dtype)

    def _spec(self, in_features: int) -> ConvLSTMSpec:
        return cell_spec(in_features, self._hidden_features, self._kernel_size, self._options)


class DurationAwareConvLSTMCell(ConvLSTMCell):
    """A cell whose input is a pair (frame, duration), as the body of `jax.lax.scan` over two sequences.

    The carry comes first, as in the code that this cell replaces. `ConvLSTMCell` with a `duration_strategy` has the
    order of `hk.RNNCore`.

    Args:
        hidden_features: Channels of h and c.
        kernel_size: Kernel of both convolutions.
        duration_strategy: How the duration scales the candidate (`ConvLSTMSpec`), or a function of Δ / Δ0.
        **options: Every further argument of `ConvLSTMCell`.

    Example:
        >>> def step(carry, inputs):
        ...     return DurationAwareConvLSTMCell(hidden_features=8, kernel_size=(3, 3))(carry, inputs)
        >>> cell = hk.without_apply_rng(hk.transform(step))
        >>> frame, duration = jnp.zeros((2, 16, 16, 1)), jnp.ones(2)
        >>> params = cell.init(jax.random.key(0), None, (frame, duration))
        >>> cell.apply(params, None, (frame, duration))[1].shape
        (2, 16, 16, 8)
    """

    def __init__(
        self,
        hidden_features: int,
        kernel_size: PerAxis,
        *,
        duration_strategy: str | Callable[[Any], Any] = "mlp",
        **options: Any,
    ) -> None:
        super().__init__(hidden_features, kernel_size, duration_strategy=duration_strategy, **options)

    def __call__(  # type: ignore[override]
        self, carry: Any, inputs: tuple[Any, Any], *, deterministic: bool = False
    ) -> tuple[Any, jax.Array]:
        """Take one step.

        Args:
            carry: (h, c) of the step before, bare or a State; None means zeros.
            inputs: Frame (batch, *space, in_features), or without the batch axis, and its duration: a number, (),
                (batch,) or (batch, 1).
            deterministic: True in evaluation; training draws from Haiku's own key.

        Returns:
            The carry (h, c) after the step, and h once more as output.
        """
        x, duration = inputs
        y, state = super().__call__(x, state_from_pair(carry), duration=duration, deterministic=deterministic)
        return as_type_of_carry(carry, state), y


def _frame_and_duration(x: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(x) != 2:
        raise ShapeError(
            "x",
            expected="frames, or a pair (frame, duration)",
            received=f"{len(x)} items",
            hint="Pass a gap by name, as `gap`.",
        )
    return x


class _Group(hk.Module):
    """The parameters of one layer and direction, under one name."""

    def __call__(self, shapes: dict[str, tuple[int, ...]], dtype: Any, start: Any) -> dict[str, jax.Array]:
        return {
            name: hk.get_parameter(name, shape, dtype, init=lambda *_, name=name: start()[name])
            for name, shape in shapes.items()
        }


def declared(spec: ConvLSTMSpec, param_dtype: Any) -> dict[str, Any]:
    """Return the parameters of a spec inside a Haiku module, which starts them from one key when it is initialised."""
    start = cache(lambda: fresh(spec, hk.next_rng_key(), param_dtype))
    return {
        group: _Group(name=group)(shapes, param_dtype, lambda group=group: start()[group])
        for group, shapes in parameter_shapes(spec).items()
    }


def random_key(spec: ConvLSTMSpec, deterministic: bool) -> jax.Array | None:
    """Return Haiku's next key, or None in evaluation and without a random part.

    While Haiku initialises, the key is a constant: the next one would change the initial weights of every later
    module.
    """
    if deterministic or not spec.is_random:
        return None
    return jax.random.key(0) if hk.running_init() else hk.next_rng_key()
