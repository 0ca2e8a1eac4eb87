"""The fused implementation as operators of PyTorch, which a compiled graph calls as they are.

The compiler cannot see inside them: it neither unrolls the recurrence nor replaces its convolutions. Exported programs
use the generic implementation instead, because the process that runs them may not have this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch import fused
from convlstm.engine.torch.fused_plan import Plan
from convlstm.engine.torch.modes import constant_in_graphs
from convlstm.engine.torch.precision import wide_type, without_autocast
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import ConvLSTMSpec

State = tuple[Tensor, Tensor]
Arrays = Sequence[Tensor | None]

_INPUTS = "Tensor? x, Tensor? h, Tensor? c, Tensor? weight_ih, Tensor? bias, Tensor weight_hh, Tensor? peephole"
_LAYER = "str layer, SymInt[] shape, SymInt steps, bool reverse"
_INPUT_COUNT = 7


def serve(layer: LayerSpec, like: Tensor) -> bool:
    """Return whether the operators can compute a standard cell in the graph that is being compiled.

    A stride along the last axis could need the form for one output column, which would fix a dynamic width.
    """
    return like.device.type == "cpu" and layer.stride[-1] == 1 and not torch.compiler.is_exporting()


def sequence(
    layer: LayerSpec,
    weights: Mapping[str, Tensor],
    x: Tensor | None,
    state: State | None,
    shape: tuple[int, ...],
    *,
    steps: int,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Run a layer as `fused.sequence` does, inside a graph that is being compiled."""
    x = None if x is None else x.to(weights["weight_hh"].dtype)
    inputs = (x, *(state or (None, None)), *fused.weight_arrays(weights))
    arguments = (*inputs, _description(layer), list(shape), steps, reverse)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        outputs, h, c, *_ = torch.ops.convlstm.recurrence_with_gradient(*arguments)
    else:
        outputs, h, c = torch.ops.convlstm.recurrence(*arguments)
    return outputs, (h, c)


@constant_in_graphs
def _description(layer: LayerSpec) -> str:
    """Return a layer as text, because the arguments of an operator are arrays, numbers and texts."""
    return json.dumps([layer.index, layer.stack.to_dict()])


@lru_cache(maxsize=256)
def _layer(description: str) -> LayerSpec:
    index, options = json.loads(description)
    layer: LayerSpec = ConvLSTMSpec.from_dict(options).layers[index]
    return layer


