"""Laws that hold for any weights and any data, without a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm.spec.durations import durations_from_times
from convlstm.weights.canonical import initialise

pytestmark = pytest.mark.usefixtures("float64")

RICH: dict[str, Any] = {"peephole": "channel", "norm": "layer", "boundary": ("replicate", "circular"), "zoneout_c": 0.2}
BOTH_PATHS = [{"peephole": "channel"}, RICH]
BIDIRECTIONAL = {"direction": "bidirectional"}
STRATEGIES = ["linear", "log", "log1p", "scalar", "exp", "mlp"]


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def build(frontend, kind: str = "ConvLSTM", dtype: str = "float64", **options: Any) -> Any:
    """Return a layer or cell in evaluation, with weights that are all other than their first values."""
    module = frontend.build(kind, 2, 3, 3, dtype=dtype, **options)
    random = np.random.default_rng(0)
    arrays = initialise(module.spec, 0)
    frontend.load_canonical(module, {key: a + 0.3 * random.standard_normal(a.shape) for key, a in arrays.items()})
    module.eval()
    return module


def swapped(frontend, layer: Any, **options: Any) -> Any:
    """Return a layer whose directions have each other's weights."""
    other, names = build(frontend, **options), {"forward": "reverse", "reverse": "forward"}
    arrays = {
        key.replace(f".{direction}.", f".{names[direction]}."): array
        for key, array in frontend.to_canonical(layer).items()
        for direction in names
        if direction in key
    }
    frontend.load_canonical(other, arrays)
    return other


def close(found: Any, wanted: Any, atol: float = 1e-13) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def total(output: Any, states: Any) -> Any:
    """Return the sum of the squares of everything that a layer returns."""
    outputs = output if isinstance(output, tuple) else (output,)
    return sum((part * part).sum() for part in (*outputs, *states[0], *states[1]))


@pytest.mark.parametrize("options", BOTH_PATHS)
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-12), ("float32", 1e-6)])
def test_sequence_in_two_parts_is_the_whole(options: dict, dtype: str, limit: float, frontend) -> None:
    layer = build(frontend, **options, num_layers=2, stride=[(2, 2), (1, 1)], dtype=dtype)
    x = normal(2, 7, 2, 6, 5, dtype=dtype)
    whole = frontend.call(layer, x)
    first = frontend.call(layer, x[:, :3])
    second = frontend.call(layer, x[:, 3:], first.states)
    close([np.concatenate([first.output, second.output], axis=1)], whole.outputs, limit)
    close([*second.h, *second.c], [*whole.h, *whole.c], limit)


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_one_step_of_layer_and_cell_agree_bit_for_bit(options: dict, frontend) -> None:
    layer, cell = (build(frontend, kind, "float32", **options) for kind in ("ConvLSTM", "ConvLSTMCell"))
    x, states, state = normal(2, 6, 2, 6, 5, dtype="float32"), None, None
    for t in range(6):
        result = frontend.call(layer, x[:, t : t + 1], states)
        states, state = result.states, frontend.step(cell, x[:, t], state)
        close([result.output[:, 0], result.c[0]], state, 0)


