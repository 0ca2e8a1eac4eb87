"""Model files that anybody can make, with the right digest and seal: each has its documented exit code."""

import copy
import json
import shutil

import pytest

from convlstm.weights.checkpoint import load_arrays, save_arrays

EXTRA = [
    ("", None),
    ("", []),
    ("pipeline", None),
    ("pipeline", []),
    ("pipeline.horizon", 10**5),
    ("pipeline.horizon", "twelve"),
    ("pipeline.input_length", -1),
    ("pipeline.input_length", None),
    ("pipeline.time_step", "300 s"),
    ("pipeline.time_step", 0),
    ("pipeline.transform", []),
    ("pipeline.transform", {"name": ["log_rain"]}),
    ("pipeline.transform", {"name": "standard", "mean": [0.0] * 5, "std": [1.0] * 5}),
    ("pipeline.variables", "rain"),
    ("pipeline.variables", [["rain"]]),
    ("pipeline.variables", ["rain", "snow"]),
    ("pipeline.thresholds", [None]),
    ("pipeline.days", ["2020-06-01"]),
    ("pipeline.frame", "moving"),
    ("pipeline.frame", 3),
    ("pipeline.grid_spacing", "1 km"),
    ("pipeline.max_gap", -5),
    ("pipeline.unknown", 1),
    ("provenance", None),
    ("provenance", ["0.1.0"]),
    ("provenance.config", None),
    ("provenance.config", "a text"),
    ("provenance.config.data", []),
    ("provenance.config.data.units", 5),
    ("provenance.config.data.select", [1]),
]


@pytest.fixture
def forge(trained, tmp_path):
    """Write the trained model with another value at a dotted place of its content."""

    def write(place, value):
        arrays, content, _ = load_arrays(trained / "run" / "model.safetensors")
        content = copy.deepcopy(content)
        node, names = content, place.split(".")
        for name in names[:-1]:
            node = node[name]
        node[names[-1]] = value
        save_arrays(tmp_path / "model.safetensors", arrays, {k: v for k, v in content.items() if k != "digest"})

    return write


@pytest.mark.parametrize(("place", "value"), EXTRA, ids=[f"{place}-{json.dumps(value)[:20]}" for place, value in EXTRA])
def test_further_values_of_a_wrong_form_are_refused(forge, fails, trained, place, value):
    forge(f"extra.{place}" if place else "extra", value)
    fails(5, "", "forecast", "model.safetensors", trained / "rain.nc", "-o", "f.nc", "--threads", "1")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("spec.encoder.duration_hidden", [1] * 10**5),
        ("spec.encoder.hidden_channels", [1] * 10**5),
        ("spec.encoder.dilation", [[10**9, 10**9]]),
        ("spec.encoder.recurrent_dilation", [[10**9, 10**9]]),
        ("spec.encoder.kernel_size", [[10**9 + 1, 1]]),
        ("spec.thresholds", [n / 10 for n in range(10**5)]),
        ("spec.patch_size", 10**12),
        ("spec.detail_frames", 10**9),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_without_measure_are_refused_before_memory_is_taken(forge, cli, place, value):
    forge(place, value)
    code, _, err = cli("inspect", "model.safetensors")
    assert (code, err.count("\n")) == (5, 1)
    assert len(err) < 2500


@pytest.mark.parametrize(("place", "value"), EXTRA[2:], ids=[f"{p}-{json.dumps(v)[:20]}" for p, v in EXTRA[2:]])
def test_inspect_needs_none_of_the_further_values(forge, cli, place, value):
    forge(f"extra.{place}", value)
    code, _, err = cli("inspect", "model.safetensors")
    assert (code, err) == (0, "") or (code in (3, 4, 5) and "inside convlstm" not in err)


def test_check_reads_a_whole_run_and_finds_a_changed_byte(trained, tmp_path, cli, fails):
    shutil.copytree(trained / "run", tmp_path / "run")
    code, out, _ = cli("check", "run", "run/state.safetensors")
    assert code == 0
    assert [line.split(", digest ")[0] for line in out.splitlines()] == [
        "run/model.safetensors: forecaster",
        "run/state.safetensors: run",
        "run/state.safetensors: run",
    ]
    state = tmp_path / "run" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    fails(5, "got arrays with another digest", "check", "run")
    fails(5, "nothing there", "check", "absent.safetensors")
