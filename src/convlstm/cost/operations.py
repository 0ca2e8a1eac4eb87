"""The cost of a model, computed without allocation: parameters, receptive fields, FLOP and training memory.

FLOP are 2 × the multiply-adds of the convolutions, including those with zero padding. A training step adds the
gradients of the weights and of the input of each convolution; each costs as much as the forward pass. The frames and
the initial states of a forecaster have no gradient. A single layer is counted with the gradient of its initial state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from convlstm.cost.memory import training_memory
from convlstm.cost.memory_run import SINGLE, WIDTHS, Run, runs
from convlstm.cost.workload import Call, Workload, calls, check_frames
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import effective_kernel
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import Spec


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The cost of one layer in one direction.

    Args:
        part: `layer`, `encoder` or `forecaster`.
        index: Index in the stack, from 0.
        direction: `forward` or `reverse`.
        grid: Points per spatial axis of its states.
        hidden_channels: Channels of h and c.
        parameters: Trainable values.
        receptive_field: Pixels per axis of the latest input frame that affect one point of its first step.
        growth: Pixels per axis that each earlier step adds.
        forward_flop: FLOP of a forward pass over the batch.
        training_flop: FLOP of a forward and a backward pass.
        training_bytes: Bytes of weights, gradients, two moments, and the arrays kept for the backward pass.
    """

    part: str
    index: int
    direction: str
    grid: Size
    hidden_channels: int
    parameters: int
    receptive_field: Size
    growth: Size
    forward_flop: int
    training_flop: int
    training_bytes: int


@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """The cost of the output convolution of a forecaster.

    Args:
        parameters: Trainable values.
        forward_flop: Of a forward pass over the batch.
        training_flop: Of a forward and a backward pass.
    """

    parameters: int
    forward_flop: int
    training_flop: int


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """The cost of a model.

    Args:
        layers: Its layers, one entry per direction.
        head: The output convolution; None for a layer.
        training_bytes: Peak memory of a training step, with weights, optimiser and frames. It is not the sum of the
            layers: there are temporary arrays, and the upper layers are freed before the lower ones.
    """

    layers: tuple[LayerCost, ...]
    head: HeadCost | None
    training_bytes: int

    @property
    def parameters(self) -> int:
        """Trainable values."""
        return sum(part.parameters for part in self._parts)

    @property
    def forward_flop(self) -> int:
        """FLOP of a forward pass over the batch."""
        return sum(part.forward_flop for part in self._parts)

    @property
    def training_flop(self) -> int:
        """FLOP of a forward and a backward pass over the batch."""
        return sum(part.training_flop for part in self._parts)

    @property
    def _parts(self) -> tuple[LayerCost | HeadCost, ...]:
        return self.layers if self.head is None else (*self.layers, self.head)


def model_cost(spec: Spec, workload: Workload) -> ModelCost:
    """Return the cost of a model, computed from its spec.

    Args:
        spec: A layer stack or a forecaster.
        workload: Frames, batch, horizon and precision.

    Returns:
        Costs by layer and in all.

    Raises:
        ShapeError: if the frames do not fit the model.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=3)
        >>> cost = model_cost(stack, Workload(shape=(10, 64, 64, 64), batch=8))
        >>> f"{cost.forward_flop / 1e9:.1f} and {cost.training_flop / 1e9:.1f} GFLOP"
        '193.3 and 483.2 GFLOP'
    """
    check_frames(spec, workload.full_shape)
    stack_calls = calls(spec, workload)
    parts = list(dict.fromkeys(call.part for call in stack_calls))
    layers = [layer for part in parts for layer in _stack(spec, workload, [c for c in stack_calls if c.part == part])]
    head = _head(spec, workload) if isinstance(spec, ForecasterSpec) else None
    return ModelCost(layers=tuple(layers), head=head, training_bytes=training_memory(spec, workload))


