"""A stack of layers over a time-first sequence, and the random draws of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from convlstm.engine.jax import recurrence as engine
from convlstm.engine.jax.recurrence import DropoutMasks, State
from convlstm.errors import ShapeError
from convlstm.flax.weights import Params, layer_name, layer_weights
from convlstm.spec.stack import ConvLSTMSpec


class Draws(NamedTuple):
    """The random draws of one call in training.

    Args:
        masks: Draws inside each layer, by layer and direction as in the tree of parameters: `layers_0_forward`.
        dropout: Factor on each layer's merged output but the last's (time, batch, *grid, channels), or None.
    """

    masks: Mapping[str, DropoutMasks]
    dropout: tuple[Array | None, ...] = ()


def draw(
    spec: ConvLSTMSpec, key: Array | None, batch: int, input_size: tuple[int, ...], steps: int, dtype: Any = jnp.float32
) -> Draws | None:
    """Draw every mask that a call in training needs.

    Args:
        spec: The stack.
        key: Random key; each mask follows from it, its layer, direction and kind alone. None means evaluation.
        batch: Rows of the batch.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        dtype: Type of the factors.

    Returns:
        The draws, or None in evaluation and where the stack has no random part.

    Example:
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3, recurrent_dropout=0.5)
        >>> draws = draw(spec, jax.random.key(0), batch=2, input_size=(16, 16), steps=5)
        >>> draws.masks["layers_0_forward"].recurrent.shape
        (2, 16, 16, 8)
    """
    if key is None or not spec.is_random:
        return None

    sizes = (input_size, *spec.grids(input_size))
    masks = {}
    for layer in spec.layers:
        entering = (batch, *sizes[layer.index], layer.in_channels)
        inside = (batch, *sizes[layer.index + 1], layer.hidden_channels)
        for way, direction in enumerate(spec.directions):
            place = (layer.index, way)
            masks[layer_name(layer.index, direction)] = DropoutMasks(
                _kept(key, (*place, 0), spec.input_dropout, entering, dtype),
                _kept(key, (*place, 1), spec.recurrent_dropout, inside, dtype),
                _held(key, (*place, 2), spec.zoneout_h, inside, steps),
                _held(key, (*place, 3), spec.zoneout_c, inside, steps),
            )
    between = [
        _kept(key, (n, 2), spec.dropout, (batch, *sizes[n + 1], spec.out_channels(n)), dtype, steps)
        for n in range(spec.depth - 1)
    ]
    return Draws(masks, tuple(between))


def check_draws(spec: ConvLSTMSpec, given: object, batch: int, input_size: tuple[int, ...], steps: int) -> None:
    """Refuse draws of other shapes than `draw` makes for the call."""
    made = jax.eval_shape(lambda: draw(spec, jax.random.key(0), batch, input_size, steps))
    shapes = [
        [(place, getattr(part, "shape", None)) for place, part in jax.tree.leaves_with_path(d)] for d in (made, given)
    ]
    if not isinstance(given, Draws) or shapes[0] != shapes[1]:
        raise ShapeError(
            "draws",
            expected="those that convlstm.flax.stack.draw makes for this batch, size and length",
            received="others" if isinstance(given, Draws) else type(given).__name__,
            hint="draw them so, or give a key.",
        )


def run_stack(
    spec: ConvLSTMSpec,
    params: Params,
    x: Array | None,
    states: Sequence[State],
    *,
    steps: int,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Mapping[str, Array] | None = None,
    draws: Draws | None = None,
    plain: bool = False,
    from_rest: bool = False,
) -> tuple[list[tuple[Array, ...]], list[State]]:
    """Run every layer and direction over a time-first sequence.

    Args:
        spec: The stack.
        params: Its tree of parameters.
        x: (time, batch, *space, in_channels), or None for a stack without input.
        states: States indexed layer · D + direction.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Random draws in training, None in evaluation.
        plain: Leave every derivative to JAX.
        from_rest: Whether the states are known to be zero.

    Returns:
        Per layer, the outputs of its directions, forward first, time first; and the final states.
    """
    final: list[State] = []
    outputs: list[tuple[Array, ...]] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            output, after = engine.sequence(
                layer,
                layer_weights(params, layer, direction),
                x,
                states[len(final)],
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=gaps[direction] if gaps else None,
                masks=None if draws is None else draws.masks[layer_name(layer.index, direction)],
                generic=plain,
                zero_initial_state=from_rest,
            )
            parts.append(output)
            final.append(after)
        outputs.append(tuple(parts))
        if layer.index < spec.depth - 1:
            x = merged(parts, "concat" if spec.merge == "apart" else spec.merge)
            factor = draws.dropout[layer.index] if draws is not None else None
            x = x if factor is None else x * factor
    return outputs, final


def merged(parts: Sequence[Array], merge: str) -> Array:
    """Return the outputs of a layer's directions, channels last, as one array."""
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return jnp.concatenate(parts, axis=-1)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)


def _held(
    key: Array, place: tuple[int, ...], rate: float, shape: tuple[int, ...], steps: int | None = None
) -> Array | None:
    """Return True with a probability, from a key of the draw's own place; with `steps`, anew each step."""
    if not rate:
        return None
    own = reduce(jax.random.fold_in, place, key)
    if steps is None:
        return jax.random.bernoulli(own, rate, shape)
    # a key per step: the draws of a step do not change with the length of the sequence
    return jax.vmap(lambda t: jax.random.bernoulli(jax.random.fold_in(own, t), rate, shape))(jnp.arange(steps))


def _kept(
    key: Array, place: tuple[int, ...], rate: float, shape: tuple[int, ...], dtype: Any, steps: int | None = None
) -> Array | None:
    """Return the factors of inverted dropout, 0 or 1 / (1 − rate)."""
    dropped = _held(key, place, rate, shape, steps)
    return None if dropped is None else jnp.where(dropped, 0.0, 1.0 / (1.0 - rate)).astype(dtype)
