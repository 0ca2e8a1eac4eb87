"""Checkpointing in time: of a sequence only the states between segments are kept, the rest is computed again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.engine.jax.recurrence import State, mask_of_output
from convlstm.errors import SpecError
from convlstm.jax import inputs
from convlstm.jax.stack import run_stack
from convlstm.jax.weights import Params
from convlstm.spec import parsing
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

_BATCH_FIRST = ("mask", "durations", "gaps", "output_mask")


def read_checkpoint(spec: ConvLSTMSpec, value: object) -> bool | int:
    """Return `checkpoint` if it is a bool or a number of steps, and there is one direction to cut."""
    read = value if isinstance(value, bool) else parsing.integer("checkpoint", value, 1)
    if read and spec.direction == "bidirectional":
        raise SpecError(
            "checkpoint", expected="False with two directions", received=value, hint="Use `jax.checkpoint`."
        )
    return read


def run_segments(
    spec: ConvLSTMSpec,
    params: Params,
    x: Array,
    states: Sequence[State | None],
    *,
    steps: int,
    mask: Array | None,
    durations: Array | None,
    gaps: Mapping[str, Array],
    dropout_masks: DropoutMasks | None,
    generic: bool,
    checkpoint: bool | int,
) -> tuple[list[tuple[Array, ...]], list[State]]:
    """Run a stack of one direction as `run_stack`, and return the outputs of its last layer alone.

    All layers of a segment run together, so that the inner ones are not stored either. A `checkpoint` of True means √T
    steps.
    """
    reverse = spec.direction == "reverse"
    # a segment cannot tell from its mask whether a step before it was valid
    output_mask = None if mask is None else mask_of_output(spec, mask, reverse=reverse)
    each_step = None if dropout_masks is None else (_zoneout(dropout_masks), dropout_masks.dropout)
    parts = {"x": x, "dropout_masks": each_step, "mask": mask, "durations": durations, "gaps": dict(gaps)}
    parts["output_mask"] = output_mask
    parts |= {name: jax.tree.map(jnp.transpose, parts[name]) for name in _BATCH_FIRST}

    def run(states: list[State], part: dict[str, Any]) -> tuple[list[State], Array]:
        step_inputs = {name: jax.tree.map(jnp.transpose, part[name]) for name in _BATCH_FIRST}
        step_inputs["dropout_masks"] = (
            None if dropout_masks is None else _with_steps(dropout_masks, *part["dropout_masks"])
        )
        outputs, after = run_stack(
            spec, params, part["x"], states, steps=len(part["x"]), generic=generic, **step_inputs
        )
        return after, outputs[-1][0]

    length = math.ceil(math.sqrt(max(steps, 1))) if checkpoint is True else int(checkpoint)
    # the loop over the segments carries the states, so that they are arrays
    zeros = inputs.zero_states(spec, x.shape[1], x.shape[2:-1], x.dtype)
    start = [zero if state is None else state for state, zero in zip(states, zeros, strict=True)]
    final, output = _in_segments(jax.checkpoint(run), start, parts, steps, length, reverse)
    return [(output,)], final


def _in_segments(run: Any, states: Any, parts: Any, steps: int, length: int, reverse: bool) -> tuple[Any, Array]:
    """Run whole segments in a loop, and what is left at the end of the sequence by itself."""
    cut = steps - steps % length
    rest = jax.tree.map(lambda a: a[cut:], parts)
    whole = jax.tree.map(lambda a: a[:cut].reshape(cut // length, length, *a.shape[1:]), parts)
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


def _zoneout(dropout_masks: DropoutMasks) -> dict[tuple[int, str], Any]:
    return {place: (masks.zoneout_h, masks.zoneout_c) for place, masks in dropout_masks.masks.items()}


def _with_steps(dropout_masks: DropoutMasks, zoneout: Mapping[tuple[int, str], Any], dropout: Any) -> DropoutMasks:
    """Return masks with the steps of one segment alone."""
    masks = {place: dropout_masks.masks[place]._replace(zoneout_h=h, zoneout_c=c) for place, (h, c) in zoneout.items()}
    return DropoutMasks(masks, dropout)
