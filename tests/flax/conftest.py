"""JAX on one thread in every test of its faces; float64 where a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("NPROC", "1")  # read once, when JAX starts

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
