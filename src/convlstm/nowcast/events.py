"""Fields from the probabilities of events: the most useful single field, the mean, and quantiles.

Probabilities are (..., threshold, height, width) and never increase with the threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.units import Field

CUTS = np.round(np.arange(0.02, 0.9, 0.02), 2)
"""Probabilities among which the best cut is chosen."""

_MIN_VALUES = 100
"""Least number of values of a class for a line through them."""

_TINY = 1e-9

_LEAST_SHARE = 0.05
"""Distance of the mean of a class from its bounds, as a share of its width."""

_MOST_SHARE = np.float32(0.999)
"""Largest share of the last class; its values are at most about seven times its mean above the threshold."""


@dataclass(frozen=True)
class EventRules:
    """The numbers that turn probabilities into fields, chosen on data of the training and saved with the model.

    Args:
        thresholds: Increasing thresholds in the unit of the data.
        cuts: Probability from which on an event is forecast, by lead time and threshold. The last lead time applies
            to all later ones.
        class_means: Mean value below the first threshold, between two thresholds, and from the last one on.
        class_lines: Intercept and slope by lead time and class: the mean value of a class as a line over the moved
            last frame. The frame is moved along the optical flow, and its values are cut to the class. Empty uses
            `class_means`.
    """

    thresholds: tuple[float, ...]
    cuts: tuple[tuple[float, ...], ...]
    class_means: tuple[float, ...]
    class_lines: tuple[tuple[tuple[float, float], ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            "thresholds": list(self.thresholds),
            "cuts": [list(row) for row in self.cuts],
            "class_means": list(self.class_means),
            "class_lines": [[list(line) for line in row] for row in self.class_lines],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EventRules:
        """Return the rules written by `to_dict`; other numbers raise a TypeError or ValueError."""
        cuts = tuple(tuple(row) for row in values["cuts"])
        lines = tuple(tuple((line[0], line[1]) for line in row) for row in values["class_lines"])
        rules = cls(tuple(values["thresholds"]), cuts, tuple(values["class_means"]), lines)
        arrays = [np.asarray(part, np.float64) for part in (rules.thresholds, cuts, rules.class_means, lines)]
        (count,), *shapes = (array.shape for array in arrays)
        expected = [(len(cuts), count), (count + 1,), (len(lines), count + 1, 2) if lines else (0,)]
        if shapes != expected or not cuts or not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"numbers of the shapes {shapes}, not {expected}, or some that are not finite")
        return rules

    def cuts_of(self, leads: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the cuts (lead_time, threshold) of lead times, counted in steps from 1."""
        return _at_leads(self.cuts, leads)

    def field(self, probability: Field, leads: NDArray[np.intp]) -> Field:
        """Return the field (..., lead_time, height, width) that reaches a threshold where its event is forecast.

        An event is forecast where its probability reaches its cut, and the events of all lower thresholds are forecast
        too. Between two thresholds the value increases linearly with the probability of the upper one, up to its cut.
        Below the first threshold it is the mean of that class.
        """
        cuts = self.cuts_of(leads)[..., None, None]
        bounds = np.array([*self.thresholds, max(self.class_means[-1], self.thresholds[-1])], np.float32)
        result = np.full(probability[..., 0, :, :].shape, np.float32(self.class_means[0]), np.float32)
        is_event = np.ones(result.shape, bool)
        last = len(self.thresholds) - 1
        for k in range(last + 1):
            is_event &= probability[..., k, :, :] >= cuts[..., k, :, :]
            upper = min(k + 1, last)
            chance = probability[..., upper, :, :][is_event]  # no more cells than needed: most are dry
            cut = np.broadcast_to(cuts[..., upper, :, :], is_event.shape)[is_event]
            upward = np.clip(chance / cut if k < last else (chance - cut) / (1 - cut), 0, 1)
            value = bounds[k] + upward * (bounds[k + 1] - bounds[k])
            result[is_event] = np.minimum(value, np.nextafter(bounds[k + 1], bounds[k]))
        return np.maximum(result, np.float32(self.class_means[0]))

    def _lines(self) -> Sequence[Any]:
        """Return the lines of the classes; without any, their means for all lead times."""
        return self.class_lines or [[(mean, 0.0) for mean in self.class_means]]

    def mean(self, probability: Field, moved: Field, leads: NDArray[np.intp]) -> Field:
        """Return the mean field (..., lead_time, height, width): the probability of each class times its mean value.

        The mean value of a class depends on the last frame moved along the optical flow (..., lead_time, height,
        width): of two cells of the last class, the one with more rain before has more rain later.
        """
        lines = _at_leads(self._lines(), leads)
        bounds = _class_bounds(self.thresholds)
        result = np.zeros(probability[..., 0, :, :].shape, np.float32)
        reached = np.ones_like(result)
        for k, (lower, upper) in enumerate(bounds):
            intercept, slope = (lines[:, k, n, None, None] for n in (0, 1))
            value = intercept + slope * np.clip(moved, lower, upper)
            is_last = k == len(self.thresholds)
            exceeded = np.zeros_like(result) if is_last else probability[..., k, :, :]
            result += (reached - exceeded) * value
            reached = exceeded
        return np.asarray(result, np.float32)

    def member(self, probability: Field, moved: Field, level: Field, leads: NDArray[np.intp]) -> Field:
        """Return a value (lead_time, height, width) of the forecast distribution in each cell, at a level from 0 to 1.

        The probabilities (lead_time, threshold, height, width) give the class of the value, the moved last frame its
        mean in the class, as in `mean`. In a class from a to b with mean m, a share s of the class lies below
        a + (b − a) · s^γ, where γ = (b − a) / (m − a) − 1. Above the last threshold the distribution is exponential.
        """
        lines = _at_leads(self._lines(), leads)
        exceeded = 1 - level
        result = np.full(level.shape, np.float32(self.class_means[0]), np.float32)
        for k, (lower, upper) in enumerate(_class_bounds(self.thresholds)[1:]):
            intercept, slope = (lines[:, k + 1, n, None, None] for n in (0, 1))
            mean = intercept + slope * np.clip(moved, lower, upper)
            reached = probability[:, k]
            if np.isfinite(upper):
                share = (reached - exceeded) / np.maximum(reached - probability[:, k + 1], np.float32(_TINY))
                width = np.float32(upper - lower)
                above = np.clip(mean - lower, _LEAST_SHARE * width, (1 - _LEAST_SHARE) * width)
                value = lower + width * np.clip(share, 0, 1) ** (width / above - 1)
            else:
                share = np.minimum((reached - exceeded) / np.maximum(reached, np.float32(_TINY)), _MOST_SHARE)
                value = lower - np.maximum(mean - lower, 0) * np.log1p(-np.clip(share, 0, None))
            result = np.where(reached >= exceeded, value, result)
        return np.asarray(result, np.float32)

    def quantile(self, probability: Field, level: float) -> Field:
        """Return the value (..., height, width) that is exceeded with probability 1 − level; 0.5 is the median.

        The probability is interpolated linearly between the thresholds. Below the first threshold the value is the
        mean of that class; above the last one it increases to twice the distance of its class mean.
        """
        exceeded = np.float32(1 - level)
        top = self.thresholds[-1] + 2 * max(self.class_means[-1] - self.thresholds[-1], 0.0)
        bounds = np.array([*self.thresholds, top], np.float32)
        result = np.full(probability[..., 0, :, :].shape, np.float32(self.class_means[0]), np.float32)
        for k in range(len(self.thresholds)):
            is_last = k == len(self.thresholds) - 1
            reached = probability[..., k, :, :] >= exceeded
            lower = probability[..., k, :, :][reached]  # no more cells than needed: most are dry
            upper = np.zeros_like(lower) if is_last else probability[..., k + 1, :, :][reached]
            share = np.clip((lower - exceeded) / np.maximum(lower - upper, np.float32(1e-6)), 0, 1)
            result[reached] = bounds[k] + share * (bounds[k + 1] - bounds[k])
        return result


