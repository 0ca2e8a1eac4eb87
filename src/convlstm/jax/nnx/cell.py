"""One step of the convolutional LSTM for Flax nnx."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State
from convlstm.frontend.arguments import cell_spec
from convlstm.jax import functional
from convlstm.jax.nnx.module import RandomSource, SpecModule, one_key
from convlstm.spec.choices import LayerOptions
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import PerAxis


class ConvLSTMCell(SpecModule, nnx.RNNCellBase):
    r"""One convolutional LSTM layer, one step a call, for `nnx.RNN`, loops and streams (equations: `ConvLSTM`).

    Args:
        in_features: Channels of a frame.
        hidden_features: Channels of h and c.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is given.
        stride: Stride of the input convolution; h and c live on its output grid.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution.
        groups: Groups of the input convolution, inside each gate.
        bias: Whether the gates have a bias.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        rngs: Keys: `params` for the weights, `dropout` for the masks in training.
        **options: Every further option of `ConvLSTMSpec` that makes sense in one step.

    Shapes:
        x:    (batch, *space, in_features), or (*space, in_features) without a batch
        h, c: (batch, *grid, hidden_features)

    Raises:
        SpecError: for options out of range, or that need the whole sequence (two directions).

    Example:
        >>> cell = ConvLSTMCell(1, 8, kernel_size=3, rngs=nnx.Rngs(0))
        >>> carry, y = cell(None, jnp.zeros((2, 16, 16, 1)))
        >>> y.shape, carry.c.shape
        ((2, 16, 16, 8), (2, 16, 16, 8))
        >>> nnx.RNN(cell)(jnp.zeros((2, 5, 16, 16, 1))).shape
        (2, 5, 16, 16, 8)
    """

    spec: ConvLSTMSpec

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        kernel_size: PerAxis,
        *,
        stride: PerAxis = 1,
        padding: str | PerAxis = "same",
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        rngs: nnx.Rngs,
        **options: Unpack[LayerOptions],
    ) -> None:
        spec = cell_spec(
            in_features,
            hidden_features,
            kernel_size,
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias, **options},
            in_argument="in_features",
        )
        super().__init__(spec, dtype, param_dtype, generic, rngs)

    @property
    def num_feature_axes(self) -> int:
        """Axes of a frame: space and channels."""
        return self.spec.spatial_dims + 1

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: RandomSource | None = None,
        carry_init: Any = jax.nn.initializers.zeros,
    ) -> State:
        """Return the state before the first step.

        Args:
            input_shape: Shape of a frame, (batch, *space, in_features) or without the batch axis.
            rngs: Keys for an initialiser that draws: `nnx.Rngs`, a stream or a key.
            carry_init: Initialiser of h and c.

        Returns:
            State(h, c), each (batch, *grid, hidden_features), wide enough for frames of any type.

        Raises:
            ShapeError: for another number of axes or channels, or an empty grid.
        """
        key = jax.random.key(0) if rngs is None else one_key(rngs, "carry")
        return functional.initial_carry(
            self.spec, input_shape, carry_init, key, self.dtype, jax.tree.leaves(self.params)[0].dtype
        )

    def __call__(
        self,
        carry: State | None,
        x: ArrayLike | None,
        *,
        duration: ArrayLike | None = None,
        gap: ArrayLike | None = None,
        rngs: RandomSource | None = None,
    ) -> tuple[State, jax.Array]:
        """Take one step.

        Args:
            carry: State (h, c) of the step before, which keeps its types; None means zeros.
            x: (batch, *space, in_features), or without the batch axis; None in a cell without input
                (`in_features=0`), which needs a carry.
            duration: Δ of this step: a number, (), (batch,) or (batch, 1).
            gap: Time since the last valid frame, of the same shapes; for `memory_decay`.
            rngs: Source of random numbers in training: `nnx.Rngs` or a key; None takes the cell's own.

        Returns:
            The carry State(h, c) after the step, and h once more as output.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        return functional.cell(
            self.spec,
            self.params,
            carry,
            x,
            duration=duration,
            gap=gap,
            key=self._key(rngs),
            dtype=self.dtype,
            generic=self.generic,
        )
