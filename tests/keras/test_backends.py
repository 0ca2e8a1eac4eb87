"""The checks in `inside`, once for each Keras backend: a process has one backend only."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
CHECKS = sorted(path.name for path in (HERE / "inside").glob("check_*.py"))


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
@pytest.mark.parametrize("checks", CHECKS)
def test_checks(backend: str, checks: str) -> None:
    if find_spec("keras") is None or find_spec(backend) is None:
        pytest.skip(f"keras or {backend} is not installed")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    if backend == "jax":  # XLA's time goes into compiling code that runs once
        environment |= {"NPROC": "1", "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK]).strip()}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HERE / "inside" / checks)],
        env=environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    everything_skipped = 5  # pytest's code for a file that has nothing to run on this backend
    assert done.returncode in (0, everything_skipped), done.stdout[-6000:] + done.stderr[-2000:]
