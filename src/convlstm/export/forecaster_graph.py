"""The ONNX graph of a forecaster: frames in, the frames or events that follow out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convlstm.export.cell import candidate_scale, cells_of, retention, stack_step
from convlstm.export.graph import BOOL, FLOAT, Graph
from convlstm.export.layer_graph import (
    StepInputs,
    add_final_states,
    add_states,
    add_step_times,
    add_times,
    counter,
    zero_states,
    zeros_like,
)
from convlstm.export.operations import activate, convolve, depth_to_space, pad, space_to_depth
from convlstm.export.options import GraphOptions
from convlstm.export.physical import crop, model_values, pad_to_patches, physical_values
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.types import Array

_DEFAULT_HORIZON = 12


@dataclass(frozen=True)
class _Context:
    """What the output of a forecast step reads: the last frame, or the features of the last frames."""

    last: str | None
    features: str | None


def forecaster_graph(spec: ForecasterSpec, arrays: Mapping[str, Array], options: GraphOptions) -> Graph:
    """Return the graph of a forecaster. Its inputs and outputs are listed in `docs/export.md`."""
    return _Builder(spec, arrays, options).build()


class _Builder:
    """The parts of a forecaster's graph, which share spec, arrays, options and sizes."""

    def __init__(self, spec: ForecasterSpec, arrays: Mapping[str, Array], options: GraphOptions) -> None:
        self.spec, self.arrays, self.options = spec, arrays, options
        self.graph = Graph("convlstm_forecaster", weight_type=options.weight_type)
        self.batch: int | str = options.batch or "batch"
        size = options.size
        if spec.encoder.peephole == "pixel":
            size = tuple(n * spec.patch_size for n in spec.encoder.input_size)
        self.space: list[int | str | None] = list(size or AXIS_NAMES[2])
        if size is not None:
            self.grid: list[int | str | None] = [-(-n // spec.patch_size) for n in size]
        else:
            self.grid = list(AXIS_NAMES[2]) if spec.patch_size == 1 else ["grid_height", "grid_width"]
        self.grids = [self.grid] * spec.encoder.depth
        self.earlier: tuple[str, list[int | str | None]] | None = None  # the frames that the next step needs

    def build(self) -> Graph:
        """Fill the graph and return it."""
        graph, options, physical = self.graph, self.options, self.options.physical
        is_step = options.form == "step"
        channels = self.spec.frame_channels - (physical is not None and physical.moving)
        time: list[int | str | None] = [] if is_step else [options.steps or "time"]
        input_frames = graph.add_input("frames", FLOAT, [self.batch, *time, channels, *self.space])
        frames = input_frames
        if physical is not None:
            frames = model_values(graph, frames, physical, steps=options.loop_steps, has_time=not is_step)
            frames = pad_to_patches(graph, frames, self.spec.patch_size, 2 + len(time))
        states, context = self._encode_step(frames) if is_step else self._encode(frames)
        forecast = self._forecast(states, context)
        if physical is not None:
            forecast = crop(graph, forecast, input_frames, 2 + len(time))
            if not self.spec.thresholds:
                forecast = physical_values(graph, forecast, physical)
        if options.probability or (physical is not None and self.spec.thresholds):
            forecast = graph.op("Sigmoid", forecast)
        horizon = options.horizon if options.lead_steps else "horizon"
        graph.add_output("forecast", forecast, FLOAT, [self.batch, horizon, self.spec.output_channels, *self.space])
        if options.has_states:
            add_final_states(graph, self.spec.encoder, states, self.batch, self.grids)
        if self.earlier is not None:
            graph.add_output("frames_n", self.earlier[0], FLOAT, self.earlier[1])
        return graph

    def _encode(self, frames: str) -> tuple[list[str], _Context]:
        """Return the states of the encoder after all frames, and what the output reads of the frames."""
        graph, spec, stack = self.graph, self.spec, self.spec.encoder
        mask = graph.add_input("mask", BOOL, [self.batch, self.options.steps or "time"]) if self.options.mask else None
        durations, gaps = add_times(graph, stack, self.batch, self.options.steps or "time")
        cells = list(cells_of(stack, "encoder.", self.arrays).values())
        if self.options.states:
            states = add_states(graph, stack, self.batch, self.grids)
        else:
            folded = space_to_depth(graph, self._frame_at(frames, 0), spec.patch_size, spec.frame_channels)
            states = zero_states(graph, stack, folded, first_axis=2)
        valid = None if mask is None else graph.expand_axes(mask, 2, 3, 4)
        inputs = StepInputs()
        inputs.add("frame", frames, FLOAT)
        inputs.add("valid", valid, BOOL)
        for n, cell in enumerate(cells):
            if durations is not None:
                inputs.add(f"factor.{n}", candidate_scale(graph, cell, durations), FLOAT)
            if gaps:
                inputs.add(f"retention.{n}", retention(graph, cell, gaps["forward"]), FLOAT)
        keeps_last = valid is not None and self._reads_last
        if keeps_last:
            states = [*states, zeros_like(graph, self._frame_at(frames, 0))]

        def step(body: Graph, before: list[str], values: list[str]) -> tuple[list[str], list[str]]:
            now = inputs.of_step(values)
            x = space_to_depth(body, now["frame"], spec.patch_size, spec.frame_channels)
            factors = [now[name] for name in inputs.names if name.startswith("factor.")]
            retentions = [now[name] for name in inputs.names if name.startswith("retention.")]
            after = stack_step(body, cells, x, before, factors, retentions, now.get("valid"))
            if keeps_last:
                after.append(body.op("Where", now["valid"], now["frame"], before[-1]))
            return after, []

        final, _ = graph.loop(states, inputs.pairs, step, 0, steps=self.options.loop_steps)
        last = None
        if self._reads_last:
            last = final[-1] if keeps_last else self._frame_at(frames, -1)
        features = self._features(self._last_frames(frames, valid)) if spec.detail_channels else None
        return final[: 2 * len(cells)], _Context(last, features)

    def _encode_step(self, frame: str) -> tuple[list[str], _Context]:
        """Return the states after one frame, and what the output reads of the last frames."""
        graph, spec = self.graph, self.spec
        cells = list(cells_of(spec.encoder, "encoder.", self.arrays).values())
        states = add_states(graph, spec.encoder, self.batch, self.grids)
        factors, retentions = add_step_times(graph, spec.encoder, cells, self.batch)
        x = space_to_depth(graph, frame, spec.patch_size, spec.frame_channels)
        after = stack_step(graph, cells, x, states, factors, retentions, None)
        features = None
        if spec.detail_channels:
            features = self._features(self._frames_of_steps(frame))
        return after, _Context(frame if self._reads_last else None, features)

    def _frames_of_steps(self, frame: str) -> str:
        """Return the last frames as channels; those before the current one are an input and an output."""
        graph, earlier = self.graph, self.spec.detail_frames - 1
        if not earlier:
            return frame
        channels = earlier * self.spec.frame_channels
        size = self.space
        if self.options.physical is not None:
            # in the graph's padded size
            size = [n * self.spec.patch_size if isinstance(n, int) else None for n in self.grid]
        dims = [self.batch, channels, *size]
        before = graph.add_input("frames_0", FLOAT, dims)
        joined = graph.concat([before, frame], 1)
        start = graph.integers(self.spec.frame_channels)
        kept = graph.slice(joined, start, graph.integers(channels + self.spec.frame_channels), 1)
        self.earlier = (kept, dims)
        return joined

    @property
    def _reads_last(self) -> bool:
        return self.spec.residual or self.spec.rollout == "feedback"

    def _frame_at(self, frames: str, step: int) -> str:
        return self.graph.op("Gather", frames, self.graph.constant(step, "int64"), axis=1)

    def _last_frames(self, frames: str, valid: str | None) -> str:
        """Return the last frames as channels (batch, count · channel, height, width); masked or absent ones are 0."""
        graph, count = self.graph, self.spec.detail_frames
        if valid is not None:
            frames = graph.op("Where", valid, frames, graph.constant(0.0))
        latest = graph.slice(frames, graph.integers(-count), graph.integers(2**31 - 1), 1)
        if self.options.loop_steps is None:
            missing = graph.op("Sub", graph.integers(count), graph.size(latest, 1))
            latest = pad(graph, latest, 1, missing, 0, "zeros")
        else:
            latest = pad(graph, latest, 1, max(count - self.options.loop_steps, 0), 0, "zeros")
        return graph.concat([self._frame_at(latest, n) for n in range(count)], 1)

    def _features(self, last: str) -> str:
        """Return the features at full resolution: two convolutions of the last frames, and these frames."""
        graph = self.graph
        first = _silu(graph, self._convolve("detail.0", last))
        second = graph.op("Add", first, _silu(graph, self._convolve("detail.1", first)))
        return graph.concat([second, last], 1)

    def _forecast(self, states: Sequence[str], context: _Context) -> str:
        """Return the output at all lead times (batch, horizon, output_channels, height, width)."""
        if self.spec.rollout == "feedback":
            return self._feedback(states, context)
        graph, spec = self.graph, self.spec
        cells = list(cells_of(spec.forecaster, "forecaster.", self.arrays).values())
        inputs = StepInputs()
        if spec.uses_durations:
            durations = graph.add_input("lead_durations", FLOAT, [self.batch, self.options.lead_steps or "horizon"])
            for n, cell in enumerate(cells):
                inputs.add(f"factor.{n}", candidate_scale(graph, cell, durations), FLOAT)
        else:
            inputs.add("count", self._counter(), FLOAT)

        def step(body: Graph, before: list[str], values: list[str]) -> tuple[list[str], list[str]]:
            now = inputs.of_step(values)
            factors = [now[name] for name in inputs.names if name.startswith("factor.")]
            after = stack_step(body, cells, None, before, factors, [], None)
            hidden = body.concat(after[::2], 1)
            return after, [self._output(body, hidden, context)]

        _, outputs = graph.loop(list(states), inputs.pairs, step, 1, steps=self.options.lead_steps)
        return outputs[0]

    def _feedback(self, states: Sequence[str], context: _Context) -> str:
        graph, spec = self.graph, self.spec
        cells = list(cells_of(spec.encoder, "encoder.", self.arrays).values())
        assert context.last is not None
        inputs = StepInputs()
        inputs.add("count", self._counter(), FLOAT)

        def step(body: Graph, before: list[str], _: list[str]) -> tuple[list[str], list[str]]:
            # h of the last layer is followed by its c and by the last frame
            frame = self._output(body, before[-3], _Context(before[-1], None))
            x = space_to_depth(body, frame, spec.patch_size, spec.frame_channels)
            return [*stack_step(body, cells, x, before, [], [], None), frame], [frame]

        start = [*states, context.last]
        _, outputs = graph.loop(start, inputs.pairs, step, 1, steps=self.options.lead_steps)
        return outputs[0]

    def _counter(self) -> str | None:
        """Return an array that counts the lead times of a loop; the number is an input with a default."""
        if self.options.lead_steps is not None:
            return None
        return counter(self.graph, self.graph.add_default("horizon", [self.options.horizon or _DEFAULT_HORIZON]))

    def _output(self, body: Graph, hidden: str, context: _Context) -> str:
        """Return the output of one lead time (batch, output_channels, height, width) from the hidden states."""
        spec = self.spec
        head = self._convolve("head", hidden, body)
        if spec.detail_channels:
            assert context.features is not None
            output = self._detailed_output(body, head, context.features)
        else:
            output = depth_to_space(body, head, spec.patch_size)
        if spec.thresholds:
            return _ordered_logits(body, output, len(spec.thresholds))
        output = activate(body, spec.output_activation, output)
        if spec.residual:
            assert context.last is not None
            output = body.op("Add", output, context.last)
        return output

    def _detailed_output(self, body: Graph, head: str, features: str) -> str:
        """Return the output from the features, with the gains and offsets that the hidden states give."""
        spec = self.spec
        if spec.patch_size > 1:
            scales = body.constant([1.0, 1.0, float(spec.patch_size), float(spec.patch_size)])
            options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            head = body.op("Resize", head, "", scales, **options)
        gain, offset = body.ops("Split", 2, head, axis=1, num_outputs=2)
        scaled = body.op("Mul", features, body.op("Add", gain, body.constant(1.0)))
        modulated = body.op("Add", scaled, offset)
        sizes = body.integers(spec.detail_channels, spec.detail_features - spec.detail_channels)
        convolved, passed = body.ops("Split", 2, modulated, sizes, axis=1)
        return self._convolve("output", body.concat([_silu(body, convolved), passed], 1), body)

    def _convolve(self, name: str, x: str, graph: Graph | None = None) -> str:
        """Return a convolution of the output's, which keeps the size of x."""
        graph = graph or self.graph
        kernel = self.arrays[f"{name}.weight"]
        has_bias = f"{name}.bias" in self.arrays
        return convolve(
            graph,
            x,
            graph.weight(f"{name}.weight", kernel),
            kernel=kernel.shape[2:],
            widths=[(n // 2, n // 2) for n in kernel.shape[2:]],
            boundary=("zeros", "zeros"),
            bias=graph.weight(f"{name}.bias", self.arrays[f"{name}.bias"]) if has_bias else None,
        )


def _ordered_logits(graph: Graph, output: str, count: int) -> str:
    """Return logits that never increase with the threshold: logit k is logit k − 1 minus softplus(output k)."""
    if count == 1:
        return output
    first, others = graph.ops("Split", 2, output, graph.integers(1, count - 1), axis=1)
    decrease = graph.op("CumSum", graph.op("Softplus", others), graph.constant(1, "int64"))
    return graph.concat([first, graph.op("Sub", first, decrease)], 1)


def _silu(graph: Graph, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))
