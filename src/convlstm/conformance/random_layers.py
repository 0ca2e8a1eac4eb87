"""Random configurations over the whole option space, with what the reference makes of them.

Tests, docs and `convlstm doctor --conformance` share them, so that a new case reaches every framework at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from typing import Any

import numpy as np

from convlstm.conformance.derivatives import normal, picker
from convlstm.errors import ConvLSTMError
from convlstm.frontend.dropout import MaskSpec, sample_masks
from convlstm.reference import recurrence as reference
from convlstm.spec.choices import ACTIVATIONS, DURATION_ACTIVATIONS, DURATION_STRATEGIES, RECURRENT_ACTIVATIONS
from convlstm.spec.durations import durations_from_times
from convlstm.spec.geometry import check_boundary, pad_widths
from convlstm.spec.masks import DropoutMasks, LayerMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import initialise

COMMON: dict[str, Any] = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "norm": "none",
    "groups": 1,
    "boundary": "zeros",
    "recurrent_dropout": 0.0,
    "zoneout_h": 0.0,
    "zoneout_c": 0.0,
    "duration_strategy": "none",
    "memory_decay": False,
}
"""The options of the common cell, for which an engine may have a quicker path."""

SMALL = {
    "spatial_dims": 1,
    "in_channels": 1,
    "hidden_channels": 1,
    "num_layers": 1,
    "kernel_size": 2,
    "recurrent_kernel_size": 3,
    "stride": 1,
    "dilation": 1,
    "recurrent_dilation": 1,
    "padding": "same",
    "groups": 1,
    "dropout": 0.0,
    "boundary": "replicate",
}
"""The options of a layer so small that a gradient can be held to the reference element by element."""

_RATES = ("input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c")


@dataclass(frozen=True)
class Case:
    """A layer stack with inputs for every argument.

    `arrays` are those that a gradient is taken of, in float64: `x`, `h.{n}`, `c.{n}`, `durations` (batch, time),
    `gaps.{direction}` (batch, time) and the weights by canonical key. x has 0 channels for a stack without input.
    Masked steps may hold NaN. `mask` (batch, time) is True where a step is valid, `masks` is None in evaluation, and
    `dropout` has the factors between layers (batch, time, channels, *grid).
    """

    seed: int
    spec: ConvLSTMSpec
    arrays: Mapping[str, Array]
    mask: Array | None = None
    masks: Mapping[tuple[int, str], LayerMasks] | None = None
    dropout: tuple[Array, ...] | None = None


def random_case(seed: int, size: tuple[int | None, ...] | None = None, **fixed: Any) -> Case:
    """Return a random, valid stack with inputs, whose grids are not empty.

    `size` is the spatial size of the frames, drawn where it is None; `fixed` are options that are not random.
    """
    for attempt in range(1000):
        random = np.random.default_rng([seed, attempt])
        try:
            drawn_options = _random_options(random, fixed.get("spatial_dims"))
            options = drawn_options | _later_options([seed, attempt, 1], drawn_options, fixed) | fixed
            drawn = random.integers(random.choice([1, 3, 3, 3]), 8, options["spatial_dims"])
            space = tuple(
                int(n) if wanted is None else wanted
                for n, wanted in zip(drawn, size or (None,) * len(drawn), strict=True)
            )
            spec = ConvLSTMSpec(**options, input_size=space if options["peephole"] == "pixel" else None)
            _check_boundaries(spec, space)
            return _tamed(_with_inputs(seed, random, spec, space))
        except ConvLSTMError:
            continue  # a combination that the contract refuses, or a kernel larger than the grid
    raise AssertionError(f"no valid case for {fixed}")


def common_case(seed: int) -> Case:
    """Return a random stack of the common cell, with peepholes for odd seeds, and dropout only on or between layers."""
    return random_case(seed, peephole=("none", "channel")[seed % 2], **COMMON)


def reference_arrays(
    case: Case, arrays: Mapping[str, Array] | None = None, norm_variances: list[float] | None = None
) -> dict[str, Array]:
    """Return the results of the reference by name; `arrays` replaces those of the case and may be complex."""
    arrays = case.arrays if arrays is None else arrays
    count = case.spec.depth * len(case.spec.directions)
    output, final = reference.stack(
        case.spec,
        arrays,
        arrays["x"] if case.spec.in_channels else None,
        [(arrays[f"h.{n}"], arrays[f"c.{n}"]) for n in range(count)],
        steps=case.arrays["x"].shape[1],
        mask=case.mask,
        durations=arrays.get("durations"),
        gaps={d: arrays[f"gaps.{d}"] for d in case.spec.directions} if case.spec.memory_decay else None,
        masks=case.masks,
        dropout=case.dropout,
        norm_variances=norm_variances,
    )
    return layer_results(output, *zip(*final, strict=True))


def layer_results(output: Any, h: Sequence[Any], c: Sequence[Any]) -> dict[str, Any]:
    """Return outputs and final states by name: `output` (or `output.0` and `output.1`), `h.{n}` and `c.{n}`."""
    results = (
        {f"output.{n}": part for n, part in enumerate(output)} if isinstance(output, tuple) else {"output": output}
    )
    for n, (h_n, c_n) in enumerate(zip(h, c, strict=True)):
        results |= {f"h.{n}": h_n, f"c.{n}": c_n}
    return results


def _random_options(random: np.random.Generator, spatial_dims: int | None) -> dict[str, Any]:
    pick = picker(random)

    def sizes(*values: int) -> list[tuple[int, ...]]:
        return [tuple(pick(*values) for _ in range(rank)) for _ in range(depth)]

    rank, depth = spatial_dims or int(pick(1, 2, 2, 3)), int(pick(1, 1, 2, 3))
    groups = pick(1, 1, 1, 2, 3)
    options = {
        "spatial_dims": rank,
        "in_channels": groups * pick(1, 1, 2, 3),
        "hidden_channels": [groups * pick(1, 1, 2, 3) for _ in range(depth)],
        "groups": [pick(1, groups) for _ in range(depth)],
        "kernel_size": sizes(1, 2, 3, 3, 4),
        "recurrent_kernel_size": sizes(1, 2, 3, 3, 5),
        "stride": sizes(1, 1, 2),
        "dilation": sizes(1, 1, 2),
        "padding": [pick("same", "same", "valid", *sizes(0, 1, 2)) for _ in range(depth)],
        "boundary": tuple(pick("zeros", "zeros", "replicate", "reflect", "circular") for _ in range(rank)),
        "bias": pick(True, True, False),
        "peephole": pick("none", "channel", "pixel"),
        "activation": pick("tanh", "tanh", *ACTIVATIONS),
        "recurrent_activation": pick("sigmoid", *RECURRENT_ACTIVATIONS),
        "norm": pick("none", "none", "layer", "group"),
        "direction": pick("forward", "reverse", "bidirectional"),
        "masked_output": pick("zero", "hold"),
        "duration_strategy": pick("none", *DURATION_STRATEGIES),
        "reference_duration": pick(1.0, 5.0),
        "memory_decay": pick(False, True),
    } | {name: pick(0.0, 0.0, 0.3) for name in _RATES}
    return options | _dependent_options(random, options, pick, depth)


def _later_options(entropy: list[int], options: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Return newer options, drawn by another generator, so that the older options of a seed do not change."""
    pick = picker(np.random.default_rng(entropy))
    rank, depth = options["spatial_dims"], len(options["hidden_channels"])
    later: dict[str, Any] = {}
    if pick(False, True):
        later["recurrent_dilation"] = [tuple(pick(1, 2, 3) for _ in range(rank)) for _ in range(depth)]
    if pick(False, False, False, True) and not fixed.keys() & {
        "in_channels",
        "groups",
        "stride",
        "padding",
        "dilation",
    }:
        later["in_channels"] = 0
        neutral = {"groups": 1, "stride": 1, "padding": "same", "dilation": 1}
        later |= {name: [value, *options[name][1:]] for name, value in neutral.items()}
        if depth == 1:
            later["input_dropout"] = 0.0
    return later


