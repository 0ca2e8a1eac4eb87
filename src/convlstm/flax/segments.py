"""Checkpointing in time: of a sequence only the states between segments are kept, the rest is computed again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.engine.jax.recurrence import State
from convlstm.errors import SpecError
from convlstm.flax.stack import run_stack
from convlstm.flax.weights import Params
from convlstm.frontend.dropout import DropoutMasks
from convlstm.spec import parsing
from convlstm.spec.stack import ConvLSTMSpec

_BATCH_FIRST = ("mask", "durations", "gaps")


def read_checkpoint(spec: ConvLSTMSpec, value: object) -> bool | int:
    """Return `checkpoint` if it is a bool or a number of steps, and there is one direction to cut."""
    read = value if isinstance(value, bool) else parsing.integer("checkpoint", value, 1)
    if read and spec.direction == "bidirectional":
        raise SpecError("checkpoint", expected="False with two directions", received=value, hint="Use `jax.checkpoint`.")
    return read


def run_segments(
    spec: ConvLSTMSpec,
    params: Params,
    x: Array,
    states: Sequence[State],
    *,
    steps: int,
    mask: Array | None,
    durations: Array | None,
    gaps: Mapping[str, Array],
    draws: DropoutMasks | None,
    plain: bool,
    checkpoint: bool | int,
) -> tuple[list[tuple[Array, ...]], list[State]]:
    """Run a stack of one direction as `run_stack` does, and return the outputs of its last layer alone.

    All layers of a segment run together, so that nothing of the inner ones is kept either.

    Args:
        spec: The stack.
        params: Its tree of parameters.
        x: (time, batch, *space, in_channels).
        states: States by layer.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Dropout masks in training, None in evaluation.
        plain: Leave every derivative to JAX.
        checkpoint: Steps per segment; True takes √T.

    Returns:
        The outputs of the last layer, time first, and the final states.
    """
    inner = replace(spec, masked_output="zero")  # the held outputs are filled in afterwards
    each_step = None if draws is None else (_zoneout(draws), draws.dropout)
    parts = {"x": x, "draws": each_step, "mask": mask, "durations": durations, "gaps": dict(gaps)}
    parts |= {name: jax.tree.map(jnp.transpose, parts[name]) for name in _BATCH_FIRST}

    def run(states: list[State], part: dict[str, Any]) -> tuple[list[State], Array]:
        own = {name: jax.tree.map(jnp.transpose, part[name]) for name in _BATCH_FIRST}
        own["draws"] = None if draws is None else _with_steps(draws, *part["draws"])
        outputs, after = run_stack(inner, params, part["x"], states, steps=len(part["x"]), plain=plain, **own)
        return after, outputs[-1][0]

    length = math.ceil(math.sqrt(max(steps, 1))) if checkpoint is True else int(checkpoint)
    reverse = spec.direction == "reverse"
    final, output = _in_segments(jax.checkpoint(run), list(states), parts, steps, length, reverse)
    if mask is not None and spec.masked_output == "hold":
        output = _held(output, mask.T, reverse)
    return [(output,)], final


def _in_segments(run: Any, states: Any, parts: Any, steps: int, length: int, reverse: bool) -> tuple[Any, Array]:
    """Run whole segments in a loop, and what is left at the end of the sequence by itself."""
    cut = steps - steps % length
    rest = jax.tree.map(lambda a: a[cut:], parts)
    whole = jax.tree.map(lambda a: a[:cut].reshape(-1, length, *a.shape[1:]), parts)
    outputs = []
    if reverse and cut < steps:
        states, last = run(states, rest)
        outputs.append(last)
    if cut:
        states, first = lax.scan(run, states, whole, reverse=reverse)
        outputs.insert(0, first.reshape(cut, *first.shape[2:]))
    if (not reverse and cut < steps) or not steps:
        states, last = run(states, rest)
        outputs.append(last)
    return states, jnp.concatenate(outputs)


def _zoneout(draws: DropoutMasks) -> dict[str, Any]:
    return {name: (masks.zoneout_h, masks.zoneout_c) for name, masks in draws.masks.items()}


def _with_steps(draws: DropoutMasks, zoneout: Mapping[str, Any], dropout: Any) -> DropoutMasks:
    """Return masks with the steps of one segment alone."""
    masks = {name: draws.masks[name]._replace(zoneout_h=h, zoneout_c=c) for name, (h, c) in zoneout.items()}
    return DropoutMasks(masks, dropout)


def _held(outputs: Array, valid: Array, reverse: bool) -> Array:
    """Return outputs, zeros where a step is masked, with each row's previous one in the direction of travel there."""
    steps, rows = (jnp.arange(n) for n in outputs.shape[:2])
    none = len(steps) - 1 if reverse else 0  # before the first valid step this points at a masked one, of zeros
    own = jnp.where(valid, steps[:, None], none)
    return outputs[lax.cummin(own, reverse=True) if reverse else lax.cummax(own), rows] if len(steps) else outputs