def _at_leads(rows: Sequence[Any], leads: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the rows of lead times, counted in steps from 1; the last row applies to all later ones."""
    chosen: NDArray[np.float32] = np.asarray(rows, np.float32)[np.minimum(leads, len(rows)) - 1]
    return chosen


def _class_bounds(thresholds: Sequence[float]) -> list[tuple[float, float]]:
    """Return the lower and upper bound of each class."""
    return list(pairwise([-np.inf, *thresholds, np.inf]))


class ClassLines:
    """The mean value of each class as a line over the moved frame, by least squares from sums over cases."""

    def __init__(self, leads: int, thresholds: Sequence[float]) -> None:
        self._bounds = _class_bounds([float(np.float32(threshold)) for threshold in thresholds])
        self._sums = np.zeros((leads, len(self._bounds), 5))  # count, x, y, x·x, x·y

    def add(self, moved: Field, observation: Field) -> None:
        """Add one case: the moved frame and the observed values (lead_time, height, width)."""
        for lead, k in np.ndindex(*self._sums.shape[:2]):
            lower, upper = self._bounds[k]
            inside = (observation[lead] >= lower) & (observation[lead] < upper)
            x = np.clip(moved[lead][inside], lower, upper).astype(np.float64)
            y = observation[lead][inside].astype(np.float64)
            self._sums[lead, k] += [float(x.size), float(x.sum()), float(y.sum()), float(x @ x), float(x @ y)]

    def lines(self, class_means: Sequence[float], *, rain: bool) -> tuple[tuple[tuple[float, float], ...], ...]:
        """Return intercept and slope by lead time and class.

        The line of a class with fewer than 100 values, or with a slope below 0, is its mean. For rain, the class below
        the first threshold is dry.
        """
        rows = []
        for lead in range(len(self._sums)):
            row = []
            for k, mean in enumerate(class_means):
                is_dry = rain and k == 0
                row.append((0.0, 0.0) if is_dry else _line(self._sums[lead, k], mean))
            rows.append(tuple(row))
        return tuple(rows)


def _line(sums: NDArray[np.float64], mean: float) -> tuple[float, float]:
    count, x, y, xx, xy = sums
    if count < _MIN_VALUES:
        return mean, 0.0
    variance = xx / count - (x / count) ** 2
    slope = (xy / count - x * y / count**2) / variance if variance > _TINY * xx / count else 0.0
    if slope <= 0:
        return float(y / count), 0.0
    return float(y / count - slope * x / count), float(slope)


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


def class_means(parts: Iterable[Field], thresholds: Sequence[float], *, rain: bool) -> tuple[float, ...]:
    """Return the mean of the values in each class; for rain 0 below the first threshold, which counts as dry.

    The values come in parts of any shape, NaN where missing. A class without values has its lower threshold as its
    mean.
    """
    bounds = _class_bounds(thresholds)
    counts, totals = np.zeros(len(bounds)), np.zeros(len(bounds))
    for part in parts:
        for k, (lower, upper) in enumerate(bounds):
            inside = part[(part >= lower) & (part < upper) & np.isfinite(part)]
            counts[k] += inside.size
            totals[k] += inside.sum(dtype=np.float64)
    empty = [lower if np.isfinite(lower) else upper for lower, upper in bounds]
    means = np.where(counts > 0, totals / np.maximum(counts, 1), empty).tolist()
    return (0.0, *means[1:]) if rain else tuple(means)