@pytest.mark.parametrize("options", [*BOTH_PATHS, {"duration_strategy": "mlp", "memory_decay": True, "stride": 2}])
def test_cell_step_by_step_is_the_layer(options: dict, frontend) -> None:
    layer, cell = (build(frontend, kind, **options) for kind in ("ConvLSTM", "ConvLSTMCell"))
    x, times = normal(2, 5, 2, 6, 5), {}
    if "duration_strategy" in options:
        times = {"durations": abs(normal(2, 5)) + 0.1, "gaps": abs(normal(2, 5, seed=1)) + 0.5}
    whole = frontend.call(layer, x, **times)
    state = [part.astype("float64") for part in frontend.start_cell(cell, 2, (6, 5))]
    for t in range(5):
        state = frontend.step(cell, x[:, t], state, **{name[:-1]: value[:, t] for name, value in times.items()})
        close([state[0]], [whole.output[:, t]])
    close(state, [whole.h[0], whole.c[0]])


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_gradients_flow_through_a_state_that_is_passed_on(options: dict, frontend) -> None:
    layer, x = build(frontend, **options), normal(1, 4, 2, 5, 5)

    def in_two_parts(call: Any, x: Any) -> Any:
        _, state = call(x[:, :2])
        return call(x[:, 2:], state)[0][:, 1].sum()

    weights, of_x = frontend.gradient(layer, lambda call, x: call(x)[0][:, 3].sum())(x)
    weights_in_parts, of_x_in_parts = frontend.gradient(layer, in_two_parts)(x)
    assert np.abs(of_x[:, 0]).max() > 0
    close([of_x_in_parts], [of_x])
    for key, gradient in weights.items():
        np.testing.assert_allclose(weights_in_parts[key], gradient, rtol=1e-12, atol=1e-13, err_msg=key)


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_rows_of_a_batch_are_independent(options: dict, frontend) -> None:
    layer = build(frontend, **options, **BIDIRECTIONAL, num_layers=2)
    x, lengths = normal(3, 5, 2, 6, 5), [5, 2, 0]
    together = frontend.call(layer, x, lengths=lengths).arrays
    for row in range(3):
        alone = frontend.call(layer, x[row : row + 1], lengths=lengths[row : row + 1]).arrays
        close(alone, [part[row : row + 1] for part in together])
    order = [2, 0, 1]
    shuffled = frontend.call(layer, x[order], lengths=[lengths[n] for n in order]).arrays
    close(shuffled, [part[order] for part in together])


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_values_of_masked_frames_reach_nothing(masked_output: str, frontend) -> None:
    """NaN or an infinity in frames, durations and gaps of masked steps leaves every output and gradient as it is."""
    options = {"masked_output": masked_output, "duration_strategy": "mlp", "memory_decay": True}
    layer = build(frontend, **options, **BIDIRECTIONAL, num_layers=2)
    x, mask = normal(3, 5, 2, 6, 5), np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], dtype=bool)
    times = [abs(normal(3, 5, seed=seed)) + 0.5 for seed in range(3)]
    native_mask = frontend.to_native(mask)

    def loss(call: Any, x: Any, durations: Any, *gaps: Any) -> Any:
        return total(*call(x, mask=native_mask, durations=durations, gaps=gaps))

    derive = frontend.gradient(layer, loss)
    results = []
    for value in (0.0, np.nan, np.inf, -np.inf):
        frames = np.where(mask[:, :, None, None, None], x, value)
        durations, *gaps = (np.where(mask, time, value) for time in times)
        returned = frontend.call(layer, frames, mask=mask, durations=durations, gaps=tuple(gaps))
        weights, of_x = derive(frames, durations, *gaps)
        assert not of_x[~mask].any()
        results.append([*returned.arrays, of_x, *weights.values()])
    clean, *others = results
    for other in others:
        assert all(np.isfinite(part).all() for part in other)
        close(other, clean, 0)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_masked_sequence_is_that_of_its_valid_frames(masked_output: str, frontend) -> None:
    layer, x = build(frontend, masked_output=masked_output), normal(1, 6, 2, 6, 5)
    mask = np.array([[False, True, True, False, True, False]])
    masked, short = frontend.call(layer, x, mask=mask), frontend.call(layer, x[:, mask[0]])
    close([masked.output[:, mask[0]], *masked.h, *masked.c], short.arrays)
    sources = [None, 0, 1, 1, 2, 2] if masked_output == "hold" else [None, 0, 1, None, 2, None]
    for t, source in enumerate(sources):
        wanted = np.zeros_like(short.output[:, 0]) if source is None else short.output[:, source]
        close([masked.output[:, t]], [wanted])


def test_held_output_is_zero_before_the_first_valid_step(frontend) -> None:
    layer = build(frontend, masked_output="hold")
    state = (normal(1, 3, 6, 5), normal(1, 3, 6, 5))
    result = frontend.call(layer, normal(1, 2, 2, 6, 5), state, mask=np.array([[False, True]]))
    assert not result.output[:, 0].any()


def test_lengths_are_a_mask(frontend) -> None:
    layer, x = build(frontend, **BIDIRECTIONAL), normal(3, 4, 2, 6, 5)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    wanted = frontend.call(layer, x, mask=mask).arrays
    for lengths in ([4, 2, 0], (4, 2, 0), np.array([4, 2, 0])):
        close(frontend.call(layer, x, lengths=lengths).arrays, wanted, 0)


