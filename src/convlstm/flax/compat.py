"""The call form of another ConvLSTM for JAX: a duration-aware linen cell that takes (frame, duration) pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike

from convlstm.flax import functional
from convlstm.flax.inputs import as_type_of_carry, state_from_pair
from convlstm.flax.linen import declared, random_key
from convlstm.flax.options import read_options
from convlstm.frontend.arguments import cell_spec


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
        plain: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).

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
    plain: bool = False

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
            plain=self.plain,
        )
        return as_type_of_carry(carry, state), y
