"""The configuration: what it reads, in which order, what it refuses, and in which words."""

import time

import pytest

from convlstm.errors import ConfigError, ConvLSTMError, SpecError
from convlstm.nowcast.config import Config, validate
from convlstm.nowcast.config_text import read_config, to_yaml

CHANGED = {
    "data": {
        "variables": ["u", "v"],
        "units": "K",
        "time_step": 600.0,
        "time_dim": "t",
        "y_dim": "lat",
        "x_dim": "lon",
        "rain": False,
        "accumulated": True,
        "missing": [-1.0, -999.0],
        "select": {"member": 0.0, "level": "top"},
        "transform": "standard",
        "log_top": 7.0,
        "input_length": 5,
        "horizon": 7,
        "max_gap": 1800.0,
        "validation": ["2020-02-30"],
        "test": 2,
        "frame": "moving",
        "crop": None,
    },
    "model": {
        "hidden_channels": [8, 4],
        "kernel_size": [[3, 3], [5, 5]],
        "recurrent_kernel_size": 5,
        "patch_size": 2,
        "peephole": "channel",
        "norm": "layer",
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "rollout": "feedback",
        "thresholds": [0.5, 2.0],
        "detail_channels": 6,
        "detail_frames": 2,
        "residual": False,
        "output_activation": "relu",
        "duration_strategy": "mlp",
        "memory_decay": True,
    },
    "training": {
        "start_from": "rain",
        "steps": 11,
        "batch_size": 3,
        "accumulate": 3,
        "learning_rate": 1e-05,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "clip_norm": 2.0,
        "absolute_error": 0.0,
        "emphasis": {2.5: 4.0},
        "threshold_weights": [1.0, 0.5],
        "first_lead_weight": 2.0,
        "augment": False,
        "intensity": 0.1,
        "average": 0.99,
        "precision": "bfloat16",
        "validate_every": 7,
        "validation_windows": 9,
        "patience": 2,
    },
    "seed": 5,
}


# feedback excludes durations and thresholds, uneven steps the moving frame, and a model to start from its own frame
COMPATIBLE = CHANGED | {
    "data": CHANGED["data"] | {"frame": "fixed", "transform": "log"},
    "model": CHANGED["model"] | {"rollout": "states", "output_activation": "identity"},
    "training": CHANGED["training"]
    | {"start_from": None, "intensity": 0.0, "absolute_error": 0.3, "emphasis": {1.0: 1.0, 5.0: 2.0}},
}


@pytest.mark.parametrize(
    "values",
    [{}, COMPATIBLE],
    ids=["defaults", "nearly everything changed"],
)
def test_every_option_comes_back_from_yaml(tmp_path, values):
    config = validate(values)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert read_config(path) == config


def test_the_changed_options_are_all_options_and_all_changed():
    default = Config().model_dump()
    for section in ("data", "model", "training"):
        assert CHANGED[section].keys() == default[section].keys()
        assert all(CHANGED[section][name] != value for name, value in default[section].items())


def test_every_option_is_one_line_with_what_it_means():
    lines = to_yaml(Config()).splitlines()
    options = [line for line in lines if "  # " in line]
    assert [line for line in lines if line not in options] == ["data:", "model:", "training:"]
    assert len(options) == sum(len(CHANGED[section]) for section in ("data", "model", "training")) + 1
    assert all(line.endswith(".") and not line.endswith("None") for line in options)
    assert "  hidden_channels: [48, 48]  # Hidden channels of each layer." in options


EVENTS = {"thresholds": [0.1, 1.0]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"frame": "moving"}}, "data.frame: expected model.thresholds"),
        (
            {"data": {"frame": "moving", "max_gap": 900}, "model": EVENTS | {"duration_strategy": "mlp"}},
            "data.frame: expected fixed",
        ),
        ({"training": {"intensity": 0.1}, "model": EVENTS}, "training.intensity: expected data.frame=moving"),
        ({"training": {"first_lead_weight": 2}}, "training.first_lead_weight: expected model.thresholds"),
        (
            {"training": {"threshold_weights": [1, 1, 1]}, "model": EVENTS},
            "training.threshold_weights: expected one weight for each of the 2 values",
        ),
        ({"model": {"detail_frames": 2}}, "model.detail_frames: expected model.detail_channels"),
        ({"data": {"transform": "dbz", "log_top": 7}}, "data.log_top: expected data.transform=log"),
        (
            {"model": EVENTS, "training": {"emphasis": {5: 1}}},
            "training.emphasis: expected its default with model.thresholds",
        ),
        ({"model": {"thresholds": [1, 0.1]}}, "thresholds: expected finite numbers that increase"),
        ({"model": EVENTS | {"residual": True}}, "residual: expected False with thresholds"),
        ({"model": {"detail_channels": 4, "rollout": "feedback"}}, "rollout: expected 'states' with detail_channels"),
    ],
)
def test_options_of_events_that_do_not_fit_are_one_line(values, words):
    with pytest.raises(ConvLSTMError) as caught:
        validate(values)
    assert words in str(caught.value)


def test_toml_and_yaml_say_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(
        'seed = 3\n[data]\nvalidation = [2020-06-01]\ntest = ["2020-06-02"]\n[training]\nlearning_rate = 1e-3\n'
        "[training.emphasis]\n1 = 2\n"
    )
    (tmp_path / "a.yaml").write_text(
        "seed: 3\ndata: {validation: [2020-06-01], test: ['2020-06-02']}\n"
        "training: {learning_rate: 1e-3, emphasis: {1: 2}}\n"
    )
    toml, yaml = (read_config(tmp_path / f"a.{ending}") for ending in ("toml", "yaml"))
    assert toml == yaml
    assert toml.data.validation == ["2020-06-01"]
    assert toml.data.test == ["2020-06-02"]
    assert toml.training.learning_rate == 0.001
    assert toml.training.emphasis == {1.0: 2.0}


