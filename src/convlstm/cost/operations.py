"""The cost of a model, computed without allocation: parameters, receptive fields, FLOP and training memory.

FLOP are 2 × the multiply-adds of the convolutions, including those with zero padding. A training step adds the
gradients of the weights and of the input of each convolution; each costs as much as the forward pass. The frames and
the initial states of a forecaster have no gradient. A single layer is counted with the gradient of its initial state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

from convlstm.cost.memory import SINGLE, WIDTHS, Run, runs, training_memory
from convlstm.cost.workload import Call, Workload, calls, check_frames
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import effective_kernel
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import Spec, canonical_shapes


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The cost of one layer in one direction."""

    part: str
    index: int
    direction: str
    grid: Size  # of its states
    hidden_channels: int
    parameters: int
    receptive_field: Size  # pixels of the latest frame that affect one point of its first step
    growth: Size  # pixels that each earlier step adds
    forward_flop: int  # over the batch
    training_flop: int  # of a forward and a backward pass
    training_bytes: int  # weights, gradients, two moments, and the arrays kept for the backward pass


@dataclass(frozen=True, kw_only=True)
class ConvolutionCost:
    """The cost of one convolution that makes the output of a forecaster."""

    name: str  # `head`, `detail.0`, `detail.1` or `output`, as in the weights file
    parameters: int
    forward_flop: int
    training_flop: int


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """The cost of a model: its layers, one entry per direction, and the convolutions of a forecaster's output.

    `head` reads the hidden states. `detail` has the convolutions at full resolution, none without `detail_channels`.

    `training_bytes` is the peak of a training step. It is not the sum of the layers: there are temporary arrays, and
    the upper layers are freed before the lower ones.
    """

    layers: tuple[LayerCost, ...]
    head: ConvolutionCost | None
    detail: tuple[ConvolutionCost, ...]
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
    def convolutions(self) -> tuple[ConvolutionCost, ...]:
        """The convolutions of the output, first the head; none of a layer."""
        return () if self.head is None else (self.head, *self.detail)

    @property
    def _parts(self) -> tuple[LayerCost | ConvolutionCost, ...]:
        return (*self.layers, *self.convolutions)


def model_cost(spec: Spec, workload: Workload) -> ModelCost:
    """Return the cost of a model; frames that do not fit it are a ShapeError."""
    check_frames(spec, workload.full_shape)
    stack_calls = calls(spec, workload)
    parts = list(dict.fromkeys(call.part for call in stack_calls))
    layers = [layer for part in parts for layer in _stack(spec, workload, [c for c in stack_calls if c.part == part])]
    convolutions = _convolutions(spec, workload) if isinstance(spec, ForecasterSpec) else []
    return ModelCost(
        layers=tuple(layers),
        head=convolutions[0] if convolutions else None,
        detail=tuple(convolutions[1:]),
        training_bytes=training_memory(spec, workload),
    )


