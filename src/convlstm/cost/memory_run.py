"""The arrays of one layer run over a sequence in training, in bytes: those that the engine saves, and temporary ones.

It follows the fused implementation in `convlstm.engine.torch.fused` and, for a layer that this does not compute, the
generic one in `convlstm.engine.torch.recurrence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

from convlstm.cost.workload import Call
from convlstm.engine.torch import winograd_rule as winograd
from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.spec.geometry import Widths, pad_widths, recurrent_pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import layer_shapes

SINGLE = 4
"""Bytes of a float32 value."""
WIDTHS = {"float32": SINGLE, "bfloat16": 2}
"""Bytes of a value in the type that convolutions compute in, by precision."""


@dataclass(frozen=True)
class Run:
    """One layer in one direction over a sequence.

    Args:
        layer: The layer.
        direction: `forward` or `reverse`.
        batch: Samples.
        steps: Steps.
        size: Spatial size of its input.
        width: Bytes of a value in the type that convolutions compute in.
        source: Source of its input: the `caller`, the `layer` below, or its `joined` directions.
        input_gradient: Whether the gradient of the input is taken.
        continues: Whether it starts from the final states of a previous run, which are separate arrays.
    """

    layer: LayerSpec
    direction: str
    batch: int
    steps: int
    size: Size
    width: int
    source: str
    input_gradient: bool
    continues: bool

    @property
    def spec(self) -> ConvLSTMSpec:
        """The stack it belongs to."""
        return self.layer.stack

    @cached_property
    def grid(self) -> Size:
        """Points per spatial axis of its states."""
        return self.layer.grid(self.size)

    @cached_property
    def h(self) -> int:
        """The hidden state of one step, in the type that convolutions compute in."""
        return self.batch * self.layer.hidden_channels * prod(self.grid) * self.width

    @cached_property
    def c(self) -> int:
        """The cell state of one step, in float32."""
        return self.h // self.width * SINGLE

    @property
    def outputs(self) -> int:
        """Hidden states of all steps."""
        return self.steps * self.h

    @property
    def gates(self) -> int:
        """The four gates of all steps."""
        return 4 * self.outputs

    @cached_property
    def frames(self) -> int:
        """Its input."""
        return self.steps * self.batch * self.layer.in_channels * prod(self.size) * self.width

    @cached_property
    def parameters(self) -> int:
        """Its weights, in float32."""
        return SINGLE * sum(prod(shape) for shape in layer_shapes(self.layer).values())

    @property
    def kernel_ih(self) -> int:
        """W_ih, in the type that convolutions compute in; 0 without input."""
        shapes = layer_shapes(self.layer)
        return self.width * prod(shapes["weight_ih"]) if "weight_ih" in shapes else 0

    @property
    def kernel_hh(self) -> int:
        """W_hh, in the type that convolutions compute in."""
        return self.width * prod(layer_shapes(self.layer)["weight_hh"])

    @cached_property
    def fused(self) -> bool:
        """Whether the fused implementation computes it in training."""
        spec = self.spec
        has_dropout = any((spec.dropout, spec.input_dropout, spec.recurrent_dropout))
        has_durations = spec.duration_strategy != "none" or spec.memory_decay
        return self.layer.is_standard_cell and not has_dropout and not has_durations

    @cached_property
    def winograd(self) -> bool:
        """Whether Winograd's algorithm computes its convolutions."""
        is_supported = self.fused and self.width == SINGLE
        return is_supported and winograd.is_faster(self.layer, self.steps, self.batch, self.size)

    @cached_property
    def joint(self) -> bool:
        """Whether Winograd's algorithm convolves the input together with h."""
        return self.winograd and winograd.is_joint(self.layer, self.size)

    @cached_property
    def points(self) -> int:
        """Points of the polynomials in Winograd's algorithm."""
        return winograd.points(self.layer)

    @property
    def convolved_together(self) -> int:
        """The kernels that Winograd's algorithm convolves together."""
        return self.kernel_hh + (self.kernel_ih if self.joint else 0)

    def at_points(self, kernels: int) -> int:
        """The filter transforms of kernels."""
        return kernels * self.points // self.layer.recurrent_kernel_size[0]

    @property
    def together(self) -> int:
        """Steps that Winograd's algorithm computes together for the gradients of x and the kernels."""
        return max(1, min(self.steps, winograd.samples(self.layer, self.grid) // self.batch))

    def near(self, steps: int) -> tuple[int, int, int]:
        """Return the temporary arrays of Winograd's algorithm.

        Args:
            steps: How many are computed together, unless fewer fit the block size.

        Returns:
            Products, input transforms, and inputs with padding.
        """
        samples = min(steps * self.batch, winograd.samples(self.layer, self.grid))
        widened = self.points * SINGLE * samples * prod(self.grid) // winograd.ROWS
        inputs = sum(winograd.channels(self.layer, self.size))
        padded = samples * (self.grid[0] + self.points - winograd.ROWS) * self.grid[1] * inputs * SINGLE
        return widened * 4 * self.layer.hidden_channels, widened * inputs, padded

    @property
    def kept(self) -> int:
        """What the forward pass saves for the backward pass, without the frames of the caller."""
        start = self.h + self.c if self.continues or not self.fused else 0
        cast = self.kernel_ih + self.kernel_hh if self.width < SINGLE else 0
        if self.fused:
            return cast + self.own_input + start + self.gates + (self.steps + 1) * (self.h + self.c)
        return cast + start + self.padded_frames + self.steps * self.generic_step

    @property
    def own_input(self) -> int:
        """A copy of the input that is saved: in low precision."""
        return self.frames if self.width < SINGLE and self.source == "caller" else 0

    @property
    def steps_per_chunk(self) -> int:
        """Number of steps whose input the fused implementation convolves together."""
        values = 4 * self.c // SINGLE
        return min(self.steps, max(1, BLOCK_VALUES // values))

    @property
    def scratch(self) -> int:
        """The temporary arrays of the gate arithmetic: two as large as the gates, and two as large as the cell."""
        values = 4 * self.c // SINGLE
        sample = values // self.batch
        if values > BLOCK_VALUES:
            values = min(values, max(1, BLOCK_VALUES // 4 // sample) * sample)
        return SINGLE * (2 * values + 2 * values // 4)

    @property
    def generic_step(self) -> int:
        """What autograd saves of one step in the generic implementation.

        The four gates, c and φ(c), h with its padding; then what the options add: the scaled candidate, the decayed
        cell, three forms of the four gates around a norm, a mask and its complement for each zoneout, and the mask
        on the output before the next layer.
        """
        spec, layer = self.spec, self.layer
        around = prod(n + k - 1 for n, k in zip(self.grid, layer.recurrent_kernel_size, strict=True))
        padded = self.h // prod(self.grid) * around
        scaled = (spec.duration_strategy != "none") + spec.memory_decay
        masks = (
            2 * bool(spec.zoneout_h) + 2 * bool(spec.zoneout_c) + (spec.dropout > 0 and layer.index < spec.depth - 1)
        )
        normed = 12 * self.h if spec.norm != "none" else 0
        return 4 * self.h + 2 * self.c + padded + scaled * self.c + normed + masks * self.c

    @cached_property
    def widths(self) -> Widths:
        """Points added around the input."""
        layer = self.layer
        return pad_widths(self.size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)

    @property
    def uneven(self) -> bool:
        """Whether the input is padded separately, because a convolution pads both sides equally."""
        return any(before != after for before, after in self.widths)

    @property
    def uneven_states(self) -> bool:
        """Whether h is padded separately, which an even recurrent kernel needs."""
        return any(before != after for before, after in recurrent_pad_widths(self.layer.recurrent_kernel_size))

    @cached_property
    def padded_frames(self) -> int:
        """The padded input."""
        around = prod(n + before + after for n, (before, after) in zip(self.size, self.widths, strict=True))
        return self.frames // prod(self.size) * around

    @property
    def channels_first(self) -> bool:
        """Whether the input convolution runs channels first, for which oneDNN makes copies in its own layout."""
        return len(self.size) == 1 or (self.layer.in_channels == 1 and set(self.layer.stride) != {1})

    @cached_property
    def made_ready(self) -> list[int]:
        """Successive copies of the input: padded if uneven, then in one batch and channels last."""
        size = self.padded_frames if self.uneven else self.frames
        copies = [size] if self.uneven else []
        return copies + ([size] if self.source != "layer" or self.uneven else [])

    @property
    def ready(self) -> int:
        """The last of these copies; 0 where no copy is needed."""
        return self.made_ready[-1] if self.made_ready else 0

    @property
    def making_ready(self) -> int:
        """Peak of these copies."""
        return max(first + second for first, second in pairwise([0, *self.made_ready, 0]))


def runs(call: Call, batch: int, width: int) -> list[list[Run]]:
    """Return the runs of a stack: its layers, first to last, each with its directions.

    Args:
        call: The stack and its sequence.
        batch: Samples.
        width: Bytes of a value in the type that convolutions compute in.

    Returns:
        One list per layer, with one run per direction.
    """
    size, result = call.size, []
    joins_directions = len(call.spec.directions) > 1 and call.spec.merge in ("concat", "separate")
    for layer in call.spec.layers:
        source = "caller"
        if layer.index:
            source = "joined" if joins_directions else "layer"
        gradient = call.input_gradient or layer.index > 0
        fixed = (batch, call.steps, size, width, source, gradient, call.continues)
        result.append([Run(layer, direction, *fixed) for direction in call.spec.directions])
        size = layer.grid(size)
    return result
