"""Fields from the probabilities of events: the most useful single field, the mean, and quantiles.

Probabilities are (..., threshold, height, width) and never increase with the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.units import Field

CUTS = np.round(np.arange(0.02, 0.9, 0.02), 2)
"""Probabilities among which the best cut is chosen."""


@dataclass(frozen=True)
class EventRules:
    """The numbers that turn probabilities into fields, chosen on data of the training and saved with the model.

    Args:
        thresholds: Increasing thresholds in the unit of the data.
        cuts: Probability from which on an event is forecast, by lead time and threshold. The last lead time applies
            to all later ones.
        class_means: Mean value below the first threshold, between two thresholds, and from the last one on.
    """

    thresholds: tuple[float, ...]
    cuts: tuple[tuple[float, ...], ...]
    class_means: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            "thresholds": list(self.thresholds),
            "cuts": [list(row) for row in self.cuts],
            "class_means": list(self.class_means),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EventRules:
        """Return the rules written by `to_dict`."""
        cuts = tuple(tuple(row) for row in values["cuts"])
        return cls(tuple(values["thresholds"]), cuts, tuple(values["class_means"]))

    def cuts_of(self, leads: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the cuts (lead_time, threshold) of lead times, counted in steps from 1."""
        cuts: NDArray[np.float32] = np.asarray(self.cuts, np.float32)[np.minimum(leads, len(self.cuts)) - 1]
        return cuts

    def field(self, probability: Field, leads: NDArray[np.intp]) -> Field:
        """Return the field (..., lead_time, height, width) that reaches a threshold where its event is forecast.

        An event is forecast where its probability reaches its cut, and the events of all lower thresholds are forecast
        too. Between two thresholds the value increases linearly with the probability of the upper one, up to its cut.
        Below the first threshold it is the mean of that class.
        """
        cuts = self.cuts_of(leads)[..., None, None]
        share = np.clip(probability / cuts, 0, 1)
        reached = probability >= cuts
        bounds = np.array([*self.thresholds, max(self.class_means[-1], self.thresholds[-1])], np.float32)
        result = np.full(probability[..., 0, :, :].shape, np.float32(self.class_means[0]), np.float32)
        is_event = np.ones(result.shape, bool)
        for k in range(len(self.thresholds)):
            is_event &= reached[..., k, :, :]
            if k + 1 < len(self.thresholds):
                upward = share[..., k + 1, :, :]
            else:
                cut = cuts[..., k, :, :]
                upward = np.clip((probability[..., k, :, :] - cut) / (1 - cut), 0, 1)
            value = bounds[k] + upward * (bounds[k + 1] - bounds[k])
            result = np.where(is_event, np.minimum(value, np.nextafter(bounds[k + 1], bounds[k])), result)
        return np.asarray(np.maximum(result, np.float32(self.class_means[0])), np.float32)

    def mean(self, probability: Field) -> Field:
        """Return the mean field (..., height, width): the probability of each class times its mean value."""
        means = np.asarray(self.class_means, np.float32)
        steps = np.diff(means)[:, None, None]
        return np.asarray(means[0] + (probability * steps).sum(axis=-3), np.float32)

    def quantile(self, probability: Field, level: float) -> Field:
        """Return the value (..., height, width) that is exceeded with probability 1 − level; 0.5 is the median.

        The probability is interpolated linearly between the thresholds. Below the first threshold the value is the
        mean of that class; above the last one it increases to twice the distance of its class mean.
        """
        exceeded = np.float32(1 - level)
        top = self.thresholds[-1] + 2 * max(self.class_means[-1] - self.thresholds[-1], 0.0)
        bounds = np.array([*self.thresholds, top], np.float32)
        padded = np.concatenate([probability, np.zeros_like(probability[..., :1, :, :])], axis=-3)
        result = np.full(probability[..., 0, :, :].shape, np.float32(self.class_means[0]), np.float32)
        for k in range(len(self.thresholds)):
            lower, upper = padded[..., k, :, :], padded[..., k + 1, :, :]
            share = np.clip((lower - exceeded) / np.maximum(lower - upper, np.float32(1e-6)), 0, 1)
            value = bounds[k] + share * (bounds[k + 1] - bounds[k])
            result = np.where(lower >= exceeded, value, result)
        return result


class EventCounts:
    """Hits, misses and false alarms at every cut, added case by case, from which the best cuts follow."""

    def __init__(self, leads: int, thresholds: Sequence[float]) -> None:
        self._thresholds = np.asarray(thresholds, np.float32)
        self._counts = np.zeros((leads, len(thresholds), len(CUTS), 3))

    def add(self, probability: Field, observation: Field) -> None:
        """Add one case: probabilities (lead_time, threshold, height, width), values (lead_time, height, width)."""
        edges = np.concatenate([[0.0], CUTS, [np.inf]])
        known = np.isfinite(observation)
        for lead, threshold in np.ndindex(*self._counts.shape[:2]):
            valid = known[lead]
            chance = probability[lead, threshold][valid]
            happened = observation[lead][valid] >= self._thresholds[threshold]
            # cases in reverse order of probability, so that each sum has those at or above the cut
            hits = np.histogram(chance[happened], edges)[0][::-1].cumsum()[::-1][1:]
            false_alarms = np.histogram(chance[~happened], edges)[0][::-1].cumsum()[::-1][1:]
            misses = happened.sum() - hits
            self._counts[lead, threshold] += np.stack([hits, false_alarms, misses], axis=-1)

    def best_cuts(self) -> tuple[tuple[float, ...], ...]:
        """Return the cut with the highest CSI by lead time and threshold; 0.5 for an event that never happened."""
        hits, total = self._counts[..., 0], self._counts.sum(axis=-1)
        csi = np.where(hits > 0, hits / np.maximum(total, 1), 0.0)
        best = CUTS[csi.argmax(axis=-1)]
        cuts = np.where(hits.any(axis=-1), best, 0.5)
        return tuple(tuple(float(cut) for cut in row) for row in cuts)


def class_means(values: Field, thresholds: Sequence[float], *, rain: bool) -> tuple[float, ...]:
    """Return the mean of the values in each class; for rain 0 below the first threshold, which counts as dry.

    A class without values has its lower threshold as its mean.
    """
    known = values[np.isfinite(values)]
    bounds = [-np.inf, *thresholds, np.inf]
    means = []
    for lower, upper in pairwise(bounds):
        inside = known[(known >= lower) & (known < upper)]
        empty = lower if np.isfinite(lower) else upper
        means.append(float(inside.mean(dtype=np.float64)) if inside.size else float(empty))
    return (0.0, *means[1:]) if rain else tuple(means)