@torch.library.custom_op(
    "convlstm::recurrence", mutates_args=(), schema=f"({_INPUTS}, {_LAYER}) -> (Tensor, Tensor, Tensor)"
)
def _recurrence(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    plan, inputs = _read(arguments)
    with without_autocast(inputs[5]):
        outputs, h, c, _, _ = fused.run(plan, inputs, save=False)
    return outputs, h, c


@_recurrence.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    plan, inputs = _read(arguments)
    like, wide = inputs[5], wide_type(inputs[5].dtype)
    return (
        _array(plan, like, plan.shape, steps=plan.steps + 1)[plan.after],
        _array(plan, like, plan.shape),
        _array(plan, like, plan.shape, dtype=wide),
    )


@torch.library.custom_op(
    "convlstm::recurrence_with_gradient",
    mutates_args=(),
    schema=f"({_INPUTS}, {_LAYER}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _recurrence_with_gradient(*arguments: Any) -> tuple[Tensor, ...]:
    """Return outputs, final h and c, and what the backward pass reads: h and c of all T + 1 steps, gates and a flag."""
    plan, inputs = _read(arguments)
    with without_autocast(inputs[5]):
        outputs, h, c, gates, (hidden, cells) = fused.run(plan, inputs, save=True)
    return outputs.clone(), h, c, hidden, cells, gates, torch.zeros((), dtype=torch.bool)


@_recurrence_with_gradient.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    plan, inputs = _read(arguments)
    like, wide = inputs[5], wide_type(inputs[5].dtype)
    return (
        _array(plan, like, plan.shape, steps=plan.steps),
        _array(plan, like, plan.shape),
        _array(plan, like, plan.shape, dtype=wide),
        _array(plan, like, plan.shape, steps=plan.steps + 1),
        _array(plan, like, plan.shape, steps=plan.steps + 1, dtype=wide),
        _array(plan, like, plan.gate_shape, steps=plan.steps),
        like.new_empty((), dtype=torch.bool),
    )


@torch.library.custom_op(
    "convlstm::recurrence_backward",
    mutates_args=(),
    schema=f"(Tensor? d_outputs, Tensor? dh, Tensor? dc, {_INPUTS}, Tensor hidden, Tensor cells, Tensor gates, "
    f"Tensor spent, {_LAYER}, bool[] needed) -> ({', '.join(['Tensor'] * _INPUT_COUNT)})",
)
def _backward(d_outputs: Tensor | None, dh: Tensor | None, dc: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs; dz overwrites the gates, and `spent` becomes True."""
    hidden, cells, gates, spent = arguments[_INPUT_COUNT : _INPUT_COUNT + 4]
    *layer, needed = arguments[_INPUT_COUNT + 4 :]
    plan, inputs = _read((*arguments[:_INPUT_COUNT], *layer))
    with without_autocast(inputs[5]):
        if spent:
            _, _, _, gates, (hidden, cells) = fused.run(plan, inputs, save=True)
        spent.data.fill_(True)
        gradients = fused.gradients_of(plan, inputs, hidden, cells, gates.data, (d_outputs, dh, dc), needed)
    layouts = _gradient_layouts(plan, inputs, needed)
    return tuple(_in_layout(gradient, inputs[5], *layout) for gradient, layout in zip(gradients, layouts, strict=True))


@_backward.register_fake
def _(d_outputs: Tensor | None, dh: Tensor | None, dc: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *layer, needed = arguments[_INPUT_COUNT + 4 :]
    plan, inputs = _read((*arguments[:_INPUT_COUNT], *layer))
    return tuple(inputs[5].new_empty_strided(*layout) for layout in _gradient_layouts(plan, inputs, needed))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_INPUT_COUNT], *output[3:])
    ctx.layer = inputs[_INPUT_COUNT:]


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:_INPUT_COUNT])
    results = torch.ops.convlstm.recurrence_backward(*gradients[:3], *ctx.saved_tensors, *ctx.layer, needed)
    return *(result if is_needed else None for result, is_needed in zip(results, needed, strict=True)), *[None] * 4


_recurrence_with_gradient.register_autograd(_differentiate, setup_context=_remember)


def _read(arguments: Sequence[Any]) -> tuple[Plan, Sequence[Any]]:
    """Return the plan and the inputs of the fused implementation from the arguments of an operator."""
    *inputs, layer, shape, steps, reverse = arguments
    return Plan(_layer(layer), steps, tuple(shape), reverse), inputs


def _strides(plan: Plan, shape: Sequence[Any], *, batch_axis: int) -> list[Any]:
    """Return the strides of an array as `Plan.empty` makes it: channels last, or channels first in one dimension."""
    order = list(range(len(shape)))
    if plan.rank > 1:
        order.append(order.pop(batch_axis + 1))
    strides, size = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = size
        size *= shape[axis]
    return strides


def _array(
    plan: Plan, like: Tensor, shape: Sequence[int], *, steps: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return an array without content, in the memory layout of the fused implementation."""
    full = list(shape) if steps is None else [steps, *shape]
    strides = _strides(plan, full, batch_axis=len(full) - len(shape))
    return like.new_empty_strided(full, strides, dtype=dtype or like.dtype)


def _gradient_layouts(plan: Plan, inputs: Arrays, needed: Sequence[bool]) -> list[tuple[list[Any], list[Any]]]:
    """Return shape and strides of the gradient of each input; (0,) for those that are not needed."""
    layouts: list[tuple[list[Any], list[Any]]] = []
    for number, (array, is_needed) in enumerate(zip(inputs, needed, strict=True)):
        if array is None or not is_needed:
            layouts.append(([0], [1]))
            continue
        shape = list(array.shape)
        if number < 3:
            strides = _strides(plan, shape, batch_axis=1 if number == 0 else 0)
        else:
            strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        layouts.append((shape, strides))
    return layouts


def _in_layout(gradient: Tensor | None, like: Tensor, shape: list[int], strides: list[int]) -> Tensor:
    """Return a gradient in the layout that was announced; a new array where it would be an alias of another one."""
    if gradient is None:
        return like.new_zeros(shape)
    if list(gradient.stride()) == strides:
        return gradient
    return gradient.new_empty_strided(shape, strides).copy_(gradient)
