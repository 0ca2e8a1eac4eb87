"""The ConvLSTM for Flax linen: the layer, and a cell in place of `flax.linen.ConvLSTMCell`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import get_annotations
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.frontend.arguments import cell_spec, check_spec_type, layer_spec
from convlstm.frontend.dropout import check_use
from convlstm.jax import functional
from convlstm.jax.inputs import as_type_of_carry, floating, state_from_pair
from convlstm.jax.linen_options import as_axes, read_options, read_padding
from convlstm.jax.segments import read_checkpoint
from convlstm.jax.weights import fresh, parameter_shapes
from convlstm.spec.choices import StackOptions
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import LayerSizes


class ConvLSTM(nn.Module):
    r"""A stack of convolutional LSTM layers over a sequence of fields (equations: `convlstm.flax.ConvLSTM`).

    Args:
        in_features: Channels of the input frames.
        hidden_features: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is
            given; an int, a tuple per spatial axis, or a list of these per layer.
        num_layers: Number of layers; None takes the length of a list of hidden channels, or 1.
        spec: Every option in one value, in place of the arguments before and of `options`.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        deterministic: True in evaluation; training draws from the rng `dropout`.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        checkpoint: Whether training keeps only √T of the steps' activations and computes the rest again in the backward
            pass; a number is the steps per segment. For stacks of one direction.
        parent: As in every linen module.
        name: As in every linen module.
        **options: Every further option of `ConvLSTMSpec`: stride, padding, direction, peephole, durations and so on.

    Shapes:
        x:     (batch, time, *space, in_features), or (time, *space, in_features) without a batch
        y:     (batch, time, *grid, D · hidden_features) with D = 2 if bidirectional (merge concat), else 1
        carry: State(h, c), tuples indexed layer · D + direction, forward first, each (batch, *grid, hidden_features)

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> layer = ConvLSTM(1, 8, kernel_size=3)
        >>> x = jnp.zeros((2, 5, 16, 16, 1))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> carry, y = layer.apply(variables, x)
        >>> y.shape, carry.h[0].shape
        ((2, 5, 16, 16, 8), (2, 16, 16, 8))
    """

    spec: ConvLSTMSpec
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    deterministic: bool = False
    generic: bool = False
    checkpoint: bool | int = False

    # the one field `spec` stands for all options: linen turns lists among its fields into tuples, which here mean
    # spatial axes and not layers
    def __init__(
        self,
        in_features: int | None = None,
        hidden_features: int | Sequence[int] | None = None,
        kernel_size: LayerSizes | None = None,
        num_layers: int | None = None,
        *,
        spec: ConvLSTMSpec | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        deterministic: bool = False,
        generic: bool = False,
        checkpoint: bool | int = False,
        parent: Any = nn.module._unspecified_parent,
        name: str | None = None,
        **options: Unpack[StackOptions],
    ) -> None:
        given = {"in_features": in_features, "hidden_features": hidden_features, "kernel_size": kernel_size}
        doubled = [key for key, value in (given | {"num_layers": num_layers} | options).items() if value is not None]
        if spec is not None:
            check_spec_type(spec, ConvLSTMSpec)
        if spec is None:
            spec = layer_spec(in_features, hidden_features, kernel_size, num_layers, options, in_argument="in_features")
        elif doubled:
            raise SpecError(
                "spec", expected="no other option with a spec", received=doubled[0], hint="Pass `spec`, or the options."
            )
        self.checkpoint = read_checkpoint(spec, checkpoint)
        self.spec, self.dtype = spec, None if dtype is None else floating("dtype", dtype)
        self.param_dtype = floating("param_dtype", param_dtype)
        self.deterministic, self.generic, self.parent, self.name = deterministic, generic, parent, name
        self.__post_init__()

    def __init_subclass__(cls, **options: Any) -> None:
        # lifted transforms make subclasses, for which linen would write an `__init__` of the fields alone
        if not get_annotations(cls):
            cls.__init__ = cls.__init__  # type: ignore[method-assign]
        super().__init_subclass__(**options)

    @nn.compact
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
        deterministic: bool | None = None,
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
            deterministic: Overrides the module's own.

        Returns:
            The carry State(h_n, c_n) and the outputs; with merge `separate` these are a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        quiet = self.deterministic if deterministic is None else deterministic
        check_use(dropout_masks, not quiet, False, "rngs", "Pass `deterministic=False`.")
        return functional.layer(
            self.spec,
            declared(self, self.spec, self.param_dtype),
            x,
            carry,
            steps=steps,
            lengths=lengths,
            mask=mask,
            durations=durations,
            gaps=gaps,
            key=random_key(self, self.spec, quiet) if dropout_masks is None else None,
            dropout_masks=dropout_masks,
            dtype=self.dtype,
            generic=self.generic,
            checkpoint=self.checkpoint,
        )

    @nn.nowrap
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

        Example:
            >>> layer = ConvLSTM(1, 8, kernel_size=3, zoneout_h=0.1)
            >>> masks = layer.sample_masks(jnp.ones((2, 5, 8, 8, 1)), jax.random.key(0))
            >>> masks[:3].masks[0, "forward"].zoneout_h.shape
            (2, 3, 8, 8, 8)
        """
        return functional.sample_masks(self.spec, x, key, steps, carry=carry, dtype=self.dtype)


