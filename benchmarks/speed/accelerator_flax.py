"""Implementations in Flax on an accelerator: ours and `flax.linen.ConvLSTMCell`, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable

import jax

from benchmarks.speed import in_flax
from benchmarks.speed.cases import Case


def missing(device: str) -> str | None:
    """Return why nothing can be measured on a device."""
    backend = jax.default_backend()
    if (device == "cpu") == (backend == "cpu") and (device == "cpu" or backend in ("gpu", "cuda", "rocm")):
        return None
    return f"JAX {jax.__version__} has the backend {backend}, not {device}"


def wait_for(device: str) -> Callable[[], None]:
    """Return a function that waits for nothing: each call of `build` blocks until its result is ready."""
    return lambda: None


def build(name: str, case: Case, work: str, precision: str, device: str) -> Callable[[], None]:
    """Return a function that does the work of an implementation once, in JAX's default precision: TF32 on a GPU."""
    return in_flax.build(name, case, work, 1)
