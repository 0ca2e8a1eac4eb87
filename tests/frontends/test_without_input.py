"""Layers without input: steps from a state alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.weights.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("float64")

OPTIONS: list[dict[str, Any]] = [
    {"peephole": "channel"},
    {"num_layers": 2, "direction": "bidirectional", "merge": "sum", "norm": "layer", "boundary": "replicate"},
    {"hidden_channels": [3, 2], "stride": [(1, 1), (2, 2)], "recurrent_dilation": 2, "zoneout_h": 0.2},
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def build(frontend: Any, in_channels: int, **options: Any) -> Any:
    """Return a layer in evaluation with weights other than the initial ones, equal for any number of channels."""
    layer = frontend.build("ConvLSTM", in_channels, options.pop("hidden_channels", 3), 3, dtype="float64", **options)
    arrays = frontend.to_canonical(layer)
    frontend.load_canonical(layer, {key: 0.5 * normal(*a.shape, seed=len(key)) for key, a in arrays.items()})
    layer.eval()
    return layer


def state_of(layer: Any, rows: int = 2) -> Any:
    """Return a state on a grid of 6 × 5 points for the first layer."""
    shapes = [
        (rows, one.hidden_channels, *grid)
        for one, grid in zip(layer.spec.layers, layer.spec.grids((6, 5)), strict=True)
        for _ in layer.spec.directions
    ]
    return tuple(tuple(normal(*shape, seed=seed + n) for n, shape in enumerate(shapes)) for seed in (0, 10))


def close(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_without_input_are_those_of_frames_of_zeros(options: dict[str, Any], frontend) -> None:
    layer, fed = build(frontend, 0, **options), build(frontend, 2, **options)
    state = state_of(layer)
    close(
        frontend.call(layer, None, state, steps=4).arrays,
        frontend.call(fed, np.zeros((2, 4, 2, 6, 5)), state).arrays,
    )


def test_the_first_layer_has_no_input_kernel_in_a_file(frontend, tmp_path: Path) -> None:
    layer = build(frontend, 0, num_layers=2)
    frontend.save(tmp_path / "layer.safetensors", layer)
    model = load_model(tmp_path / "layer.safetensors")
    assert "layers.0.forward.weight_ih" not in model.weights
    assert "layers.1.forward.weight_ih" in model.weights
    assert model.spec.in_channels == 0
    state, loaded = state_of(layer), frontend.load(tmp_path / "layer.safetensors")
    assert loaded.spec == layer.spec
    close(frontend.call(loaded, None, state, steps=2).arrays, frontend.call(layer, None, state, steps=2).arrays)


def test_two_calls_are_one(frontend) -> None:
    layer = build(frontend, 0, hidden_channels=[3, 2])
    state = state_of(layer)
    whole = frontend.call(layer, None, state, steps=5)
    first = frontend.call(layer, None, state, steps=2)
    second = frontend.call(layer, None, first.states, steps=3)
    close([np.concatenate([first.output, second.output], axis=1)], [whole.output])
    close(second.h + second.c, whole.h + whole.c)


def test_no_steps_return_the_state(frontend) -> None:
    layer = build(frontend, 0)
    state = state_of(layer)
    found = frontend.call(layer, None, state, steps=0)
    assert found.output.shape == (2, 0, 3, 6, 5)
    close(found.h + found.c, state[0] + state[1])


def test_a_state_without_batch_axis(frontend) -> None:
    layer = build(frontend, 0, hidden_channels=[3, 2])
    state = state_of(layer, rows=1)
    alone = frontend.call(layer, None, tuple(tuple(a[0] for a in part) for part in state), steps=3)
    close([part[None] for part in alone.arrays], frontend.call(layer, None, state, steps=3).arrays)


def test_masked_steps_copy_the_state(frontend) -> None:
    layer = build(frontend, 0)
    state = state_of(layer)
    masked = frontend.call(layer, None, state, steps=4, lengths=np.array([2, 4]))
    short = frontend.call(layer, None, state, steps=2)
    close([masked.output[0, :2], masked.h[0][0], masked.c[0][0]], [short.output[0], short.h[0][0], short.c[0][0]])
    assert not masked.output[0, 2:].any()


def test_a_cell_step_by_step_is_the_layer(frontend) -> None:
    layer = build(frontend, 0, peephole="channel")
    cell = frontend.build("ConvLSTMCell", 0, 3, 3, dtype="float64", peephole="channel")
    frontend.load_canonical(cell, frontend.to_canonical(layer))
    state = state_of(layer)
    step = [part[0] for part in state]
    whole = frontend.call(layer, None, state, steps=3)
    for t in range(3):
        step = frontend.step(cell, None, tuple(step))
        close([step[0]], [whole.output[:, t]])


def test_training_samples_masks_without_an_input(frontend) -> None:
    layer = build(frontend, 0, num_layers=2, input_dropout=0.5, recurrent_dropout=0.3, dropout=0.3, zoneout_c=0.2)
    state = state_of(layer)
    quiet = frontend.call(layer, None, state, steps=3)
    layer.train()
    noisy = [frontend.call(layer, None, state, steps=3, seed=seed).output for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.isfinite(noisy[0]).all()
    assert not np.allclose(noisy[0], noisy[2])
    assert not np.allclose(noisy[0], quiet.output)


def test_sampled_masks_need_steps_and_a_state_without_an_input(frontend, refused) -> None:
    rates = {"input_dropout": 0.5, "recurrent_dropout": 0.3, "dropout": 0.3, "zoneout_h": 0.2}
    layer = build(frontend, 0, hidden_channels=[3, 2], direction="bidirectional", **rates)
    layer.train()
    state, name = state_of(layer), "carry" if frontend.name == "flax" else "state"

    def sample(steps: Any, state: Any, seed: int = 3) -> Any:
        native = frontend.native_state(state)
        native = frontend.State(*native) if frontend.name == "flax" and state is not None else native
        return layer.sample_masks(None, steps, **{name: native}, **frontend.generator(seed))

    masks = sample(np.int64(5), state)
    assert frontend.channels_first(masks.masks[0, "reverse"].zoneout_h).shape == (2, 5, 3, 6, 5)
    assert masks.masks[0, "forward"].input is None
    whole = frontend.call(layer, None, state, steps=np.int64(5), dropout_masks=masks)
    np.testing.assert_array_equal(whole.output, frontend.call(layer, None, state, steps=5, seed=3).output)
    for steps, given, kind, argument in ((None, state, ShapeError, "steps"), (5, None, StateError, name)):
        with refused(kind, argument):
            sample(steps, given)
    fed = build(frontend, 2, **rates | {"dropout": 0.0})
    with refused(ShapeError, "x"):
        fed.sample_masks(None, 5)
    with refused(StateError, name):
        fed.sample_masks(frontend.frames(2, 5, 2, 6, 5, dtype="float64"), **{name: frontend.native_state(state)})


def test_one_array_for_all_layers_is_a_state_in_pytorch_alone(frontend, refused) -> None:
    layer = build(frontend, 0, num_layers=2)
    h, c = state_of(layer)
    stacked = (np.stack(h), np.stack(c))
    if frontend.name == "torch":
        close(
            frontend.call(layer, None, stacked, steps=3).arrays,
            frontend.call(layer, None, (h, c), steps=3).arrays,
        )
        return
    with refused(StateError, "h_0[0]"):
        frontend.call(layer, None, stacked, steps=3)


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
def test_a_stateful_layer_needs_input(frontend, refused) -> None:
    with refused(SpecError, "in_channels"):
        frontend.StatefulConvLSTM(frontend.ConvLSTM(0, 3, 3))
