"""Layer, cell and forecaster as pure functions of a tree of parameters, for plain JAX and for every layer here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State, to_compute_types
from convlstm.errors import SpecError
from convlstm.frontend import dropout
from convlstm.frontend.merge import merge_directions
from convlstm.jax import dropout as jax_dropout
from convlstm.jax import inputs
from convlstm.jax.segments import read_checkpoint, run_segments
from convlstm.jax.stack import concatenate, run_stack
from convlstm.jax.weights import Params, check_params
from convlstm.spec import calls
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec


def layer(
    spec: ConvLSTMSpec,
    params: Params,
    x: ArrayLike | None,
    carry: State | None = None,
    *,
    steps: int | None = None,
    lengths: ArrayLike | Sequence[int] | None = None,
    mask: ArrayLike | None = None,
    durations: ArrayLike | None = None,
    gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
    key: Array | None = None,
    dropout_masks: DropoutMasks | None = None,
    dtype: DTypeLike | None = None,
    generic: bool = False,
    checkpoint: bool | int = False,
) -> tuple[State, Any]:
    """Run a stack of ConvLSTM layers over a sequence.

    Args:
        spec: The stack.
        params: Its tree of parameters (`convlstm.jax.fresh`, `from_canonical`).
        x: (batch, time, *space, in_features), or without the batch axis. None in a stack without input
            (`in_channels=0`), which needs `steps` and a carry.
        carry: State (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
        steps: Number of steps of a stack without input.
        lengths: Valid steps of each row, 0 to time; the rest is masked.
        mask: True where a step is valid (batch, time).
        durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
        gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
        key: Random key of the dropout masks in training; None means evaluation.
        dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several calls, or
            one dropout over a sequence in parts.
        dtype: Type of the convolutions; None takes that of input and parameters together.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        checkpoint: Whether reverse mode keeps the states between √T segments and computes the steps again; a number
            is the steps per segment. For stacks of one direction.

    Returns:
        The carry State(h_n, c_n), tuples indexed layer · D + direction, forward first, each
        (batch, *grid, hidden_features); and the outputs (batch, time, *grid, D · hidden_features), a tuple with
        merge `separate`.

    Raises:
        ShapeError: naming the argument, its expected and received axes.
        StateError: for a bare pair, or a carry that does not fit the batch or the grid.
        WeightsError: if the parameters are not those of the spec.

    Example:
        >>> from convlstm.jax import fresh
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> carry, y = layer(spec, fresh(spec, jax.random.key(0)), jnp.zeros((2, 5, 16, 16, 1)))
        >>> y.shape, carry.h[0].shape
        ((2, 5, 16, 16, 8), (2, 16, 16, 8))
    """
    check_params(spec, params)
    has_input = calls.check_input(spec, x, steps, channels="in_features")
    dtype = inputs.compute_type(params, x, dtype)
    if key is not None:
        inputs.check_key("key", key)
    if has_input:
        frames, batched = inputs.read_frames(spec, x, dtype)
    else:
        frames, batched = inputs.frames_of_state(spec, carry, steps, dtype)
    steps, batch, size = frames.shape[0], frames.shape[1], tuple(frames.shape[2:-1])
    reader = inputs.CallReader(frames, batch, steps)
    valid = reader.valid_steps(lengths, mask)
    dropout.check_use(dropout_masks, True, key is not None, "key", "")
    if dropout_masks is None:
        masks = jax_dropout.sample_masks(spec, key, batch, size, steps, dtype)
    else:
        masks = jax_dropout.read_masks(spec, dropout_masks, batch, size, steps, dtype)
    cut = read_checkpoint(spec, checkpoint)
    run = partial(run_segments, checkpoint=cut) if cut else run_stack
    outputs, final = run(
        spec,
        params,
        frames,
        _in_types(dtype, inputs.read_states(spec, carry, reader, batched)),
        steps=steps,
        mask=valid,
        durations=reader.durations(spec, durations, valid),
        gaps=reader.gaps(spec, gaps, valid) or {},
        dropout_masks=masks,
        generic=generic,
    )
    parts = [jnp.swapaxes(part, 0, 1) if batched else part[:, 0] for part in outputs[-1]]
    return _carry(final, batched), merge_directions(parts, spec.merge, concatenate)


def sample_masks(
    spec: ConvLSTMSpec,
    x: ArrayLike | None,
    key: Array,
    steps: int | None = None,
    *,
    carry: State | None = None,
    dtype: DTypeLike | None = None,
) -> DropoutMasks:
    """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

    Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others. The masks
    of a step follow from the key, the layer, the direction and the step, whatever the length of the sequence.

    Args:
        spec: The stack.
        x: Frames as of a call, of which batch, size and type count. None in a stack without input, which needs `steps`
            and `carry`.
        key: Random key.
        steps: Number of steps of the whole sequence; None takes that of x.
        carry: Initial State(h_0, c_0) as of a call, of a stack without input.
        dtype: Type of the factors; None takes that of x, or float32 without x (float64 with x64).

    Returns:
        The masks, per-step ones (batch, time, *grid, channels); without any mask for a stack without a random part.

    Example:
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3, zoneout_h=0.1)
        >>> masks = sample_masks(spec, jnp.zeros((2, 5, 16, 16, 1)), jax.random.key(0))
        >>> masks[:3].masks[0, "forward"].zoneout_h.shape
        (2, 3, 16, 16, 8)
    """
    inputs.check_key("key", key)
    count = dropout.count_steps(spec, x, carry, steps, state_name="carry", channels="in_features")
    if x is None:
        dtype = jnp.result_type(float) if dtype is None else inputs.floating("dtype", dtype)
        frames, _ = inputs.frames_of_state(spec, carry, count, dtype)
    else:
        frames, _ = inputs.read_frames(spec, x, inputs.compute_type({}, x, dtype))
    batch, size = frames.shape[1], tuple(frames.shape[2:-1])
    count = len(frames) if count is None else count
    sampled = jax_dropout.sample_masks(spec, key, batch, size, count, frames.dtype)
    return dropout.batch_first(spec, sampled, jax_dropout.swap_time_and_batch)


def cell(
    spec: ConvLSTMSpec,
    params: Params,
    carry: State | None,
    x: ArrayLike | None,
    *,
    duration: ArrayLike | None = None,
    gap: ArrayLike | None = None,
    key: Array | None = None,
    dtype: DTypeLike | None = None,
    generic: bool = False,
) -> tuple[State, Array]:
    """Take one step of one ConvLSTM layer, as the body of a `jax.lax.scan`.

    Args:
        spec: A stack of one layer, forward.
        params: Its tree of parameters.
        carry: State (h, c) of the step before; None means zeros.
        x: (batch, *space, in_features), or without the batch axis; None in a cell without input
            (`in_channels=0`), which needs a carry.
        duration: Δ of this step: a number, (), (batch,) or (batch, 1).
        gap: Time since the last valid frame, of the same shapes; for `memory_decay`.
        key: Random key of the dropout masks in training; None means evaluation.
        dtype: Type of the convolutions; None takes that of input and parameters together.
        generic: Leave every derivative to JAX.

    Returns:
        The carry State(h, c), each (batch, *grid, hidden_features), in the types it was given in, as a scan asks
        for; and h once more as output, in the type convolutions run in.

    Raises:
        ShapeError: naming the argument, its expected and received axes.
        StateError: for a bare pair, or a carry that does not fit the batch or the grid.
        WeightsError: if the parameters are not those of the spec.
        SpecError: for a stack of several layers or directions.

    Example:
        >>> from convlstm.jax import fresh
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> carry, y = cell(spec, fresh(spec, jax.random.key(0)), None, jnp.zeros((2, 16, 16, 1)))
        >>> y.shape
        (2, 16, 16, 8)
    """
    if spec.depth != 1 or spec.direction != "forward":
        raise SpecError(
            "spec",
            expected="one layer, forward, in a cell",
            received=f"{spec.depth} layers, {spec.direction}",
            hint="Use `functional.layer`.",
        )
    check_params(spec, params)
    has_input = calls.check_input(spec, x, None if spec.in_channels else 1, channels="in_features")
    dtype = inputs.compute_type(params, x, dtype)
    if key is not None:
        inputs.check_key("key", key)
    if has_input:
        frame, batched = inputs.read_frame(spec, x, dtype)
    else:
        frame, batched = inputs.frames_of_state(spec, carry, 1, dtype)
    batch, size = frame.shape[1], tuple(frame.shape[2:-1])
    reader = inputs.CallReader(frame, batch)
    gaps = reader.one_step("gap", spec.memory_decay, gap)
    (before,) = inputs.read_states(spec, carry, reader, batched, cell=True)
    _, final = run_stack(
        spec,
        params,
        frame,
        _in_types(dtype, [before]),
        steps=1,
        durations=reader.one_step("duration", spec.duration_strategy != "none", duration),
        gaps=None if gaps is None else {"forward": gaps},
        dropout_masks=jax_dropout.sample_masks(spec, key, batch, size, 1, dtype),
        generic=generic,
    )
    (after,) = final if batched else [State(h[0], c[0]) for h, c in final]
    pairs = zip(after, after if before is None else before, strict=True)
    return State(*(array.astype(like.dtype) for array, like in pairs)), after.h


def initial_carry(
    spec: ConvLSTMSpec, input_shape: tuple[int, ...], carry_init: Any, key: Array, dtype: Any, param_dtype: Any
) -> State:
    """Return the state of a cell before the first step, on its output grid."""
    # a scan rounds h to the carry's type, and the type of the frames, which may decide that of h, is not known yet
    wide = jnp.promote_types(inputs.floating("param_dtype", param_dtype), jnp.result_type(float))
    dtype = wide if dtype is None else inputs.floating("dtype", dtype)
    axes = calls.frame_axes(spec, "batch", channels_last=True)
    batched = calls.check_frames(spec, input_shape, axes, "input_shape")
    lead, size = tuple(input_shape[: int(batched)]), tuple(input_shape[int(batched) : -1])
    shape = (*lead, *spec.grids(size)[0], spec.hidden_channels[0])
    keys = jax.random.split(key)
    wide = jnp.promote_types(dtype, jnp.float32)
    return State(carry_init(keys[0], shape, dtype), carry_init(keys[1], shape, wide))


def _in_types(dtype: Any, states: Sequence[State | None]) -> list[State | None]:
    return [None if state is None else to_compute_types(dtype, state) for state in states]


def _carry(final: Sequence[State], batched: bool) -> State:
    pairs = final if batched else [State(h[0], c[0]) for h, c in final]
    return State(tuple(h for h, _ in pairs), tuple(c for _, c in pairs))
