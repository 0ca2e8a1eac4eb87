from __future__ import annotations

import pytest


@pytest.fixture
def options(tmp_path):
    """The options of a proof of reliability with a small count."""
    from benchmarks.torture.proof import Options

    return lambda count, seed=0: Options(tmp_path, count, seed)
