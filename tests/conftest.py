"""What all tests share: settings of the frameworks, the parts of an error message, and a small sequence of frames."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from convlstm.errors import ConvLSTMError

# JAX reads both once, before its first computation. Most of a test's time is XLA's, compiling code that runs once.
XLA_FLAGS = (Path(__file__).parent / "xla_flags.txt").read_text(encoding="utf-8").split()
os.environ.setdefault("NPROC", "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS]).strip()

# a shell starts its background jobs with SIGINT ignored, which the commands that tests start would inherit
for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)

Refusal = Callable[[type[ConvLSTMError], str], AbstractContextManager[None]]


def pytest_configure(config: pytest.Config) -> None:
    """Ignore the deprecation warnings of Keras and its backends about each other, where a backend is chosen."""
    if "KERAS_BACKEND" in os.environ:
        for module in ("tensorflow", "keras", "jax", "flatbuffers", "google"):
            config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{module}")
            config.addinivalue_line("filterwarnings", f"ignore::FutureWarning:{module}")


@pytest.fixture(scope="session")
def refused() -> Refusal:
    """Expect an error of one class that names the argument, with all four parts in one line."""

    @contextmanager
    def check(kind: type[ConvLSTMError], argument: str) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        error = caught.value
        assert error.argument == argument
        assert error.expected
        assert error.hint
        separator = ". " if error.hint[:1].isupper() else "; "
        assert str(error) == f"{argument}: expected {error.expected}, got {error.received}{separator}{error.hint}"
        assert "\n" not in str(error)
        assert str(error).endswith(".")

    return check


@pytest.fixture(scope="session")
def make_rain():
    """Rain in mm/h that drifts over a small grid, a few hours of each day, as a dataset to be changed and written."""
    import xarray as xr

    def make(*, days=4, frames=14, height=22, width=18, step=300):
        y, x = np.mgrid[:height, :width]
        minutes = np.arange(frames) * step // 60
        time = [np.datetime64(f"2020-06-{day + 1:02}", "ns") + minutes.astype("timedelta64[m]") for day in range(days)]
        rain = [
            9 * np.exp(-(((x - 3 * day - 0.7 * n) % width - 9) ** 2 + ((y + 5 * day - 0.4 * n) % height - 9) ** 2) / 14)
            for day in range(days)
            for n in range(frames)
        ]
        return xr.Dataset(
            {"rain": (("time", "y", "x"), np.float32(rain), {"units": "mm/h"})},
            coords={
                "time": np.concatenate(time),
                "y": ("y", np.arange(height) * 1000.0, {"units": "m"}),
                "x": ("x", np.arange(width) * 1000.0, {"units": "m"}),
            },
            attrs={"title": "Drifting rain", "institution": "Nobody", "history": "made up"},
        )

    return make
