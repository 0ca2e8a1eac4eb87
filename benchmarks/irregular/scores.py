"""Sums of errors by case and band of lead time, their scores, and intervals over seeds and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from convlstm.verification.blocks import automatic_block_length
from convlstm.verification.intervals import BOUNDS, resampling_weights

Values = NDArray[np.float64]
Bands = Sequence[tuple[float, float]]

SUMS = ("squared error", "known values", "hits", "misses", "false alarms", "frames")
_NUDGE = 1e-3  # added to the weight of one case, to find its influence on a score


def tally(
    forecast: np.ndarray,
    truth: np.ndarray,
    known: np.ndarray,
    lead: np.ndarray,
    bands: Bands,
    threshold: float = np.inf,
) -> Values:
    """Return the entries of `SUMS` for each window and band (window, band, sum).

    Args:
        forecast: (window, lead_time, channel, height, width).
        truth: The same shape.
        known: Whether the truth is known, the same shape.
        lead: Lead time of each forecast frame (window, lead_time), in the unit of the bands.
        bands: Lead times above the first and up to the second number.
        threshold: Values that are an event.
    """
    observed_event, forecast_event = (truth >= threshold) & known, (forecast >= threshold) & known
    parts = np.stack(
        [
            np.where(known, (forecast - truth) ** 2, 0),
            known,
            observed_event & forecast_event,
            observed_event & ~forecast_event,
            forecast_event & ~observed_event,
        ]
    )
    by_frame = parts.sum(axis=(-3, -2, -1), dtype=np.float64)  # (sum, window, lead_time)
    by_frame = np.concatenate([by_frame, np.any(known, axis=(-3, -2, -1))[None]])
    in_band = [(lead > low) & (lead <= high) for low, high in bands]
    return np.einsum("swl,bwl->wbs", by_frame, np.array(in_band, dtype=np.float64))


def group(sums: Values, start: NDArray[np.float64], length: float) -> Values:
    """Return the sums by case, which holds all windows whose forecasts start in the same period of this length."""
    _, case = np.unique(np.floor(start / length), return_inverse=True)
    grouped = np.zeros((case.max() + 1, *sums.shape[1:]))
    np.add.at(grouped, case, sums)
    return grouped


def score(measure: str, sums: Values) -> Values:
    """Return RMSE or CSI of sums (..., sum); NaN where it is undefined."""
    error, known, hits, misses, alarms, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(error / known) if measure == "RMSE" else hits / (hits + misses + alarms)


def difference(measure: str, ours: Values, other: Values) -> tuple[float, float, float, float]:
    """Return the mean difference of a score over seeds, its 90 % interval, and the block length in cases.

    Cases are drawn in blocks, as in `convlstm.verification.differences`. Seeds are drawn with replacement. Their
    deviation is multiplied by √(n / (n − 1)), since a bootstrap of n seeds has (n − 1) / n of their variance.

    Args:
        measure: RMSE or CSI.
        ours: Sums (seed, case, sum).
        other: The same, on the same cases.
    """
    seeds, cases = ours.shape[:2]

    def of(weights: Values) -> Values:
        pooled = [np.einsum("dc,kcs->kds", weights, sums) for sums in (ours, other)]
        return score(measure, pooled[0]) - score(measure, pooled[1])

    probe = np.concatenate([np.ones((1, cases)), 1.0 + _NUDGE * np.eye(cases)])
    change = of(probe).mean(axis=0)
    length = automatic_block_length(np.nan_to_num((change[1:] - change[0]) / _NUDGE))
    by_seed = of(resampling_weights(cases, 0, length).values)  # (seed, draw), the sample first
    mean = by_seed.mean(axis=0)
    draws = mean.copy()
    if seeds > 1:
        chosen = np.random.default_rng(1).integers(seeds, size=(seeds, by_seed.shape[1]))
        drawn = np.take_along_axis(by_seed, chosen, axis=0).mean(axis=0)
        draws = mean + (drawn - mean) * np.sqrt(seeds / (seeds - 1))
    lower, upper = np.nanquantile(draws[1:], BOUNDS)
    return float(mean[0]), float(lower), float(upper), length


def table(
    sums: Mapping[str, Values], baselines: Mapping[str, Values], bands: Sequence[str], measures: Sequence[str]
) -> list[str]:
    """Return a Markdown table of scores, and of the differences from the last contender and of the first two.

    Args:
        sums: Sums (seed, case, band, sum) by contender.
        baselines: Sums (case, band, sum) by baseline.
        bands: Headings of the bands.
        measures: RMSE, CSI or both.
    """
    names = list(sums)
    pairs = [(name, names[-1]) for name in names[:-1]]
    pairs += [(names[0], names[1])] if len(names) > 2 else []
    first = sums[names[0]]
    frames = first[0].sum(axis=0)[:, SUMS.index("frames")].astype(int)
    lines = [f"| | {' | '.join(bands)} |", "|---" * (len(bands) + 1) + "|"]
    lines.append(f"| forecast frames | {' | '.join(map(str, frames))} |")
    for measure in measures:
        for name in names:
            by_seed = score(measure, sums[name].sum(axis=1))
            cells = [_mean_and_spread(values) for values in by_seed.T]
            lines.append(f"| {measure}, {name} | {' | '.join(cells)} |")
        for name, values in baselines.items():
            cells = [f"{value:.3f}" for value in score(measure, values.sum(axis=0))]
            lines.append(f"| {measure}, {name} | {' | '.join(cells)} |")
        for ours, other in pairs:
            cells = []
            for band in range(len(bands)):
                value, lower, upper, _ = difference(measure, sums[ours][:, :, band], sums[other][:, :, band])
                cells.append(f"{_signed(value)} ({_signed(lower)} to {_signed(upper)})")
            lines.append(f"| {measure}, {ours} − {other} | {' | '.join(cells)} |")
    return lines


def _mean_and_spread(values: Values) -> str:
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