def receptive_fields(spec: ConvLSTMSpec, patch_size: int = 1) -> list[tuple[Size, Size]]:
    """Return the receptive field of each layer in a frame, and its growth per earlier step.

    Each input kernel adds (k_eff − 1) · j pixels, where j is the distance of two points of its grid in pixels. A step
    back in time can happen in any layer up to this one, so the widest recurrent kernel gives the growth.

    Args:
        spec: A layer stack without norm (the statistics of a norm depend on every point).
        patch_size: Pixels per axis of one point of its input.

    Returns:
        For each layer, pixels per axis of the frame of the same step, and of each further step.

    Example:
        >>> receptive_fields(ConvLSTMSpec(in_channels=1, hidden_channels=[8, 8], kernel_size=[(3, 3), (5, 5)]))
        [((3, 3), (2, 2)), ((7, 7), (4, 4))]
    """
    result = []
    apart = field = (patch_size,) * spec.spatial_dims
    growth = (0,) * spec.spatial_dims
    for layer in spec.layers:
        spans = [effective_kernel(k, d) - 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        field = tuple(f + span * j for f, span, j in zip(field, spans, apart, strict=True))
        apart = tuple(j * s for j, s in zip(apart, layer.stride, strict=True))
        wider = [(k - 1) * j for k, j in zip(layer.recurrent_kernel_size, apart, strict=True)]
        growth = tuple(max(pair) for pair in zip(growth, wider, strict=True))
        result.append((field, growth))
    return result


def _stack(spec: Spec, workload: Workload, made: Sequence[Call]) -> list[LayerCost]:
    """Return the costs of one stack, which may be called several times."""
    width = WIDTHS[workload.precision]
    found = [runs(call, workload.batch, width) for call in made]
    sights = _sights(spec, workload, made[0].part)
    result = []
    for index, directions in enumerate(found[0]):
        for number, run in enumerate(directions):
            flops = [_flops(call, layers[index][number]) for call, layers in zip(made, found, strict=True)]
            kept = sum(call.runs * layers[index][number].kept for call, layers in zip(made, found, strict=True))
            result.append(
                LayerCost(
                    part=made[0].part,
                    index=index,
                    direction=run.direction,
                    grid=run.grid,
                    hidden_channels=run.layer.hidden_channels,
                    parameters=run.parameters // SINGLE,
                    receptive_field=sights[index][0],
                    growth=sights[index][1],
                    forward_flop=sum(forward for forward, _ in flops),
                    training_flop=sum(training for _, training in flops),
                    training_bytes=4 * run.parameters + kept,
                )
            )
    return result


def _sights(spec: Spec, workload: Workload, part: str) -> list[tuple[Size, Size]]:
    """Return receptive field and growth of each layer; the forecaster's first step is one after the last frame."""
    stack, patch = (spec.encoder, spec.patch_size) if isinstance(spec, ForecasterSpec) else (spec, 1)
    if stack.norm != "none":
        return [(workload.size, (0,) * stack.spatial_dims)] * stack.depth
    fields = receptive_fields(stack, patch)
    if part == "forecaster":
        return [(tuple(f + g for f, g in zip(field, growth, strict=True)), growth) for field, growth in fields]
    return fields


def _flops(call: Call, run: Run) -> tuple[int, int]:
    """Return forward and training FLOP of a layer in one direction, over all runs of a call."""
    kernels = (run.kernel_ih // run.width, run.kernel_hh // run.width)
    points = 2 * call.runs * call.steps * run.batch * prod(run.grid)
    of_input, of_state = (points * kernel for kernel in kernels)
    first = 0 if call.state_gradient else of_state // call.steps
    training = (3 if run.input_gradient else 2) * of_input + 3 * of_state - first
    return of_input + of_state, training


def _head(spec: ForecasterSpec, workload: Workload) -> HeadCost:
    weights = spec.patch_channels * spec.head_channels
    points = workload.batch * workload.horizon * prod(workload.size) // spec.patch_size**2
    forward = 2 * points * weights
    return HeadCost(
        parameters=weights + spec.patch_channels * spec.head_bias, forward_flop=forward, training_flop=3 * forward
    )
