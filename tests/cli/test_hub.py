"""`convlstm export --format hub`, and the folder as the MODEL of every command."""

import pytest

from convlstm.weights.checkpoint import load_model


@pytest.fixture
def folder(cli, trained, tmp_path):
    """A run as a folder of the Hub."""
    code, out, err = cli("export", trained / "run", "-o", "shared", "--format", "hub", "--license", "cc-by-4.0")
    assert (code, err) == (0, "")
    assert out.startswith("shared: config.json, model.safetensors, README.md, ")
    return tmp_path / "shared"


@pytest.mark.parametrize(
    "command",
    [
        ("model", "card", "MODEL"),
        ("inspect", "MODEL"),
        ("forecast", "MODEL", "rain.nc", "-o", "forecast.nc", "--threads", 1),
        ("train", "rain.nc", "-o", "run", "--start-from", "MODEL", "--set", "training.steps=1", "--threads", 1),
        ("evaluate", "MODEL", "rain.nc", "-o", "scores", "--max-cases", 1, "--threads", 1),
        ("export", "MODEL", "-o", "again", "--format", "hub"),
    ],
    ids=lambda words: words[0],
)
def test_a_folder_is_a_model_for_every_command(cli, trained, folder, command):
    words = [{"MODEL": folder, "rain.nc": trained / "rain.nc"}.get(word, word) for word in command]
    code, _, err = cli(*words)
    assert code == 0, err


def test_the_forecast_of_a_folder_is_that_of_the_run(cli, trained, folder, tmp_path):
    import xarray as xr

    for model, name in ((trained / "run", "one.nc"), (folder, "two.nc")):
        assert cli("forecast", model, trained / "rain.nc", "-o", name, "--threads", 1)[0] == 0
    with xr.open_dataset(tmp_path / "one.nc") as one, xr.open_dataset(tmp_path / "two.nc") as two:
        assert set(one.data_vars) == set(two.data_vars)
        for name in one.data_vars:
            assert one[name].values.tobytes() == two[name].values.tobytes()
        assert one.attrs["model_digest"] == two.attrs["model_digest"] == load_model(folder).digest


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (3, "--size: expected a format other than hub", ("-o", "shared", "--size", "8x8")),
        (3, "--weights: expected --format onnx or", ("-o", "shared", "--weights", "int8")),
        (3, "license: expected a name such as apache-2.0, got 'CC BY'", ("-o", "shared", "--license", "CC BY")),
        (6, "model.onnx: expected the name of a folder, without a suffix", ()),
        (6, "expected a new folder, got a folder with ", ("-o", "full")),
    ],
)
def test_refusals(fails, tmp_path, code, words, options):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("# Mine\n", encoding="utf-8")
    fails(code, words, "export", "--format", "hub", *options)


def test_a_licence_is_refused_for_other_formats(fails):
    fails(3, "--license: expected --format hub, got onnx", "export", "-o", "rain.onnx", "--license", "mit")
