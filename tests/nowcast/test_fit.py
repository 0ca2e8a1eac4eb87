"""Training: the same bytes from the same seed, however often it was stopped, and nothing lost when it fails."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from convlstm.errors import ConfigError, DataError, TrainingError
from convlstm.nowcast.fit import _dropout_seed, fit, learning_rate
from convlstm.nowcast.frameworks import build_trainer
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.prepare import prepare, to_sample
from convlstm.nowcast.run_folder import Progress, RunFolder
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_arrays, load_model


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(train, whole_run, contents):
    assert contents(train()) == whole_run
    assert load_model(train("other", seed=1).model).digest != load_model(train("third").model).digest


def test_a_run_leaves_what_is_promised(whole_run, tmp_path):
    assert sorted(whole_run) == ["config.yaml", "data.json", "log.jsonl", "model.safetensors", "state.safetensors"]
    log = [json.loads(line) for line in whole_run["log.jsonl"].decode().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 6]
    assert all(math.isfinite(entry[name]) for entry in log for name in ("loss", "validation_loss"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole_run["model.safetensors"])
    kept = load_model(path).extra
    assert kept["provenance"]["config"]["training"]["steps"] == 6
    assert kept["pipeline"]["days"]["test"] == ["2020-06-04"]


def test_the_step_reports_and_the_log_agree(train):
    reports = []
    log = train(on_step=reports.append, training={"steps": 5}).history()
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert [entry["step"] for entry in log] == [2, 4, 5]
    losses = [report.loss for report in reports]
    assert [entry["loss"] for entry in log] == [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    at = [reports[step - 1] for step in (2, 4, 5)]
    assert [entry["validation_loss"] for entry in log] == [report.validation_loss for report in at]
    assert [entry["learning_rate"] for entry in log] == [report.learning_rate for report in at]
    assert reports[0].validation_loss is reports[2].validation_loss is None


def test_every_step_and_seed_drops_other_units():
    keys = {_dropout_seed(seed, step) for seed in range(3) for step in range(50)}
    assert len(keys) == 150


def test_a_learning_rate_out_of_all_reason_stops(train):
    with pytest.raises(TrainingError, match=r"(nan|inf) at step \d. Decrease"):
        train(training={"learning_rate": 1e15, "warmup_steps": 0, "clip_norm": 1e30})


def test_training_ends_early_without_progress(train):
    folder = train(training={"steps": 100, "patience": 3, "learning_rate": 1e-30, "weight_decay": 0})
    assert [entry["step"] for entry in folder.history()] == [2, 4, 6, 8]
    progress = folder.load_state(load_arrays(folder.path / "state.safetensors")[1]["data"])[1]
    assert progress == Progress(
        step=8,
        best_loss=folder.history()[0]["validation_loss"],
        best_step=2,
        validations_without_improvement=3,
        finished=True,
    )


def test_the_best_model_is_kept_and_not_the_last(train, monkeypatch, stopped):
    losses = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr("convlstm.nowcast.fit._TrainingRun._validate", lambda run: next(losses))
    folder = train()
    assert [entry["validation_loss"] for entry in folder.history()] == [0.5, 0.3, 0.4]
    state = load_arrays(folder.path / "state.safetensors")[0]
    assert any((state[f"weights.{key}"] != value).any() for key, value in load_model(folder.model).weights.items())
    monkeypatch.undo()
    stopped(4, "until the best")
    assert (folder.path.parent / "until the best" / "model.safetensors").read_bytes() == folder.model.read_bytes()


def test_the_loss_falls(train):
    model = {"hidden_channels": [8], "dropout": 0.0, "recurrent_dropout": 0.0, "residual": False}
    training = {"steps": 40, "batch_size": 4, "validate_every": 10, "learning_rate": 1e-2, "warmup_steps": 5}
    first, *_, last = train(model=model, training=training).history()
    assert last["validation_loss"] < 0.7 * first["validation_loss"]
    assert last["loss"] < 0.7 * first["loss"]


def test_the_validation_loss_is_the_mean_over_every_known_value(make_rain, read, tiny, train):
    dataset = make_rain()
    dataset["rain"][36:42, :15] = np.nan
    frames, training = read(dataset), {"steps": 2, "emphasis": {1.0: 3.0}}
    config = tiny(training=training)
    folder = train(frames=frames, training=training)
    data, pipeline = prepare(config, frames)
    model = load_nowcaster(folder.path)
    errors = weights = 0.0
    for number in range(len(data.validation)):
        sample = to_sample(data.validation.batch(number), pipeline, config)
        error = np.float64(model.trainer.predict(sample, 4) - sample.targets)
        errors += (sample.weight * (error**2 + 0.3 * abs(error))).sum()
        weights += sample.weight.sum(dtype=np.float64)
    assert folder.history()[0]["validation_loss"] == pytest.approx(errors / weights, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1 / 4), (1, 1 / 2), (3, 1.0), (4, 1.0), (8, 0.505), (6, 0.01 + 0.99 * (1 + 0.5**0.5) / 2)]
)
def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tiny, step, share):
    config = tiny(training={"steps": 12, "warmup_steps": 4, "learning_rate": 0.2})
    assert learning_rate(config, step) == pytest.approx(0.2 * share)


def test_the_learning_rate_without_warmup(tiny):
    config = tiny(training={"steps": 10, "warmup_steps": 0, "learning_rate": 0.2})
    assert learning_rate(config, 0) == 0.2
    # a run shorter than its warm-up only warms up
    assert learning_rate(tiny(training={"steps": 1, "warmup_steps": 5, "learning_rate": 1.0}), 0) == 0.2


def test_missing_targets_teach_nothing(tiny, rain_frames):
    config = tiny(data={"crop": None})
    data, pipeline = prepare(config, rain_frames)
    spec = config.model.spec(1, 300.0)
    sample = to_sample(data.train.batch(0), pipeline, config)
    sample.weight[:, 1:, :, 5:9] = 0
    after = []
    for value in (0.0, 7.0):
        sample.targets[:, 1:, :, 5:9] = value
        trainer = build_trainer("torch", spec, initialise(spec, 0))
        loss = trainer.step(sample, 1e-3, 1)
        after.append((loss, {key: array.tobytes() for key, array in trainer.weights().items()}))
    assert after[0] == after[1]
    sample.weight[:, 1:, :, 5:9] = 1
    trainer = build_trainer("torch", spec, initialise(spec, 0))
    assert trainer.step(sample, 1e-3, 1) != after[0][0]


def test_missing_values_are_missing_however_the_file_says_so(train, make_rain, read, contents):
    dataset = make_rain()
    dataset["rain"][5:9, 3:8, 2:9] = np.nan
    dataset["rain"][30] = np.nan
    filled = dataset.fillna(-9999.0)
    filled["rain"].attrs |= {"units": "mm/h", "_FillValue": np.float32(-9999)}
    assert contents(train("nan", frames=read(dataset))) == contents(train("filled", frames=read(filled)))


def test_validation_days_without_a_value_are_refused(train, make_rain, read, refused):
    dataset = make_rain()
    dataset["rain"][28:42] = np.nan
    with refused(DataError, "validation days"):
        train(frames=read(dataset))


def test_every_batch_is_finite_where_frames_are_missing(train, make_rain, read):
    dataset = make_rain()
    dataset["rain"][::3] = np.nan
    assert all(math.isfinite(entry["loss"]) for entry in train(frames=read(dataset)).history())


def test_a_model_of_gaps_learns_and_foretells_from_uneven_frames(train, make_rain, read):
    dataset = make_rain(frames=24).isel(time=[n for n in range(4 * 24) if n % 5 != 3])
    model = {"duration_strategy": "mlp", "memory_decay": True}
    folder = train(frames=read(dataset), data={"max_gap": 900}, model=model)
    nowcaster = load_nowcaster(folder.path)
    start = load_model(folder.model)
    first = initialise(start.spec, 0)
    moved = {key for key, value in start.weights.items() if (value != first[key]).any()}
    assert {key for key in first if "duration" in key or "memory_decay" in key} <= moved
    rain = make_rain()["rain"].values[None, :3, None]
    leads = np.array([300.0, 1500.0, 1800.0])
    even, uneven = (nowcaster.predict(rain, np.array([times]), leads) for times in ([0.0, 300, 600], [0.0, 900, 1200]))
    assert even.shape == (1, 3, 1, 22, 18)
    assert np.isfinite(even).all()
    assert (even != uneven).any()
    times = np.array([[0.0, 300, 600]])
    np.testing.assert_allclose(nowcaster.predict(rain, times, leads[:1]), even[:, :1], rtol=1e-5, atol=1e-6)
    assert abs(nowcaster.predict(rain, times, leads * 2)[:, 0] - even[:, 0]).max() > 1e-5


def test_a_model_fed_its_own_frames_learns(train):
    folder = train(model={"rollout": "feedback", "dropout": 0.0})
    spec = load_model(folder.model).spec
    assert spec.rollout == "feedback"
    assert len(folder.history()) == 3


def test_a_framework_that_is_not_there_is_named(tiny, rain_frames, tmp_path, refused):
    with refused(ConfigError, "framework"):
        fit(tiny(), rain_frames, RunFolder(tmp_path / "run"), framework="theano")
    assert not Path(tmp_path / "run").exists()