def _dependent_options(
    random: np.random.Generator, options: dict[str, Any], pick: Callable[..., Any], depth: int
) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    strategy = options["duration_strategy"]
    if options["norm"] == "group":
        common = gcd(*options["hidden_channels"])
        chosen["norm_groups"] = pick(*(n for n in range(1, common + 1) if common % n == 0))
    if options["direction"] == "bidirectional":
        chosen["merge"] = pick("concat", "sum", "mul", "ave", "separate")
    if strategy in ("log", "scalar", "exp", "mlp"):
        chosen["duration_eps"] = pick(1e-6, 0.5)
    if strategy == "exp":
        chosen["duration_damping"] = pick(0.1, 0.7)
    if strategy in ("exp", "mlp"):
        chosen["duration_features"] = pick(1, "channel")
        chosen["duration_hidden"] = pick((), (3,), (4, 3))
        chosen["duration_activation"] = pick(*DURATION_ACTIVATIONS)
    if options["bias"]:
        chosen["forget_bias"] = pick(None, 0.0, 2.5)
    if depth > 1:
        chosen["dropout"] = pick(0.0, 0.3)
    return chosen


def _check_boundaries(spec: ConvLSTMSpec, size: tuple[int, ...]) -> None:
    for layer, grid in zip(spec.layers, spec.grids(size), strict=True):
        widths = pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
        check_boundary(size, widths, spec.boundary)
        check_boundary(grid, layer.recurrent_widths, spec.boundary)
        size = grid


