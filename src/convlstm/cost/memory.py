"""The peak memory of a model in PyTorch on a CPU, estimated from its spec.

    peak of training = frames + weights · 4 + Winograd buffers + max over the layers, last to first, of
                       arrays saved by this layer and those below + gradient of its output + its workspace

Weights count with their gradients and AdamW's two moments. The workspace is the largest set of temporary arrays in the
layer's backward pass. Program code, oneDNN's scratch memory and the overhead of the allocator are left out;
docs/inspect.md compares the estimate with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from convlstm.cost.workload import Call, Workload, calls
from convlstm.engine.torch import winograd_rule as winograd
from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import Spec, canonical_shapes, layer_shapes, parameter_count

SINGLE = 4
"""Bytes of a float32 value."""
WIDTHS = {"float32": SINGLE, "bfloat16": 2}
"""Bytes of a value in the type that convolutions compute in, by precision."""
_KERNEL_FORMS = 4  # a kernel channels last, its gradient in oneDNN's layout, as requested, and in float32
_SQUARE_FORMS = 4  # arrays of the gradient of a mean square: that of the mean, and three factors and products


@dataclass(frozen=True)
class Run:
    """One layer in one direction over a sequence in training; sizes are in bytes."""

    layer: LayerSpec
    direction: str
    batch: int
    steps: int
    size: Size  # of its input
    width: int  # of a value in the type that convolutions compute in
    is_copied: bool  # whether its input is copied, because it is not channels last or not of this type
    input_gradient: bool
    continues: bool  # from the final states of a previous run, which are separate arrays

    @cached_property
    def grid(self) -> Size:
        """Points per spatial axis of its states."""
        return self.layer.grid(self.size)

    @cached_property
    def h(self) -> int:
        """The hidden state of one step."""
        return self.batch * self.layer.hidden_channels * prod(self.grid) * self.width

    @cached_property
    def c(self) -> int:
        """The cell state of one step, in float32."""
        return self.h // self.width * SINGLE

    @cached_property
    def frames(self) -> int:
        """Its input."""
        return self.steps * self.batch * self.layer.in_channels * prod(self.size) * self.width

    @cached_property
    def kernels(self) -> tuple[int, int]:
        """W_ih and W_hh in the type that convolutions compute in; 0 for W_ih of a layer without input."""
        shapes = layer_shapes(self.layer)
        w_ih = self.width * prod(shapes["weight_ih"]) if "weight_ih" in shapes else 0
        return w_ih, self.width * prod(shapes["weight_hh"])

    @cached_property
    def parameters(self) -> int:
        """Its weights, in float32."""
        return SINGLE * sum(prod(shape) for shape in layer_shapes(self.layer).values())

    @cached_property
    def is_fused(self) -> bool:
        """Whether the fused implementation computes it in training."""
        spec = self.layer.stack
        has_dropout = any((spec.dropout, spec.input_dropout, spec.recurrent_dropout))
        has_durations = spec.duration_strategy != "none" or spec.memory_decay
        return self.layer.is_standard_cell and not has_dropout and not has_durations

    @cached_property
    def uses_winograd(self) -> bool:
        """Whether Winograd's algorithm computes its convolutions."""
        is_supported = self.is_fused and self.width == SINGLE
        return is_supported and winograd.is_faster(self.layer, self.steps, self.batch, self.size)

    @cached_property
    def is_joint(self) -> bool:
        """Whether Winograd's algorithm convolves the input together with h."""
        return self.uses_winograd and winograd.is_joint(self.layer, self.size)

    @property
    def steps_per_chunk(self) -> int:
        """Steps whose input the fused implementation convolves together."""
        return min(self.steps, max(1, BLOCK_VALUES // self.c))

    @property
    def gate_arithmetic(self) -> int:
        """Two temporary arrays of the size of the gates and two of the size of c, of a block of one step."""
        values = self.c  # four gates in values, as many as bytes of c
        if values > BLOCK_VALUES:
            values = max(BLOCK_VALUES // 4, values // self.batch)
        return 5 * SINGLE * values // 2

    @property
    def saved(self) -> int:
        """What the forward pass saves for the backward pass, without the frames of the caller."""
        saved = sum(self.kernels) if self.width < SINGLE else 0
        if self.continues or not self.is_fused:
            saved += self.h + self.c
        if not self.is_fused:
            return saved + self._padded_frames + self.steps * self._saved_by_generic_step
        if self.width < SINGLE and not self.layer.index:
            saved += self.frames
        return saved + 4 * self.steps * self.h + (self.steps + 1) * (self.h + self.c)

    @property
    def workspace(self) -> int:
        """The largest set of temporary arrays in its backward pass."""
        gates = 4 * self.steps * self.h
        if not self.is_fused:  # the gradient of W_ih ∗ x, the partial sum, and products of one step
            return max(gates, 2 * (gates - self._saved_by_generic_step)) + 5 * self.c
        w_ih, w_hh = self.kernels
        d_input = self.frames if self.input_gradient else 0
        copies = self.frames if self.is_copied else 0
        if len(self.grid) == 1:  # PyTorch has no channels last there, so that oneDNN copies dz and h
            copies += gates + self.steps * self.h
        elif self.is_copied:  # of as many steps as the engine convolves together
            copies = copies // self.steps * self.steps_per_chunk
        if self.uses_winograd:
            filters = (w_hh + (w_ih if self.is_joint else 0)) * winograd.points(self.layer)
            kernel_forms = 3 * filters // self.layer.recurrent_kernel_size[0]
        else:
            kernel_forms = w_hh + _KERNEL_FORMS * max(w_ih, w_hh)
        return self.h + self.c + kernel_forms + max(self.gate_arithmetic, d_input + copies)

    @property
    def forward_workspace(self) -> int:
        """The temporary arrays of its forward pass without gradients."""
        if not self.is_fused:
            return 5 * self.steps * self.h + 4 * self.c
        return 4 * self.h * self.steps_per_chunk + self.h + self.c + 2 * sum(self.kernels) + self.gate_arithmetic

    @property
    def winograd_buffers(self) -> int:
        """Products, input transforms and padded inputs of Winograd's algorithm, which all layers share."""
        if not self.uses_winograd:
            return 0
        samples = min(self.steps * self.batch, winograd.samples(self.layer, self.grid))
        inputs, points = sum(winograd.channels(self.layer, self.size)), winograd.points(self.layer)
        rows = points * (4 * self.layer.hidden_channels + inputs) // winograd.ROWS + inputs
        return SINGLE * samples * prod(self.grid) * rows

    @property
    def _padded_frames(self) -> int:
        layer = self.layer
        widths = pad_widths(self.size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
        points = prod(n + before + after for n, (before, after) in zip(self.size, widths, strict=True))
        return self.frames // prod(self.size) * points

    @property
    def _saved_by_generic_step(self) -> int:
        """What autograd saves of one step in the generic implementation.

        The four gates, c and φ(c), h with its padding; then what the options add: the scaled candidate, the decayed
        cell, three forms of the four gates around a norm, a mask and its complement for each zoneout, and the mask
        on the output before the next layer.
        """
        spec, layer = self.layer.stack, self.layer
        points = prod(n + k - 1 for n, k in zip(self.grid, layer.recurrent_kernel_size, strict=True))
        saved = 4 * self.h + 2 * self.c + self.h // prod(self.grid) * points
        if spec.norm != "none":
            saved += 12 * self.h
        arrays = (spec.duration_strategy != "none") + spec.memory_decay
        arrays += 2 * (spec.zoneout_h > 0) + 2 * (spec.zoneout_c > 0)
        arrays += spec.dropout > 0 and layer.index < spec.depth - 1
        return saved + arrays * self.c


def runs(call: Call, batch: int, width: int) -> list[list[Run]]:
    """Return the runs of a stack: its layers, first to last, each with its directions; `width` is that of a value."""
    size, result = call.size, []
    is_concatenated = len(call.spec.directions) > 1 and call.spec.merge in ("concat", "apart")
    for layer in call.spec.layers:
        is_copied = not layer.index or is_concatenated
        gradient = call.input_gradient or layer.index > 0
        fixed = (batch, call.steps, size, width, is_copied, gradient, call.continues)
        result.append([Run(layer, direction, *fixed) for direction in call.spec.directions])
        size = layer.grid(size)
    return result


Stage = tuple[int, list[Run]]
"""How often a layer runs in a step, and its directions."""


def training_memory(spec: Spec, workload: Workload) -> int:
    """Return the peak of a training step after the first, in bytes, with a mean square as the loss.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=3)
        >>> training_memory(stack, Workload(shape=(10, 64, 64, 64), batch=2)) // 10**6
        261
    """
    stages = _stages(spec, workload)
    saved, output = sum(map(_saved, stages)), _output(spec, workload, stages)
    hidden = 0
    loss = _SQUARE_FORMS * output - SINGLE * parameter_count(spec)  # the old gradients are deleted before
    if isinstance(spec, ForecasterSpec) or _is_separate(stages[-1]):
        loss += output
    if isinstance(spec, ForecasterSpec) and spec.rollout == "states":
        hidden = sum(run.steps * run.h for _, directions in stages[spec.encoder.depth :] for run in directions)
    head = 2 * hidden + 2 * output  # the gradient of the hidden states, and both in oneDNN's layout
    peak = max(saved + hidden + max(loss, head), _backward(stages, hidden + output))
    return _constant(spec, workload, stages) + max(peak, _optimiser(spec))


def checkpointed_memory(spec: ConvLSTMSpec, workload: Workload, segment: int) -> int:
    """Return the peak of a training step of a layer that computes segments of its steps again (`checkpoint`)."""
    stages = _stages(spec, replace(workload, shape=(segment, *workload.shape[1:])))
    count, weights = -(-workload.steps // segment), SINGLE * parameter_count(spec)
    output = count * _output(spec, workload, stages)
    fixed = count * sum(run.h + run.c for _, directions in stages for run in directions)
    if len(spec.directions) > 1:  # layer by layer, so that the inputs of all layers are kept
        fixed += count * sum(run.frames for _, directions in stages[1:] for run in directions[:1])
    peak = max((1 + _SQUARE_FORMS) * output - weights, weights + output + _backward(stages, output // count))
    return _constant(spec, workload, stages) + fixed + max(peak, _optimiser(spec))


def forward_memory(spec: Spec, workload: Workload) -> int:
    """Return the peak of a forward pass without gradients, in bytes: the frames, the weights and the widest layer."""
    stages = _stages(spec, workload)
    widest = below = hidden = 0
    for _, directions in stages:
        outputs = len(directions) * directions[0].steps * directions[0].h
        merged = outputs if len(directions) > 1 else 0
        widest = max(widest, hidden + below + outputs + merged + max(run.forward_workspace for run in directions))
        below = outputs
        if isinstance(spec, ForecasterSpec) and spec.rollout == "states" and not directions[0].layer.in_channels:
            hidden += outputs
    constant = _constant(spec, workload, stages) - 3 * SINGLE * parameter_count(spec)
    return constant + max(widest, 4 * hidden + 2 * _output(spec, workload, stages))  # joined, and twice reordered


def _stages(spec: Spec, workload: Workload) -> list[Stage]:
    width = WIDTHS[workload.precision]
    return [
        (call.runs, directions) for call in calls(spec, workload) for directions in runs(call, workload.batch, width)
    ]


def _constant(spec: Spec, workload: Workload, stages: Sequence[Stage]) -> int:
    """Return the frames, the weights with gradients and moments, and the buffers of Winograd's algorithm."""
    frames = SINGLE * workload.batch * prod(workload.shape)
    if isinstance(spec, ForecasterSpec):
        frames *= 2  # folded into patches
    buffers = max(run.winograd_buffers for _, directions in stages for run in directions)
    return frames + 4 * SINGLE * parameter_count(spec) + buffers


def _output(spec: Spec, workload: Workload, stages: Sequence[Stage]) -> int:
    """Return the bytes of the result in float32."""
    if isinstance(spec, ForecasterSpec):
        return SINGLE * workload.batch * workload.horizon * spec.frame_channels * prod(workload.size)
    _, directions = stages[-1]
    return _joined(directions) // directions[0].width * SINGLE


def _joined(directions: Sequence[Run]) -> int:
    """Return the bytes of a layer's output."""
    is_concatenated = len(directions) > 1 and directions[0].layer.stack.merge in ("concat", "apart")
    return directions[0].steps * directions[0].h * (2 if is_concatenated else 1)


def _is_separate(stage: Stage) -> bool:
    """Return whether the output in the loss is another array than those that are saved: converted, or stacked."""
    _, directions = stage
    return directions[0].width < SINGLE or (len(directions) == 1 and not directions[0].is_fused)


def _saved(stage: Stage) -> int:
    """Return what a layer saves in all its runs, with its merged output and frames that are fed back."""
    count, directions = stage
    saved = sum(run.saved for run in directions)
    if len(directions) > 1:
        saved += _joined(directions)
    first = directions[0]
    if first.continues and first.input_gradient and not first.layer.index:
        saved += first.frames
    return count * saved


def _backward(stages: Sequence[Stage], gradient: int) -> int:
    """Return the peak of the backward pass; a layer's arrays are deleted after it. `gradient` is that of the output."""
    saved, peak = sum(map(_saved, stages)), 0
    for stage in reversed(stages):
        _, directions = stage
        peak = max(peak, saved + gradient + max(run.workspace for run in directions))
        saved -= _saved(stage)
        if directions[0].layer.index:
            gradient = directions[0].frames
    return peak


def _optimiser(spec: Spec) -> int:
    """Return the temporary arrays of AdamW, which takes one weight after the other."""
    return 2 * SINGLE * max(prod(shape) for shape in canonical_shapes(spec).values())