class ConvLSTMCell(nn.RNNCellBase):
    """A cell with the arguments and the carry of `flax.linen.ConvLSTMCell`, for `nn.RNN` and loops.

    The carry is Flax's **(c, h)**, unlike everywhere else in this package. Unlike in Flax, the recurrent
    convolution keeps the size of the state at any stride and padding, there is one bias, and the forget gate's 1 is
    stored in it. Flax's weights need a conversion.

    Args:
        features: Channels of h and c.
        kernel_size: Kernel of both convolutions, a number per spatial axis; one number for all.
        strides: Stride of the input convolution, in the same forms; c and h have the size of its output.
        padding: `SAME`, `VALID`, or points per axis as a number or an equal pair.
        use_bias: Whether the gates have a bias.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        carry_init: Initialiser of c and h.
        options: Further options of `ConvLSTMSpec` that make sense in one step.
        deterministic: True in evaluation; training draws from the rng `dropout`.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).

    Example:
        >>> x = jnp.zeros((2, 5, 16, 16, 3))
        >>> rnn = nn.RNN(ConvLSTMCell(features=8, kernel_size=(3, 3)))
        >>> y, variables = rnn.init_with_output(jax.random.key(0), x)
        >>> y.shape
        (2, 5, 16, 16, 8)
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Any = "SAME"
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Any = nn.initializers.zeros_init()
    options: Mapping[str, Any] = FrozenDict()  # type: ignore[no-untyped-call]
    deterministic: bool = False
    generic: bool = False

    @nn.compact
    def __call__(self, carry: Any, inputs: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Take one step.

        Args:
            carry: (c, h) of the step before, which keeps its types.
            inputs: (*batch, *space, in_features).

        Returns:
            The carry (c, h) after the step, and h once more as output.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        if inputs is None:
            raise ShapeError(
                "inputs",
                expected="a frame, which gives the channels of Flax's cells",
                received="None",
                hint="Use the layer `ConvLSTM` with `in_features=0` for steps without input.",
            )
        spec, lead = self._spec(inputs.shape[-1]), inputs.shape[: -self.num_feature_axes]
        if isinstance(carry, State):
            raise StateError(
                "carry",
                expected="(c, h), the order of Flax's own cells",
                received="State(h, c)",
                hint="Pass `(state.c, state.h)`.",
            )
        one_batch = [a.reshape(-1, *a.shape[len(lead) :]) for a in (carry[1], carry[0], inputs)]
        params, key = declared(self, spec, self.param_dtype), random_key(self, spec, self.deterministic)
        (h, c), y = functional.cell(
            spec, params, State(*one_batch[:2]), one_batch[2], key=key, dtype=self.dtype, generic=self.generic
        )
        h, c, y = (array.reshape(*lead, *array.shape[1:]) for array in (h, c, y))
        return (c, h), y

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Return (c, h) before the first step.

        Args:
            rng: Key for an initialiser that draws.
            input_shape: (*batch, *space, in_features).

        Returns:
            c and h, each (*batch, *grid, features), wide enough for frames of any type.
        """
        lead, frame = input_shape[: -self.num_feature_axes], input_shape[-self.num_feature_axes :]
        init = lambda key, shape, dtype: self.carry_init(key, (*lead, *shape), dtype)  # noqa: E731
        h, c = functional.initial_carry(self._spec(frame[-1]), frame, init, rng, self.dtype, self.param_dtype)
        return c, h

    @property
    def num_feature_axes(self) -> int:
        """Axes of a frame: space and channels."""
        kernel = self.kernel_size
        return (len(kernel) if isinstance(kernel, Sequence) else self.options.get("spatial_dims", 2)) + 1

    @nn.nowrap
    def _spec(self, in_features: int) -> ConvLSTMSpec:
        fields = {
            "hidden_channels": self.features,
            "kernel_size": as_axes(self.kernel_size),
            "stride": 1 if self.strides is None else as_axes(self.strides),
            "padding": read_padding(self.padding),
            "bias": self.use_bias,
        }
        if repeated := sorted(fields.keys() & self.options.keys()):
            raise SpecError(
                "options", expected="no field of the cell", received=repeated[0], hint="Pass it as a field of the cell."
            )
        options = fields | {"spatial_dims": self.num_feature_axes - 1} | read_options(self.options)
        return cell_spec(in_features, options.pop("hidden_channels"), options.pop("kernel_size"), options)


