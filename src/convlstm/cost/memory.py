"""The peak memory of a model in PyTorch on a CPU, estimated from its spec.

    peak of training = frames + 4 · weights + Winograd buffers + max over the layers, last to first, of
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
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import Spec, canonical_shapes, layer_shapes, parameter_count

SINGLE = 4
"""Bytes of a float32 value."""
WIDTHS = {"float32": SINGLE, "bfloat16": 2}
"""Bytes of a value in the type that convolutions compute in, by precision."""
_KERNEL_FORMS = 5  # W_hh flipped; a kernel channels last, its gradient in oneDNN's layout, as requested, and in float32
_SQUARE_FORMS = 4  # arrays of the gradient of a mean square: that of the mean, and three factors and products
_BLOCK = 16  # channels per block of oneDNN's layout


@dataclass(frozen=True)
class Run:
    """One layer in one direction over a sequence in training; sizes are in bytes."""

    layer: LayerSpec
    direction: str
    call: Call
    batch: int
    size: Size  # of its input
    width: int  # of a value in the type that convolutions compute in

    @cached_property
    def grid(self) -> Size:
        """Points per spatial axis of its states."""
        return self.layer.grid(self.size)

    @property
    def h(self) -> int:
        """The hidden state of one step."""
        return self.batch * self.layer.hidden_channels * prod(self.grid) * self.width

    @property
    def c(self) -> int:
        """The cell state of one step, in float32."""
        return self.h // self.width * SINGLE

    @property
    def outputs(self) -> int:
        """The hidden states of all steps."""
        return self.call.steps * self.h

    @property
    def frames(self) -> int:
        """Its input."""
        return self.call.steps * self.batch * self.layer.in_channels * prod(self.size) * self.width

    @property
    def has_input_gradient(self) -> bool:
        """Whether the gradient of its input is taken."""
        return self.layer.index > 0 or self.call.input_gradient

    @cached_property
    def kernels(self) -> tuple[int, int]:
        """W_ih, 0 for a layer without input, and W_hh, in the type that convolutions compute in."""
        shapes = layer_shapes(self.layer)
        w_ih = self.width * prod(shapes["weight_ih"]) if "weight_ih" in shapes else 0
        return w_ih, self.width * prod(shapes["weight_hh"])

    @property
    def parameters(self) -> int:
        """Its weights, in float32."""
        return SINGLE * sum(prod(shape) for shape in layer_shapes(self.layer).values())

    @property
    def is_fused(self) -> bool:
        """Whether the fused implementation computes it in training."""
        spec = self.layer.stack
        has_dropout = any((spec.dropout, spec.input_dropout, spec.recurrent_dropout))
        has_durations = spec.duration_strategy != "none" or spec.memory_decay
        return self.layer.is_standard_cell and not has_dropout and not has_durations

    @property
    def uses_winograd(self) -> bool:
        """Whether Winograd's algorithm computes its convolutions."""
        is_supported = self.is_fused and self.width == SINGLE
        return is_supported and winograd.is_faster(self.layer, self.call.steps, self.batch, self.size)

    @property
    def is_joint(self) -> bool:
        """Whether Winograd's algorithm convolves the input together with h."""
        return self.uses_winograd and winograd.is_joint(self.layer, self.size)

    @property
    def saved(self) -> int:
        """What the forward pass saves for the backward pass, without the frames of the caller."""
        saved = sum(self.kernels) if self.width < SINGLE else 0
        if self.call.continues or not self.is_fused:
            saved += self.h + self.c
        if not self.is_fused:
            layer = self.layer
            widths = pad_widths(self.size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
            points = prod(n + before + after for n, (before, after) in zip(self.size, widths, strict=True))
            padded_frames = self.frames // prod(self.size) * points
            return saved + padded_frames + self.call.steps * self.saved_by_generic_step
        if self.width < SINGLE and not self.layer.index:
            saved += self.frames
        return saved + 5 * self.outputs + self.h + (self.call.steps + 1) * self.c

    @property
    def saved_by_generic_step(self) -> int:
        """What autograd saves of one step: gates, c, φ(c) and h with its padding; then what the options add."""
        spec, layer = self.layer.stack, self.layer
        padded_points = prod(n + sum(width) for n, width in zip(self.grid, layer.recurrent_widths, strict=True))
        saved = 4 * self.h + 2 * self.c + self.h // prod(self.grid) * padded_points
        if spec.norm != "none":
            saved += 12 * self.h  # three forms of the gates
        arrays = (spec.duration_strategy != "none") + spec.memory_decay  # the scaled candidate, the decayed cell
        arrays += 2 * (spec.zoneout_h > 0) + 2 * (spec.zoneout_c > 0)  # a mask and its complement
        arrays += spec.dropout > 0 and layer.index < spec.depth - 1
        return saved + arrays * self.c

    @property
    def steps_per_chunk(self) -> int:
        """Steps whose input the fused implementation convolves together; c has as many bytes as z has values."""
        return min(self.call.steps, max(1, BLOCK_VALUES // self.c))

    @property
    def gate_arithmetic(self) -> int:
        """Two temporary arrays of the size of z and two of the size of c, for one block of a step."""
        values = self.c
        if values > BLOCK_VALUES:
            values = max(BLOCK_VALUES // 4, values // self.batch)
        return 5 * SINGLE * values // 2

    @property
    def workspace(self) -> int:
        """The largest set of temporary arrays in its backward pass."""
        if not self.is_fused:  # the gradient of W_ih ∗ x, the partial sum, and products of one step
            unread = self.call.steps * 4 * self.h - self.saved_by_generic_step
            return max(4 * self.outputs, 2 * unread) + 5 * self.c
        convolution = self.frames if self.has_input_gradient else 0
        is_joined = len(self.call.spec.directions) > 1 and self.call.spec.merge in ("concat", "separate")
        if self.layer.index == 0 or is_joined:  # a copy of the input with channels last, of one chunk at a time
            convolution += self.frames // self.call.steps * self.steps_per_chunk
        if len(self.grid) == 1:  # PyTorch has no channels last there, so that oneDNN copies dz and h
            convolution += 5 * self.outputs
        w_ih, w_hh = self.kernels
        kernel_forms = _KERNEL_FORMS * max(w_ih, w_hh)
        if self.uses_winograd:
            filters = w_hh + w_ih if self.is_joint else w_hh
            kernel_forms = 3 * filters * winograd.points(self.layer) // self.layer.recurrent_kernel_size[0]
        return self.h + self.c + kernel_forms + max(self.gate_arithmetic, convolution)

    @property
    def forward_workspace(self) -> int:
        """The temporary arrays of its forward pass without gradients."""
        if not self.is_fused:
            return 5 * self.outputs + 4 * self.c
        return 4 * self.h * self.steps_per_chunk + self.h + self.c + 2 * sum(self.kernels) + self.gate_arithmetic

    @property
    def winograd_buffers(self) -> int:
        """Products, input transforms and padded inputs of Winograd's algorithm, which all layers share."""
        if not self.uses_winograd:
            return 0
        samples = min(self.call.steps * self.batch, winograd.samples(self.layer, self.grid))
        inputs, points = sum(winograd.channels(self.layer, self.size)), winograd.points(self.layer)
        values = points * (4 * self.layer.hidden_channels + inputs) // winograd.ROWS + inputs
        return SINGLE * samples * prod(self.grid) * values


@dataclass(frozen=True)
class Detail:
    """The arrays at full resolution of a forecaster with `detail_channels`; sizes are in bytes."""

    spec: ForecasterSpec
    workload: Workload

    @property
    def points(self) -> int:
        """One channel of a frame of each sample, in float32."""
        return SINGLE * self.workload.batch * prod(self.workload.size)

    @property
    def modulated(self) -> int:
        """One value for each feature and lead time, in float32."""
        return self.workload.horizon * self.spec.detail_features * self.points

    @property
    def width(self) -> float:
        """Width of a convolution's result, as a part of that of float32."""
        return WIDTHS[self.workload.precision] / SINGLE

    @property
    def features(self) -> int:
        """The frames that are convolved, the arrays of both convolutions, and the features."""
        frames = self.spec.detail_features - self.spec.detail_channels
        convolved = 3 * self.spec.detail_channels * self.width
        return int((frames + convolved + self.spec.detail_features) * self.points)

    @property
    def coarse(self) -> int:
        """Gain and offset on the grid of the patches."""
        return int(2 * self.width * self.modulated) // self.spec.patch_size**2

    @property
    def saved(self) -> int:
        """What the forward pass saves: features, gain, and modulated features before and after their activation.

        The gain and the last array have the type that convolutions compute in.
        """
        return self.features + int((1 + 2 * self.width) * self.modulated)

    @property
    def enlarged(self) -> int:
        """Gain and offset on the grid of the frames."""
        return int(2 * self.width * self.modulated)

    @property
    def activated(self) -> int:
        """The modulated features of the convolutions after their activation."""
        return self.modulated // self.spec.detail_features * self.spec.detail_channels

    @property
    def last_convolution(self) -> int:
        """Copies for the last convolution: its input converted, input and output in blocks of channels; its output."""
        inputs, outputs = self.spec.detail_features, self.spec.output_channels
        converted = inputs if self.width < 1 else 0
        channels = converted + _in_blocks(inputs) + _in_blocks(outputs) + outputs
        return int(channels * self.width * self.points * self.workload.horizon)

    @property
    def training(self) -> int:
        """The peak of its forward and backward pass.

        It is in the last convolution, or in bfloat16 in the gradient of the product with the gain: three gradients, the
        gain in both types, and the gradient of the offset.
        """
        gain = int(self.width * self.modulated)
        forward = self.enlarged + gain + 2 * self.modulated + self.last_convolution
        backward = 5 * self.modulated if self.width < 1 else 0
        return self.features + self.coarse + max(forward, backward)

    @property
    def forward(self) -> int:
        """The peak of its forward pass without gradients."""
        joined = 2 * self.modulated + self.activated  # the activated features with the others
        convolved = self.modulated + self.last_convolution
        return self.features + self.coarse + self.enlarged + max(joined, convolved)


def _in_blocks(channels: int) -> int:
    """Return the channels of an array in oneDNN's layout."""
    return -(-channels // _BLOCK) * _BLOCK


def runs(call: Call, batch: int, width: int) -> list[list[Run]]:
    """Return the runs of a stack: its layers, first to last, each with its directions; `width` is that of a value."""
    size, layers = call.size, []
    for layer in call.spec.layers:
        layers.append([Run(layer, direction, call, batch, size, width) for direction in call.spec.directions])
        size = layer.grid(size)
    return layers


def training_memory(spec: Spec, workload: Workload) -> int:
    """Return the peak of a training step after the first, in bytes, with a mean square as the loss.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=3)
        >>> training_memory(stack, Workload(shape=(10, 64, 64, 64), batch=2)) // 10**6
        261
    """
    layers = _layers(spec, workload)
    saved, output, hidden = sum(map(_saved, layers)), _output(spec, workload, layers), _head_input(spec, layers)
    loss = _SQUARE_FORMS * output - SINGLE * parameter_count(spec)  # the old gradients are deleted before
    last = layers[-1]
    is_stacked = len(last) == 1 and not last[0].is_fused
    if isinstance(spec, ForecasterSpec) or is_stacked or workload.precision != "float32":
        loss += output  # an array other than those that are saved, or converted for the loss
    head = 2 * hidden + 2 * output  # the gradient of the hidden states, and both in oneDNN's layout
    if isinstance(spec, ForecasterSpec) and spec.detail_channels:
        head = Detail(spec, workload).training
        loss += Detail(spec, workload).saved
    peak = max(saved + hidden + max(loss, head), _backward(layers, hidden + output))
    return _constant(spec, workload, layers) + max(peak, _optimiser(spec))


def checkpointed_memory(spec: ConvLSTMSpec, workload: Workload, segment: int) -> int:
    """Return the peak of a training step of a layer that computes segments of its steps again (`checkpoint`)."""
    layers = _layers(spec, replace(workload, shape=(segment, *workload.shape[1:])))
    count, weights = -(-workload.steps // segment), SINGLE * parameter_count(spec)
    output = count * _output(spec, workload, layers)
    kept = count * sum(run.h + run.c for directions in layers for run in directions)
    if len(spec.directions) > 1:  # layer by layer, so that the inputs of all layers are kept
        kept += count * sum(directions[0].frames for directions in layers[1:])
    peak = max((1 + _SQUARE_FORMS) * output - weights, weights + output + _backward(layers, output // count))
    return _constant(spec, workload, layers) + kept + max(peak, _optimiser(spec))


def forward_memory(spec: Spec, workload: Workload) -> int:
    """Return the peak of a forward pass without gradients, in bytes."""
    layers = _layers(spec, workload)
    hidden, widest, below = _head_input(spec, layers), 0, 0
    for directions in layers:
        outputs = sum(run.outputs for run in directions)
        merged = outputs if len(directions) > 1 else 0
        widest = max(widest, below + outputs + merged + max(run.forward_workspace for run in directions))
        below = outputs
    constant = _constant(spec, workload, layers) - 3 * SINGLE * parameter_count(spec)
    if not isinstance(spec, ForecasterSpec):
        return constant + widest
    head = 3 * hidden + 2 * _output(spec, workload, layers)  # joined and reordered
    if spec.detail_channels:
        head = Detail(spec, workload).forward
    return constant + hidden + max(widest, head)


def _layers(spec: Spec, workload: Workload) -> list[list[Run]]:
    """Return the layers of all stacks of a model, each with its directions."""
    width = WIDTHS[workload.precision]
    return [directions for call in calls(spec, workload) for directions in runs(call, workload.batch, width)]


def _constant(spec: Spec, workload: Workload, layers: Sequence[Sequence[Run]]) -> int:
    """Return the frames, the weights with gradients and moments, and the buffers of Winograd's algorithm."""
    frames = SINGLE * workload.batch * prod(workload.shape)
    if isinstance(spec, ForecasterSpec):
        frames *= 2  # folded into patches
    buffers = max(run.winograd_buffers for directions in layers for run in directions)
    return frames + 4 * SINGLE * parameter_count(spec) + buffers


def _output(spec: Spec, workload: Workload, layers: Sequence[Sequence[Run]]) -> int:
    """Return the bytes of the result in float32."""
    if isinstance(spec, ForecasterSpec):
        return SINGLE * workload.batch * workload.horizon * spec.output_channels * prod(workload.size)
    return _joined(layers[-1]) // WIDTHS[workload.precision] * SINGLE


def _head_input(spec: Spec, layers: Sequence[Sequence[Run]]) -> int:
    """Return the hidden states of all layers that the output convolution joins; 0 where it takes those of one step."""
    if not isinstance(spec, ForecasterSpec) or spec.rollout == "feedback":
        return 0
    return sum(run.outputs for directions in layers[spec.encoder.depth :] for run in directions)


def _joined(directions: Sequence[Run]) -> int:
    """Return the bytes of a layer's output."""
    is_concatenated = len(directions) > 1 and directions[0].call.spec.merge in ("concat", "separate")
    return directions[0].outputs * (2 if is_concatenated else 1)


def _saved(directions: Sequence[Run]) -> int:
    """Return what a layer saves in all its runs, with its merged output and frames that are fed back."""
    saved, first = sum(run.saved for run in directions), directions[0]
    if len(directions) > 1:
        saved += _joined(directions)
    if first.call.input_gradient and first.layer.index == 0:
        saved += first.frames
    return first.call.runs * saved


def _backward(layers: Sequence[Sequence[Run]], gradient: int) -> int:
    """Return the peak of the backward pass; a layer's arrays are deleted after it. `gradient` is that of the output."""
    saved, peak = sum(map(_saved, layers)), 0
    for directions in reversed(layers):
        peak = max(peak, saved + gradient + max(run.workspace for run in directions))
        saved -= _saved(directions)
        if directions[0].layer.index:
            gradient = directions[0].frames
    return peak


def _optimiser(spec: Spec) -> int:
    """Return the temporary arrays of AdamW, which takes one weight after the other."""
    return 2 * SINGLE * max(prod(shape) for shape in canonical_shapes(spec).values())
