"""The comparison with the reference that shows the case it missed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convlstm.conformance.compare import Run, compare


@pytest.fixture(scope="session")
def hold() -> Callable[..., None]:
    def check(case, run: Run, dtype: str) -> None:
        found = compare(case, run, dtype)
        assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"

    return check
