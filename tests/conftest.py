"""What every room's tests share: the house's demand on an error message, and a small sequence to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from convlstm.errors import ConvLSTMError

Refusal = Callable[[type[ConvLSTMError], str], AbstractContextManager[None]]


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
