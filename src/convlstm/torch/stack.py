"""A stack of layers over a time-first sequence, in one piece or in segments that are computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from convlstm.engine.torch import recurrence as engine
from convlstm.engine.torch.buffers import release_memory
from convlstm.engine.torch.recurrence import State
from convlstm.engine.torch.rows import Rows, divided
from convlstm.frontend.layers import run_layers
from convlstm.spec import parsing
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

WeightsOf = Callable[[int, str], dict[str, Tensor]]


@dataclass(frozen=True)
class StepInputs:
    """The inputs of the steps of a call other than their frames: mask and times (batch, time), and dropout masks.

    `output_masks` say per direction where the output is not zero, which a segment cannot tell from its mask.
    """

    mask: Tensor | None = None
    durations: Tensor | None = None
    gaps: dict[str, Tensor] | None = None
    dropout_masks: DropoutMasks | None = None
    output_masks: dict[str, Tensor] | None = None

    def part(self, span: slice) -> StepInputs:
        """Return the inputs of a span of steps."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, span]

        def cut_each(values: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
            return None if values is None else {name: array[:, span] for name, array in values.items()}

        return StepInputs(
            cut(self.mask),
            cut(self.durations),
            cut_each(self.gaps),
            self.dropout_masks and self.dropout_masks.map_steps(lambda mask: mask[span]),
            cut_each(self.output_masks),
        )


Ran = tuple[list[Tensor], list[State]]
States = Sequence[State | None]
Segment = Callable[[Tensor | None, States, StepInputs, int], Ran]


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: WeightsOf,
    x: Tensor | None,
    states: States,
    given: StepInputs,
    *,
    steps: int,
    every_layer: bool = False,
    checkpoint: bool | int = False,
    rows: Rows | None = None,
) -> tuple[list[tuple[Tensor, ...]], list[State]]:
    """Run every layer and direction over x (time, batch, in_channels, *space).

    A stack without input takes frames of no channels, or None.

    States are (h, c) indexed layer · D + direction; None means zeros, for a stack with input. The outputs are time
    first, those of every layer or of the last one, each with the outputs of its directions, forward first.
    `checkpoint` is True for segments of √T steps, or the steps per segment. Where `rows` are divided among processes,
    each passes its block.
    """
    segment = math.ceil(math.sqrt(steps)) if checkpoint is True else int(checkpoint)
    run = _Run(spec, weights_of, every_layer, segment, rows)
    count = len(spec.directions)
    if run.segment and given.mask is not None:
        masks = {
            direction: engine.mask_of_output(spec, given.mask, reverse=direction == "reverse")
            for direction in spec.directions
        }
        given = replace(given, output_masks=masks)
    if run.segment:  # a segment reads its state again in the backward pass, when the caller may have changed it
        states = [None if state is None else (state[0].clone(), state[1].clone()) for state in states]
    if run.segment and count == 1:
        reverse = spec.directions == ("reverse",)
        outputs, final = _in_segments(run.through_stack, x, states, given, steps, run.segment, reverse)
    else:
        outputs, final = run.through_stack(x, states, given, steps)
    return [tuple(outputs[n : n + count]) for n in range(0, len(outputs), count)], final


@dataclass(frozen=True)
class _Run:
    """The arguments of `run_stack` that are the same in every segment."""

    spec: ConvLSTMSpec
    weights_of: WeightsOf
    every_layer: bool
    segment: int
    rows: Rows | None

    def through_stack(self, x: Tensor | None, states: States, given: StepInputs, steps: int) -> Ran:
        def run_layer(layer: LayerSpec, direction: str, x: Tensor | None, state: State | None) -> tuple[Tensor, State]:
            run = self._layer(layer, direction)
            if self.segment and len(self.spec.directions) > 1:  # else the stack as a whole is cut
                (output,), (after,) = _in_segments(run, x, [state], given, steps, self.segment, direction == "reverse")
            else:
                (output,), (after,) = run(x, [state], given, steps)
            return output, after

        outputs, final = run_layers(
            self.spec,
            x,
            states,
            run_layer,
            channel_concatenation(self.spec),
            masks=given.dropout_masks,
            every_layer=self.every_layer,
        )
        return [part for parts in outputs for part in parts], final

    def _layer(self, layer: LayerSpec, direction: str) -> Segment:
        if self.rows is not None:
            layer = divided(layer, self.rows)

        def run(x: Tensor | None, states: States, given: StepInputs, steps: int) -> Ran:
            output, state = engine.sequence(
                layer,
                self.weights_of(layer.index, direction),
                x if layer.in_channels else None,
                states[0],
                steps=steps,
                reverse=direction == "reverse",
                mask=given.mask,
                durations=given.durations,
                gaps=None if given.gaps is None else given.gaps[direction],
                masks=None if given.dropout_masks is None else given.dropout_masks.masks.get((layer.index, direction)),
                output_mask=None if given.output_masks is None else given.output_masks[direction],
            )
            return [output], [state]

        return run


def _in_segments(
    run: Segment,
    x: Tensor | None,
    states: States,
    given: StepInputs,
    steps: int,
    size: int,
    reverse: bool,
) -> Ran:
    """Run segments of `size` steps in the order of travel, each computed again in the backward pass."""
    spans = [slice(start, min(start + size, steps)) for start in range(0, steps, size)] or [slice(0, 0)]
    pieces: list[list[Tensor]] = []
    final: list[State] = []
    for span in reversed(spans) if reverse else spans:
        outputs, final = recompute(
            run,
            None if x is None else x[span],
            final or states,
            given.part(span),
            span.stop - span.start,
            use_reentrant=False,
            preserve_rng_state=False,  # the masks are sampled before
        )
        pieces.append(outputs)
    pieces = pieces[::-1] if reverse else pieces
    joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    del outputs, pieces
    if not torch.compiler.is_compiling():
        release_memory()  # what the pieces lay in is as large as what they made, and a segment needs little of it
    return joined, final


def read_checkpoint(value: object) -> bool | int:
    """Return `checkpoint`, a bool or a number of steps, after checking it."""
    return value if isinstance(value, bool) else parsing.integer("checkpoint", value, 1)


def channel_concatenation(spec: ConvLSTMSpec) -> Callable[[list[Tensor]], Tensor]:
    """Return the function that joins outputs of a stack along their channels."""
    axis = -1 - spec.spatial_dims
    return lambda parts: torch.cat(parts, dim=axis)
