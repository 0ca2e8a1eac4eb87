"""Compare an exported file with the reference on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convlstm.errors import ConvLSTMError, OutputError
from convlstm.export.options import GraphOptions, Physical
from convlstm.frontend.exported_inputs import GAPS_PREFIX
from convlstm.reference import forecaster as reference_forecaster
from convlstm.reference import recurrence as reference
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import check_boundary, pad_widths
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec

TOLERANCE = 1e-5
"""Largest allowed difference from the reference, relative to the largest value of an output if that is above 1."""
_LARGEST_GRID = 512
_SHARE_VALID = 0.7
Arrays = dict[str, Array]
Runner = Callable[[Arrays], Arrays]
"""Runs a file: from inputs to outputs, both by name and with channels first."""


@dataclass(frozen=True)
class Sizes:
    """The open sizes of an exported file in one comparison."""

    batch: int
    steps: int
    horizon: int
    space: tuple[int, ...]

    def __str__(self) -> str:
        """Return the sizes in words."""
        space = " × ".join(map(str, self.space))
        return f"batch {self.batch}, {self.steps} steps, {space} points"


def check_file(spec: Spec, weights: Mapping[str, Array], options: GraphOptions, run: Runner, path: object) -> float:
    """Return the largest difference of a file from the reference at two sizes.

    Raises:
        OutputError: if a difference exceeds `TOLERANCE`, or an output has another shape.
    """
    exact = {key: np.asarray(array, np.float32).astype(np.float64) for key, array in weights.items()}
    largest = 0.0
    for seed, sizes in enumerate(compared_sizes(spec, options)):
        inputs, expected = random_case(spec, exact, options, sizes, seed)
        received = run(inputs)
        for name, values in expected.items():
            output = received[name]
            if output.shape != values.shape:
                raise _mismatch(path, f"{name} of shape {output.shape} instead of {values.shape} for {sizes}")
            difference = relative_difference(output, values)
            if not difference <= TOLERANCE:
                raise _mismatch(path, f"a difference of {difference:.1g} in {name} for {sizes}")
            largest = max(largest, difference)
    return largest


def relative_difference(received: Array, expected: Array) -> float:
    """Return max|a − b| / max(1, max|b|); NaN counts as infinite."""
    difference = np.abs(received.astype(np.float64) - expected).max(initial=0.0)
    relative = float(difference / max(1.0, np.abs(expected).max(initial=0.0)))
    return relative if np.isfinite(relative) else float("inf")


def compared_sizes(spec: Spec, options: GraphOptions) -> list[Sizes]:
    """Return two sets of sizes that the file allows, with one step in the second."""
    stack, patch = (spec.encoder, spec.patch_size) if isinstance(spec, ForecasterSpec) else (spec, 1)
    fixed = options.size
    if stack.peephole == "pixel":
        fixed = tuple(patch * n for n in stack.input_size)
    if fixed is None:
        least = max(_least_size(stack), 4)
        spaces = [tuple(patch * (least + add + axis) for axis in range(stack.spatial_dims)) for add in (1, 2)]
        if options.physical is not None and patch > 1:
            spaces[1] = tuple(n - 1 for n in spaces[1])  # no multiple of the patch size
    else:
        spaces = [fixed, fixed]
    result = []
    fixed_horizon = None if options.form == "scan" else options.horizon
    for batch, steps, horizon, space in zip((2, 3), (4, 1), (3, 2), spaces, strict=True):
        result.append(Sizes(options.batch or batch, options.steps or steps, fixed_horizon or horizon, space))
    return result


def random_case(
    spec: Spec, weights: Mapping[str, Array], options: GraphOptions, sizes: Sizes, seed: int
) -> tuple[Arrays, Arrays]:
    """Return random inputs (float32, bool or integer) and the outputs of the reference, by the names in the file."""
    random = np.random.default_rng(seed)
    if isinstance(spec, ForecasterSpec):
        return _forecaster_case(spec, weights, options, sizes, random)
    return _layer_case(spec, weights, options, sizes, random)


def _layer_case(
    spec: ConvLSTMSpec, weights: Mapping[str, Array], options: GraphOptions, sizes: Sizes, random: np.random.Generator
) -> tuple[Arrays, Arrays]:
    is_step = options.form == "step"
    steps = 1 if is_step else sizes.steps
    inputs: Arrays = {}
    if spec.in_channels:
        inputs["x"] = _normal(random, (sizes.batch, steps, spec.in_channels, *sizes.space))
    elif options.form == "scan":
        inputs["steps"] = np.array([steps])
    states = None
    if options.has_states:
        states = _random_states(spec, sizes.batch, sizes.space, random, inputs)
    mask = random.random((sizes.batch, steps)) < _SHARE_VALID if options.mask else None
    if mask is not None:
        inputs["mask"] = mask
    times = _random_times(spec, sizes.batch, steps, random, inputs)
    x = inputs.get("x")
    output, final = reference.stack(
        spec, weights, None if x is None else x.astype(np.float64), states, steps=steps, mask=mask, **times
    )
    parts = output if isinstance(output, tuple) else (output,)
    names = ["output"] if len(parts) == 1 else [f"output.{n}" for n in range(len(parts))]
    expected = dict(zip(names, parts, strict=True)) | _final_states(final)
    if is_step:
        inputs = _of_one_step(inputs)
        expected["output"] = expected["output"][:, 0]
    return inputs, expected


def _forecaster_case(
    spec: ForecasterSpec, weights: Mapping[str, Array], options: GraphOptions, sizes: Sizes, random: np.random.Generator
) -> tuple[Arrays, Arrays]:
    """Return inputs and outputs; a graph of one step continues from the reference's states of the frames before."""
    is_step, stack = options.form == "step", spec.encoder
    inputs: Arrays = {"frames": _random_frames(spec, options.physical, sizes, random)}
    values = _model_values(inputs["frames"], options.physical, spec.patch_size)
    grid = tuple(n // spec.patch_size for n in values.shape[-2:])
    states, mask = None, None
    if options.states and not is_step:
        states = _random_states(stack, sizes.batch, grid, random, inputs)
    if options.mask:
        mask = random.random((sizes.batch, sizes.steps)) < _SHARE_VALID
        mask[:, -1] |= ~mask.any(axis=1)  # a row that continues from a state needs a valid frame
        inputs["mask"] = mask
    times = _random_times(stack, sizes.batch, sizes.steps, random, inputs)
    gaps = times.pop("gaps")
    times["gaps"] = None if gaps is None else gaps["forward"]
    if spec.uses_durations:
        lead = random.uniform(0.2, 3.0, (sizes.batch, sizes.horizon)) * stack.reference_duration
        inputs["lead_durations"] = lead.astype(np.float32)
        times["lead_durations"] = inputs["lead_durations"].astype(np.float64)
    elif options.form == "scan":
        inputs["horizon"] = np.array([sizes.horizon])
    forecast, final = reference_forecaster.forecast_and_states(
        spec, weights, values, sizes.horizon, mask=mask, states=states, **times
    )
    forecast = forecast[..., : sizes.space[0], : sizes.space[1]]
    expected = {"forecast": _output_values(spec, options, forecast)}
    if options.has_states:
        expected |= _final_states(final)
    if is_step:
        _continue_from_states(spec, weights, values, inputs, expected, times)
    return inputs, expected


def _continue_from_states(
    spec: ForecasterSpec,
    weights: Mapping[str, Array],
    values: Array,
    inputs: Arrays,
    expected: Arrays,
    times: Mapping[str, Any],
) -> None:
    """Replace the inputs of a sequence by those of its last step, and add the states after the steps before."""
    before = {name: None if times.get(name) is None else times[name][:, :-1] for name in ("durations", "gaps")}
    _, states = reference_forecaster.forecast_and_states(
        spec, weights, values[:, :-1], 1, **before, **({"lead_durations": None})
    )
    for name, array in list(inputs.items()):
        if name in ("frames", "durations", "gaps"):
            del inputs[name]
            inputs[name.removesuffix("s") if name != "frames" else name] = array[:, -1]
    for n, (h, c) in enumerate(states):
        inputs |= {f"h_0.{n}": h.astype(np.float32), f"c_0.{n}": c.astype(np.float32)}
    earlier = spec.detail_frames - 1 if spec.detail_channels else 0
    if earlier:
        valid = np.ones(values.shape[:2], dtype=bool)
        last = reference_forecaster.last_frames
        inputs["frames_0"] = last(values[:, :-1], valid[:, :-1], earlier).astype(np.float32)
        expected["frames_n"] = last(values, valid, earlier)


def _random_frames(spec: ForecasterSpec, physical: Physical | None, sizes: Sizes, random: np.random.Generator) -> Array:
    channels = spec.frame_channels - (physical is not None and physical.moving)
    frames = _normal(random, (sizes.batch, sizes.steps, channels, *sizes.space))
    if physical is None:
        return frames
    if physical.transform["name"] == "standard":
        from convlstm.data import transform_from_dict

        frames = transform_from_dict(physical.transform).inverse(frames)
    elif physical.transform["name"] != "identity":
        frames = 10.0**frames * (frames > -0.5)  # rain, with dry points
    frames[random.random(frames.shape) < 0.1] = np.nan
    return frames.astype(np.float32)


def _model_values(frames: Array, physical: Physical | None, patch: int) -> Array:
    """Return frames as the model reads them, float64; with `physical` as `convlstm.nowcast.nowcaster` makes them."""
    if physical is None:
        return frames.astype(np.float64)
    from convlstm.data import carry_forward, transform_from_dict
    from convlstm.nowcast.moving_frame import with_known

    values = transform_from_dict(physical.transform).forward(frames)
    values = np.stack([with_known(part) for part in values]) if physical.moving else carry_forward(values)
    extra = [(0, 0)] * 3 + [(0, -n % patch) for n in values.shape[-2:]]
    return np.pad(values, extra, mode="edge").astype(np.float64)


def _output_values(spec: ForecasterSpec, options: GraphOptions, forecast: Array) -> Array:
    """Return what the file has instead of the result of the model: probabilities, or physical values."""
    if spec.thresholds:
        as_probability = options.probability or options.physical is not None
        return 0.5 * (1.0 + np.tanh(0.5 * forecast)) if as_probability else forecast
    if options.physical is None:
        return forecast
    from convlstm.data import transform_from_dict

    values = transform_from_dict(options.physical.transform).inverse(forecast).astype(np.float64)
    return np.maximum(values, 0.0) if options.physical.rain else values


def _random_states(
    spec: ConvLSTMSpec, batch: int, space: tuple[int, ...], random: np.random.Generator, inputs: Arrays
) -> list[reference.State]:
    """Return random initial states, and add them to the inputs."""
    states = []
    for n, (h, c) in enumerate(reference.zero_states(spec, batch, space)):
        inputs[f"h_0.{n}"], inputs[f"c_0.{n}"] = 0.5 * _normal(random, h.shape), _normal(random, c.shape)
        states.append((inputs[f"h_0.{n}"].astype(np.float64), inputs[f"c_0.{n}"].astype(np.float64)))
    return states


def _random_times(
    spec: ConvLSTMSpec, batch: int, steps: int, random: np.random.Generator, inputs: Arrays
) -> dict[str, Any]:
    """Return random durations and gaps for the reference, None where unused, and add them to the inputs."""

    def sample(name: str) -> Array:
        values = random.uniform(0.2, 3.0, (batch, steps)) * spec.reference_duration
        inputs[name] = values.astype(np.float32)
        return inputs[name].astype(np.float64)

    durations = sample("durations") if spec.duration_strategy != "none" else None
    gaps = None
    if spec.memory_decay:
        is_one = len(spec.directions) == 1
        gaps = {direction: sample("gaps" if is_one else f"{GAPS_PREFIX}{direction}") for direction in spec.directions}
    return {"durations": durations, "gaps": gaps}


def _of_one_step(inputs: Arrays) -> Arrays:
    """Return the inputs of a sequence of one step by the names of a graph of one step."""
    names = {"durations": "duration", "gaps": "gap"}
    return {names.get(name, name): array[:, 0] if name in ("x", *names) else array for name, array in inputs.items()}


def _final_states(final: list[reference.State]) -> Arrays:
    return {f"{part}_n.{n}": values for n, pair in enumerate(final) for part, values in zip("hc", pair, strict=True)}


def _least_size(spec: ConvLSTMSpec) -> int:
    """Return the smallest side of a square input that every layer accepts, with its boundary."""
    for side in range(1, _LARGEST_GRID):
        size: tuple[int, ...] = (side,) * spec.spatial_dims
        try:
            for layer, grid in zip(spec.layers, spec.grids(size), strict=True):
                if layer.in_channels:
                    per_layer = (layer.kernel_size, layer.stride, layer.dilation, layer.padding)
                    check_boundary(size, pad_widths(size, *per_layer), spec.boundary)
                check_boundary(grid, layer.recurrent_widths, spec.boundary)
                size = grid
        except ConvLSTMError:
            continue
        return side
    return _LARGEST_GRID


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(random.standard_normal(shape, dtype=np.float32))


def _mismatch(path: object, received: str) -> OutputError:
    return OutputError(
        str(path),
        expected=f"numbers within {TOLERANCE:g} of the reference",
        received=received,
        hint="Export the model in another format. Nothing was written.",
    )
