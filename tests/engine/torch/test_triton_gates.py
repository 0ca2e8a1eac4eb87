"""The kernels of Triton: their numbers in its interpreter on a CPU, and their compilation for a GPU without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (286 MB): `pip install triton`, on Linux only"
)


def output_of(script: str, **environment: str) -> str:
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    """Largest differences from float64, by type and result; Triton reads its switch when it is imported."""
    found: dict[str, dict[str, float]] = json.loads(output_of("interpret_triton.py", TRITON_INTERPRET="1"))
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-6), ("bfloat16", 1e-2), ("float16", 2e-3)])
def test_values_in_the_interpreter(dtype: str, tolerance: float, errors: dict[str, dict[str, float]]) -> None:
    assert set(errors[dtype]) == {"c", "h", "gates", "dz", "dc"}
    for name, error in errors[dtype].items():
        assert error <= tolerance, name


def test_the_cell_state_and_its_gradient_are_float32_in_low_precision(errors: dict[str, dict[str, float]]) -> None:
    for dtype in ("bfloat16", "float16"):
        assert errors[dtype]["c"] <= 5e-6
        assert errors[dtype]["dc"] <= 5e-6


def test_whole_layers_in_the_interpreter(errors: dict[str, dict[str, float]]) -> None:
    assert errors["layers"]["value"] <= 1e-5
    assert errors["layers"]["derivative"] <= 1e-4
    assert errors["layers"]["launches"] > 30


def test_the_kernels_compile_for_a_gpu() -> None:
    """Triton contains its compiler, so that this needs no GPU. Loads of four words need a known alignment."""
    lines = output_of("compile_triton.py").splitlines()
    assert len(lines) == 8
    for line in lines:
        compiled = json.loads(line)
        assert compiled["wide_loads"] > 0, line
        assert compiled["narrow_loads"] == compiled["divisions"] == 0, line