def test_reverse_is_forward_on_reversed_valid_frames(frontend) -> None:
    backward, x = build(frontend, direction="reverse"), normal(1, 5, 2, 6, 5)
    forward = swapped(frontend, backward)
    result, mirrored = frontend.call(backward, x, lengths=[3]), frontend.call(forward, x[:, 2::-1])
    close([result.output[:, :3], *result.h, *result.c], [mirrored.output[:, ::-1], *mirrored.h, *mirrored.c])
    assert not result.output[:, 3:].any()


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "separate"])
@pytest.mark.parametrize("options", BOTH_PATHS)
def test_reversed_time_swaps_the_directions(merge: str, options: dict, frontend) -> None:
    options = {**options, **BIDIRECTIONAL, "merge": merge}
    layer, x = build(frontend, **options), normal(2, 5, 2, 6, 5)
    result = frontend.call(layer, x)
    other = frontend.call(swapped(frontend, layer, **options), x[:, ::-1])
    outputs, other_outputs = result.outputs, other.outputs
    if merge == "concat":
        outputs, other_outputs = np.split(result.output, 2, axis=2), np.split(other.output, 2, axis=2)
    close(outputs, [part[:, ::-1] for part in reversed(other_outputs)])
    close([*result.h, *result.c], [*other.h[::-1], *other.c[::-1]])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_durations_of_the_reference_change_nothing(strategy: str, frontend) -> None:
    options = {"duration_strategy": strategy, "reference_duration": 300.0, "memory_decay": True}
    without = frontend.build("ConvLSTM", 2, 3, 3, peephole="channel", dtype="float64")
    layer = frontend.build("ConvLSTM", 2, 3, 3, peephole="channel", dtype="float64", **options)
    arrays = frontend.to_canonical(layer)
    frontend.load_canonical(without, {key: arrays[key] for key in frontend.to_canonical(without)})
    x = normal(2, 4, 2, 6, 5)
    limit = 1e-5 if strategy == "log" else 1e-14  # log is neutral to ε = 1e-6
    found = frontend.call(layer, x, durations=300.0, gaps=300.0)
    close(found.arrays, frontend.call(without, x).arrays, limit)


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "recurrent_kernel_size": (5, 2)}, {"dilation": 2}, {"recurrent_dilation": (2, 1)}]
)
def test_circular_shift_of_input_shifts_the_output(options: dict, frontend) -> None:
    layer, x = build(frontend, **options, boundary="circular", peephole="channel", norm="layer"), normal(2, 4, 2, 6, 8)
    shifted = frontend.call(layer, np.roll(x, (2, -3), axis=(3, 4))).arrays
    close(shifted, [np.roll(part, (2, -3), axis=(-2, -1)) for part in frontend.call(layer, x).arrays])


def test_a_dilated_recurrence_is_a_kernel_with_zeros_between_its_points(frontend) -> None:
    layer = build(frontend, recurrent_dilation=(2, 1), boundary=("replicate", "zeros"), num_layers=2)
    dense = build(frontend, recurrent_kernel_size=(5, 3), boundary=("replicate", "zeros"), num_layers=2)
    arrays = frontend.to_canonical(layer)
    for key in [key for key in arrays if key.endswith("weight_hh")]:
        spread = np.zeros((*arrays[key].shape[:3], 5, 3))
        spread[..., ::2, :] = arrays[key]
        arrays[key] = spread
    frontend.load_canonical(dense, arrays)
    x = normal(2, 4, 2, 6, 5)
    close(frontend.call(layer, x).arrays, frontend.call(dense, x).arrays)


def test_mirrored_weights_mirror_the_output(frontend) -> None:
    layer, mirrored = (build(frontend, boundary="reflect") for _ in range(2))
    arrays = frontend.to_canonical(layer)
    frontend.load_canonical(mirrored, {k: a[..., ::-1] if a.ndim == 5 else a for k, a in arrays.items()})
    x = normal(1, 3, 2, 6, 5)
    close([frontend.call(mirrored, x[..., ::-1]).output], [frontend.call(layer, x).output[..., ::-1]])


@pytest.mark.parametrize("dims", [2, 3])
def test_flat_fields_in_more_dimensions_agree_with_lines(dims: int, frontend) -> None:
    line, other = (build(frontend, spatial_dims=n, peephole="channel") for n in (1, dims))
    arrays = frontend.to_canonical(other)
    for key, array in frontend.to_canonical(line).items():
        inside = (slice(None),) * 3 + (1,) * (dims - 1) if array.ndim == 4 else ...
        arrays[key] = np.zeros_like(arrays[key])
        arrays[key][inside] = array
    frontend.load_canonical(other, arrays)
    x = normal(2, 4, 2, 7)
    found = frontend.call(other, x.reshape(2, 4, 2, *(1,) * (dims - 1), 7)).output
    close([found.reshape(2, 4, 3, 7)], [frontend.call(line, x).output])


def test_stream_with_gaps_is_the_whole_sequence(frontend) -> None:
    layer = build(frontend, duration_strategy="scalar", memory_decay=True)
    times = np.array([[0.0, 1.0, 4.0, 4.5, 9.0]])
    gaps, x = durations_from_times(times), normal(1, 5, 2, 6, 5)
    whole = frontend.call(layer, x, durations=gaps, gaps=gaps)
    first = frontend.call(layer, x[:, :3], durations=gaps[:, :3], gaps=gaps[:, :3])
    later = durations_from_times(times[:, 3:], previous=times[:, 2])
    second = frontend.call(layer, x[:, 3:], first.states, durations=later, gaps=later)
    close(second.outputs, [whole.output[:, 3:]])
