"""JAX on one thread in every test of its faces, compiling quickly; float64 where a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import pytest

# most of a test's time is XLA's, compiling code that runs once; `convlstm doctor --conformance` keeps XLA's defaults
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)

# JAX reads both once, before its first computation
os.environ.setdefault("NPROC", "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK]).strip()


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
