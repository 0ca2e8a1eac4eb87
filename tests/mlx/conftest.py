"""Every test of MLX starts from one seed on the CPU; without MLX there is nothing to test here."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

collect_ignore_glob = ["test_*.py"] if find_spec("mlx") is None else []


@pytest.fixture(autouse=True)
def _one_seed_on_the_cpu() -> None:
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    mx.random.seed(0)
