"""`benchmarks/skill/parts.py`: the trainings that are compared, and their scores, with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.skill import parts
from benchmarks.skill.rivals import LEADS, THRESHOLDS

from convlstm.data import open_frames, sample_path
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.checkpoint import load_model, save_arrays


def test_each_training_differs_from_the_full_recipe_in_its_part_alone():
    full = parts.configuration(parts.FULL, 100, 2).model_dump()
    assert (full["training"]["steps"], full["training"]["batch_size"]) == (100, 2)
    for name, changes in parts.CHANGES.items():
        other = parts.configuration(name, 100, 2).model_dump()
        different = {
            f"{section}.{option}"
            for section in ("data", "model", "training")
            for option in full[section]
            if other[section][option] != full[section][option]
        }
        different |= {"seed"} if other["seed"] != full["seed"] else set()
        assert different == set(changes), name
    assert set(parts.LABELS) == set(parts.CHANGES)


def test_crops_anywhere_are_less_wet_than_those_by_rain():
    frames = open_frames(sample_path())
    starts, side = np.arange(0, frames.shape[0] - 18, 6), 64
    wetness = []
    for sampler in (parts.moving_batches.WetSampler, parts.uniform_crops):
        sample, random = sampler(frames, starts, 18, (side, side)), np.random.default_rng(0)
        chosen = [sample(random) for _ in range(60)]
        assert all(part.stop - part.start == side for _, window in chosen for part in window)
        wetness.append(
            np.mean([(frames.read(slice(start, start + 1))[0, 0][window] >= 0.1).mean() for start, window in chosen])
        )
    assert wetness[0] > 1.5 * wetness[1]


def test_the_part_of_the_average_is_the_same_training_with_its_last_weights(tmp_path):
    full, folder = RunFolder(tmp_path / parts.FULL), RunFolder(tmp_path / parts.AVERAGE)
    with pytest.raises(SystemExit, match="needs the finished training full"):
        parts.save_last_weights(full, folder)
    model = load_model(shipped_model())
    full.path.mkdir()
    full.save_model(model.spec, model.weights, model.extra)
    last = {key: array + np.float32(1) for key, array in model.weights.items()}
    state = {"weights." + key: array for key, array in last.items()}
    save_arrays(full.path / "state.safetensors", state | {"average." + key: model.weights[key] for key in last}, {})
    (full.path / parts.SCORES).write_text("{}")
    parts.save_last_weights(full, folder)
    written = load_model(folder.path)
    assert "events" in model.extra
    assert "events" not in written.extra
    assert all(np.array_equal(written.weights[key], last[key]) for key in last)
    assert sorted(path.name for path in folder.path.iterdir()) == ["model.safetensors", "state.safetensors"]


def test_scores_leave_unknown_cells_out():
    shape = (2, len(LEADS), 1, 4)
    observation = np.broadcast_to(np.array([2, 2, 0, np.nan], np.float32), shape)
    field = np.broadcast_to(np.array([2, 0, 2, 9], np.float32), shape)
    probability = np.full((2, len(LEADS), len(THRESHOLDS), 1, 4), 0.5, np.float32)
    scores = parts.scores_of(field, probability, observation)
    assert scores["csi 1"] == pytest.approx([1 / 3] * len(LEADS), abs=1e-4)  # a hit, a miss and a false alarm
    assert scores["brier 1"] == [0.25] * len(LEADS)


def test_the_table_has_a_row_for_each_training():
    values = {f"csi {threshold:g}": [0.7, 0.6, 0.5, 0.4, 0.3, 0.2] for threshold in THRESHOLDS}
    scores = {parts.FULL: values | {"brier 1": [0.03] * 6}, "flips": values | {"brier 1": [0.0312] * 6}}
    heads, _, full, other = parts.table(scores)
    assert heads.startswith("| training | ≥ 1, 5 min | ≥ 1, 15 min |")
    assert full == "| full recipe | 0.700 | 0.500 | 0.400 | 0.300 | 0.200 | 0.400 | 0.400 | 0.0300 |"
    assert other.endswith("| 0.400 | 0.400 | 0.0312 |")
