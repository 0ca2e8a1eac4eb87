"""The average of the weights over the steps of a training, in NumPy for every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from convlstm.spec.types import Array

_PREFIX = "average."


class WeightAverage:
    """An exponential moving average; without decay it keeps nothing.

    The decay of step n is at most (1 + n) / (10 + n), so that the first steps are soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self.weights: dict[str, Array] = {}

    def add(self, read_weights: Callable[[], Mapping[str, Array]], step: int) -> None:
        """Add the weights after a step, counted from 1."""
        if not self._decay:
            return
        weights = read_weights()
        if not self.weights:
            self.weights = {key: np.array(array) for key, array in weights.items()}
            return
        share = np.float32(1 - min(self._decay, (1 + step) / (10 + step)))
        for key, array in weights.items():
            self.weights[key] += share * (array - self.weights[key])

    def state(self) -> dict[str, Array]:
        """Return the average by the names in a state file."""
        return {_PREFIX + key: array for key, array in self.weights.items()}

    def restore(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Load the average from a state file, and return the other arrays."""
        self.weights = {
            key.removeprefix(_PREFIX): np.array(array) for key, array in state.items() if key.startswith(_PREFIX)
        }
        return {key: array for key, array in state.items() if not key.startswith(_PREFIX)}
