"""Derivatives of a random case's loss by a complex step, along random directions through all its arrays at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from convlstm.spec.types import Array

COMPLEX_STEP = 1e-200
"""So small that the product of two steps underflows to 0: a sum that is exactly at a kink stays there."""


class HasArrays(Protocol):
    """What gradients are taken of: arrays by name, drawn from a seed."""

    @property
    def seed(self) -> int:
        """What it was drawn from."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """What a gradient is taken of."""


def loss_weights(case: HasArrays, results: Mapping[str, Array]) -> dict[str, Array]:
    """Return the factors whose sum with the results is the loss that gradients are taken of."""
    random = np.random.default_rng([case.seed, 1])
    return {name: normal(random, value.shape) for name, value in sorted(results.items())}


def directions(case: HasArrays, count: int = 4) -> list[dict[str, Array]]:
    """Return random directions through all arrays of a case at once."""
    random = np.random.default_rng([case.seed, 2])
    return [{name: normal(random, a.shape) for name, a in sorted(case.arrays.items())} for _ in range(count)]


def directional_derivatives(case: HasArrays, run: Callable[..., Mapping[str, Array]]) -> list[float]:
    """Return the reference's derivative of the loss along each of the `directions`, by a complex step."""
    factors = loss_weights(case, run(case))
    derivatives = []
    for direction in directions(case):
        moved = {name: a + 1j * COMPLEX_STEP * direction[name] for name, a in case.arrays.items()}
        results = run(case, moved)
        loss = sum(np.sum(factors[name] * value) for name, value in results.items())
        derivatives.append(float(np.imag(loss)) / COMPLEX_STEP)
    return derivatives


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return standard normal numbers, as an array also where there is one."""
    return np.asarray(random.standard_normal(shape))  # a 0-d sample is a float


def picker(random: np.random.Generator) -> Callable[..., Any]:
    """Return a function that returns one of its arguments at random."""

    def pick(*values: Any) -> Any:
        return values[random.integers(len(values))]

    return pick