def test_single_settings_go_over_the_file_and_the_last_one_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("training: {steps: 5, batch_size: 6}\nseed: 1\n")
    config = read_config(tmp_path / "a.yaml", ["training.steps=7", "data.crop=null", "training.steps=8", "seed = 2"])
    assert (config.training.steps, config.training.batch_size, config.seed) == (8, 6, 2)
    assert config.data.crop is None
    assert read_config(settings=["data.test=[2020-06-02]"]).data.test == ["2020-06-02"]


@pytest.mark.parametrize(
    ("values", "argument", "words"),
    [
        ({"training": {"step": 5}}, "training.step", "Use `training.steps`."),
        ({"trainig": {}}, "trainig", "Use `training`."),
        ({"zzz": 1}, "zzz", "--show-config"),
        ({"training": {"steps": "many"}}, "training.steps", "valid integer, got 'many'"),
        ({"training": {"steps": 0}}, "training.steps", "greater than or equal to 1, got 0"),
        ({"training": {"steps": None}}, "training.steps", "got None"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate", "finite"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate", "greater than 0"),
        ({"training": {"learning_rate": 1e38}}, "training.learning_rate", "less than or equal to 1000000000000000"),
        ({"data": {"horizon": 10_001}}, "data.horizon", "less than or equal to 10000"),
        ({"training": {"augment": "perhaps"}}, "training.augment", "boolean or 'auto'"),
        ({"training": {"precision": "float16"}}, "training.precision", "'bfloat16'"),
        ({"training": {"emphasis": {"wet": 1}}}, "training.emphasis", "valid number, got 'wet'"),
        ({"training": {"emphasis": {1: -1}}}, "training.emphasis", "got -1"),
        ({"training": [1]}, "training", "dictionary"),
        ({"model": {"hidden_channels": []}}, "model.hidden_channels", "at least 1 item"),
        ({"model": {"hidden_channels": [4, 0]}}, "model.hidden_channels", "got 0"),
        ({"model": {"patch_size": 5}}, "data.crop", "a multiple of model.patch_size, which is 5, got 96"),
        ({"data": {"test": "last"}}, "data.test", "integer or a valid list, got 'last'"),
        ({"data": {"test": [1]}}, "data.test", "valid string"),
        ({"data": {"max_gap": 900}}, "data.max_gap", "model.duration_strategy=none"),
        ({"model": {"duration_strategy": "mlp"}}, "model.duration_strategy", "data.max_gap to be set too"),
        ({"model": {"memory_decay": True}}, "model.memory_decay", "data.max_gap to be set too"),
        ({1: 2}, "1", "string"),
        ({"seed": -1}, "seed", "got -1"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_wanted(refused, values, argument, words):
    with pytest.raises(ConfigError) as caught:
        validate(values)
    assert words in str(caught.value)
    with refused(ConfigError, argument):
        raise caught.value


@pytest.mark.parametrize(
    ("model", "argument"),
    [({"kernel_size": 0}, "kernel_size"), ({"kernel_size": [3, 3, 3]}, "kernel_size"), ({"dropout": 2}, "dropout")],
)
def test_a_model_that_cannot_be_built_is_refused_before_any_work(refused, model, argument):
    with refused(SpecError, argument):
        validate({"model": model})


@pytest.mark.parametrize(
    "setting", ["training.steps", "seed.a=1", "data.test=[2020-02-30]", "data.crop={", "seed=" + "[" * 3000]
)
def test_settings_that_cannot_be_read(setting):
    with pytest.raises(ConfigError) as caught:
        read_config(settings=["seed=1", setting])
    assert str(caught.value).startswith("--set")
    assert len(str(caught.value)) < 300


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefghijk"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: !!python/object/apply:os.system ['exit 1']", "python/object/apply:os.system"),
        ("!!python/name:os.system {}", "python/name"),
        (BOMB + "data: *k\n", "data"),
        (BOMB + "data: {variables: *k}\n", "data.variables"),
        ("[" * 2000, "recursion"),
        ("- 1\n- 2\n", "sections of options, got list"),
        ("just words", "sections of options, got str"),
        ("data: {crop: 4", "valid TOML or YAML"),
        (b"\xff\xfe\x00data", "valid TOML or YAML"),
        ("data: {test: [2020-13-45]}", "month must be in 1..12"),
    ],
)
def test_hostile_files_are_refused_at_once_in_a_short_line(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert time.monotonic() - started < 10
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_wrong_toml_or_no_file_is_named(tmp_path, refused):
    (tmp_path / "a.toml").write_text("[data\n")
    for path in (tmp_path / "a.toml", tmp_path / "none.yaml", tmp_path):
        with refused(ConfigError, str(path)):
            read_config(path)


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing changed\n")
    assert read_config(tmp_path / "a.yaml") == Config()


def test_overrides_come_after_the_settings(refused):
    overrides = {"data.units": "mm", "seed": 3}
    config = read_config(settings=["seed=1", "data.units=K", "data.horizon=5"], overrides=overrides)
    assert (config.seed, config.data.units, config.data.horizon) == (3, "mm", 5)
    with refused(ConfigError, "data.units"):
        read_config(settings=["data=3"], overrides=overrides)
