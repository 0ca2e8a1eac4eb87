"""Commands run in this process, in a folder of their own, and one small model for all of them."""

from pathlib import Path

import pytest

from convlstm.cli.main import run

TINY = [
    *("--set", "model.hidden_channels=[4]", "--set", "data.input_length=3", "--set", "data.horizon=4"),
    *("--set", "training.steps=4", "--set", "training.validate_every=2", "--set", "training.batch_size=2"),
    *("--set", "training.precision=float32", "--threads", "1"),
]


@pytest.fixture(scope="session")
def tiny():
    """Options that make a training last a moment."""
    return TINY


@pytest.fixture(scope="session")
def trained(make_rain, tmp_path_factory):
    """A folder with `rain.nc` and a model trained on it in `run`."""
    folder = tmp_path_factory.mktemp("trained")
    make_rain().to_netcdf(folder / "rain.nc")
    assert run(["train", str(folder / "rain.nc"), "-o", str(folder / "run"), *TINY]) == 0
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not path.is_fifo()
    }


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run a command within `tmp_path`; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capsys.readouterr()
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def fails(cli, tmp_path):
    """Run a command that must fail: with this code, in one line that holds these words, changing nothing."""

    def call(code, words, *command):
        before = tree(tmp_path)
        received, _, err = cli(*command)
        assert received == code, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) < 500
        assert "inside convlstm" not in err
        assert words in err
        assert tree(tmp_path) == before
        return err

    return call