def receptive_fields(spec: ConvLSTMSpec, patch_size: int = 1) -> list[tuple[Size, Size]]:
    """Return the receptive field of each layer in a frame, and its growth per earlier step, in pixels per axis.

    Each input kernel adds (k_eff − 1) · j pixels, where j is the distance of two points of its grid in pixels. A step
    back in time can happen in any layer up to this one, so the widest recurrent kernel gives the growth. The stack has
    no norm, whose statistics depend on every point. The field of a stack without input is that in its initial state.
    """
    result = []
    apart = field = (patch_size,) * spec.spatial_dims
    growth = (0,) * spec.spatial_dims
    for layer in spec.layers:
        spans = [effective_kernel(k, d) - 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        if not layer.in_channels:
            spans = [0] * spec.spatial_dims
        field = tuple(f + span * j for f, span, j in zip(field, spans, apart, strict=True))
        apart = tuple(j * s for j, s in zip(apart, layer.stride, strict=True))
        wider = [sum(width) * j for width, j in zip(layer.recurrent_widths, apart, strict=True)]
        growth = tuple(max(pair) for pair in zip(growth, wider, strict=True))
        result.append((field, growth))
    return result


def forecast_reach(spec: ForecasterSpec, steps: int, horizon: int) -> int:
    """Return how far from the patch of a cell an input value can be that the forecast of the cell depends on.

    h of a layer depends on the layer below at the same step and on its own h one step before, each within the radius
    of a kernel. The reach is the largest sum of radii from the last lead time back to the first input frame, in
    patches. The interpolation of an output at full resolution adds one patch.

    Args:
        spec: The forecaster, whose layers have no norm: its statistics depend on every cell.
        steps: Number of input frames.
        horizon: Number of forecast frames.

    Returns:
        The distance in cells, along the rows or the columns.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=[8, 8], kernel_size=3)
        >>> forecast_reach(ForecasterSpec(encoder=stack, patch_size=4), steps=6, horizon=12)
        76
    """
    layers = spec.encoder.layers
    inward = [max(effective_kernel(k, d) // 2 for k, d in zip(n.kernel_size, n.dilation, strict=True)) for n in layers]
    backward = [max(max(widths) for widths in layer.recurrent_widths) for layer in layers]
    has_feedback = spec.rollout == "feedback"
    reaches = [-inf] * len(layers)  # of h, which is constant before the first step
    for step in range(steps + horizon - has_feedback):
        # with feedback, a step after the last frame reads the frame that the last layer gave one step before
        below = 0.0 if step < steps else reaches[-1] if has_feedback else -inf
        for n in range(len(layers)):
            below = reaches[n] = max(below + inward[n], reaches[n] + backward[n])
    patches = int(reaches[-1] if has_feedback else max(reaches))
    if not spec.detail_channels:
        return patches * spec.patch_size
    return max((patches + 1) * spec.patch_size, 2 * (spec.detail_kernel // 2))


def _stack(spec: Spec, workload: Workload, stack_calls: Sequence[Call]) -> list[LayerCost]:
    """Return the costs of one stack, which may be called several times."""
    runs_of_calls = [runs(call, workload.batch, WIDTHS[workload.precision]) for call in stack_calls]
    fields = _fields(spec, workload, stack_calls[0].part)
    costs = []
    for index, directions in enumerate(runs_of_calls[0]):
        for number, run in enumerate(directions):
            same = [(call, layers[index][number]) for call, layers in zip(stack_calls, runs_of_calls, strict=True)]
            flops = [_flops(call, layer_run) for call, layer_run in same]
            saved = sum(call.runs * layer_run.saved for call, layer_run in same)
            receptive_field, growth = fields[index]
            costs.append(
                LayerCost(
                    part=stack_calls[0].part,
                    index=index,
                    direction=run.direction,
                    grid=run.grid,
                    hidden_channels=run.layer.hidden_channels,
                    parameters=run.parameters // SINGLE,
                    receptive_field=receptive_field,
                    growth=growth,
                    forward_flop=sum(forward for forward, _ in flops),
                    training_flop=sum(training for _, training in flops),
                    training_bytes=4 * run.parameters + saved,
                )
            )
    return costs


def _fields(spec: Spec, workload: Workload, part: str) -> list[tuple[Size, Size]]:
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
    points = 2 * call.runs * call.steps * run.batch * prod(run.grid)
    of_input, of_state = (points * kernel // run.width for kernel in run.kernels)
    first = 0 if call.state_gradient else of_state // call.steps
    training = (3 if run.has_input_gradient else 2) * of_input + 3 * of_state - first
    return of_input + of_state, training


def _convolutions(spec: ForecasterSpec, workload: Workload) -> list[ConvolutionCost]:
    """Return the costs of the convolutions that make the output, first the head."""
    frames = workload.batch * prod(workload.size)  # points of one frame of each sample
    points = {"head": frames * workload.horizon // spec.patch_size**2}
    if spec.detail_channels:
        points |= {"detail.0": frames, "detail.1": frames, "output": frames * workload.horizon}
    shapes, costs = canonical_shapes(spec), []
    for name, count in points.items():
        weights = prod(shapes[f"{name}.weight"])
        forward = 2 * count * weights
        costs.append(
            ConvolutionCost(
                name=name,
                parameters=weights + prod(shapes.get(f"{name}.bias", (0,))),
                forward_flop=forward,
                training_flop=(2 if name == "detail.0" else 3) * forward,  # frames have no gradient
            )
        )
    return costs