def _with_inputs(seed: int, random: np.random.Generator, spec: ConvLSTMSpec, size: tuple[int, ...]) -> Case:
    batch, steps = int(random.integers(1, 4)), int(random.choice([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 12]))
    arrays = {key: value + 0.3 * normal(random, value.shape) for key, value in initialise(spec, seed).items()}
    arrays["x"] = normal(random, (batch, steps, spec.in_channels, *size))
    for n, (h, c) in enumerate(reference.zero_states(spec, batch, size)):
        arrays |= {f"h.{n}": 0.5 * normal(random, h.shape), f"c.{n}": normal(random, c.shape)}
    mask = _random_mask(random, batch, steps) if random.random() < 0.5 else None
    durations = random.uniform(0.2, 3.0, (batch, steps)) * spec.reference_duration
    durations[random.random((batch, steps)) < 0.05] = 0.0
    if spec.duration_strategy != "none":
        arrays["durations"] = durations
    for direction in spec.directions if spec.memory_decay else ():
        arrays[f"gaps.{direction}"] = durations_from_times(
            np.cumsum(durations, axis=1),
            mask,
            reverse=direction == "reverse",
            reference_duration=spec.reference_duration,
        )
    if mask is not None and random.random() < 0.5:
        for name in {"x", "durations", *(f"gaps.{d}" for d in spec.directions)} & set(arrays):
            arrays[name][~mask] = np.nan
    case = Case(seed, spec, arrays, mask)
    training = random.random() < 0.5
    return replace(case, **_random_masks(random, spec, size, batch, steps)) if training else case


def _tamed(case: Case) -> Case:
    """Scale the weights until |h| < 10: beyond, unbounded activations magnify the reference's own rounding."""
    weights = {name for name in case.arrays if name.startswith("layers.")}
    for _ in range(100):
        results = reference_arrays(case).items()
        if all(np.abs(value).max(initial=0.0) < 10.0 for name, value in results if not name.startswith("c.")):
            return case
        case = replace(case, arrays={name: a * 0.7 if name in weights else a for name, a in case.arrays.items()})
    raise AssertionError(f"the reference does not stay finite in case {case.seed}")


def _random_mask(random: np.random.Generator, batch: int, steps: int) -> Array:
    """Return valid steps: scattered, or by lengths from 0 to all; at times a row without any."""
    if random.random() < 0.5:
        return np.arange(steps) < random.integers(0, steps + 1, (batch, 1))
    mask = random.random((batch, steps)) < 0.7
    mask[random.random(batch) < 0.1] = False
    return mask


def _random_masks(
    random: np.random.Generator, spec: ConvLSTMSpec, size: tuple[int, ...], batch: int, steps: int
) -> dict[str, Any]:
    """Return the fields `masks` and `dropout` of a case, float64."""

    def sample(mask: MaskSpec) -> Array | None:
        shape = mask.shape
        if mask.kind == "dropout":
            shape = (batch, steps, *shape[2:])
        uniform = random.random(shape)
        if not mask.rate:
            return None
        return (
            (uniform >= mask.rate) / (1.0 - mask.rate) if mask.is_factor else (uniform < mask.rate).astype(np.float64)
        )

    sampled = sample_masks(spec, batch, size, steps, sample)
    if sampled is None:
        return {"masks": {place: LayerMasks() for place in product(range(spec.depth), spec.directions)}}
    return {"masks": sampled.masks, "dropout": sampled.dropout if spec.dropout else None}


def convert_masks(case: Case, convert: Callable[[Array], Any]) -> DropoutMasks | None:
    """Return the dropout masks of a case as a frontend takes them, or None in evaluation.

    `convert` makes a tensor of an array with its channels first.
    """
    if case.masks is None:
        return None

    def converted(mask: Array | None) -> Any:
        return None if mask is None else convert(mask)

    masks = {}
    for place, inside in case.masks.items():
        batch_first = inside.map_steps(lambda mask: np.swapaxes(mask, 0, 1))
        masks[place] = LayerMasks(*[converted(mask) for mask in batch_first])
    if case.dropout is None:
        return DropoutMasks(masks, (None,) * (case.spec.depth - 1))
    return DropoutMasks(masks, tuple(converted(factor) for factor in case.dropout))