class DurationAwareConvLSTMCell(nn.Module):
    """A cell whose input is a pair (frame, duration), as the body of `jax.lax.scan` over two sequences.

    Args:
        hidden_features: Channels of h and c.
        kernel_size: Kernel of both convolutions.
        duration_strategy: How the duration scales the candidate (`ConvLSTMSpec`), or a function of Δ / Δ0.
        options: Further options of `ConvLSTMSpec` that make sense in one step.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        deterministic: True in evaluation; training draws from the rng `dropout`.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).

    Example:
        >>> cell = DurationAwareConvLSTMCell(hidden_features=8, kernel_size=(3, 3))
        >>> frames, durations = jnp.zeros((5, 2, 16, 16, 1)), jnp.ones((5, 2))
        >>> initial_state = (jnp.zeros((2, 16, 16, 8)), jnp.zeros((2, 16, 16, 8)))
        >>> params = cell.init(jax.random.key(0), initial_state, (frames[0], durations[0]))["params"]
        >>> body = lambda carry, x: cell.apply({"params": params}, carry, x)
        >>> (h, c), outputs = jax.lax.scan(body, initial_state, (frames, durations))
        >>> outputs.shape
        (5, 2, 16, 16, 8)
    """

    hidden_features: int
    kernel_size: int | Sequence[int]
    duration_strategy: str | Callable[[Any], Any] = "mlp"
    options: Mapping[str, Any] = FrozenDict()  # type: ignore[no-untyped-call]
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    deterministic: bool = False
    generic: bool = False

    @nn.compact
    def __call__(self, carry: Any, inputs: tuple[Any, Any]) -> tuple[Any, jax.Array]:
        """Take one step.

        Args:
            carry: (h, c) of the step before; None means zeros.
            inputs: Frame (batch, *space, in_features), or without the batch axis, and its duration: a number, (),
                (batch,) or (batch, 1).

        Returns:
            The carry (h, c) after the step, and h once more as output.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        x, duration = inputs
        options = dict(duration_strategy=self.duration_strategy, **read_options(self.options))
        spec = cell_spec(jnp.shape(x)[-1], self.hidden_features, self.kernel_size, options)
        state, y = functional.cell(
            spec,
            declared(self, spec, self.param_dtype),
            state_from_pair(carry),
            x,
            duration=duration,
            key=random_key(self, spec, self.deterministic),
            dtype=self.dtype,
            generic=self.generic,
        )
        return as_type_of_carry(carry, state), y


def declared(module: nn.Module, spec: ConvLSTMSpec, param_dtype: Any) -> dict[str, Any]:
    """Return the parameters of a spec from a linen module, which starts them from one key when it is initialised."""
    param_dtype = floating("param_dtype", param_dtype)
    once = cache(lambda: fresh(spec, module.make_rng("params"), param_dtype))

    def start(key: jax.Array, name: str) -> dict[str, jax.Array]:
        # where parameters are there already, linen asks for their shapes alone, without the rng `params`
        tree = once() if module.is_initializing() else fresh(spec, key, param_dtype)
        group: dict[str, jax.Array] = tree[name]
        return group

    return {name: module.param(name, start, name) for name in parameter_shapes(spec)}


def random_key(module: nn.Module, spec: ConvLSTMSpec, deterministic: bool) -> jax.Array | None:
    """Return a key of the rng `dropout`, or None in evaluation and without a random part."""
    return None if deterministic or not spec.is_random else module.make_rng("dropout")
