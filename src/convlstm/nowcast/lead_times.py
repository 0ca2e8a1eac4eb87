"""The lead times of a forecast: checked, and as numbers of steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlstm.data.windows import STEP_TOLERANCE
from convlstm.errors import ConfigError
from convlstm.nowcast.config import MOST_STEPS


def check_lead_times(lead_seconds: NDArray[np.float64]) -> None:
    """Raise a `ConfigError` for lead times that are not above 0 and increasing."""
    increase = (np.diff(lead_seconds, prepend=0.0) > 0).all()
    if not (len(lead_seconds) and np.isfinite(lead_seconds).all() and increase):
        raise ConfigError(
            "lead times",
            expected="minutes above 0 that increase",
            received=_minutes(lead_seconds) or "none",
            hint="Pass them as 10,30,60.",
        )


def lead_steps(lead_seconds: NDArray[np.float64], time_step: float) -> NDArray[np.intp]:
    """Return lead times in seconds as numbers of time steps; others than multiples of the step are a `ConfigError`.

    Example:
        >>> lead_steps(np.array([300.0, 900.0]), 300.0)
        array([1, 3])
    """
    steps = np.rint(lead_seconds / time_step)
    if steps[-1] > MOST_STEPS:
        raise ConfigError(
            "lead times",
            expected=f"at most {MOST_STEPS} steps ahead",
            received=f"{_minutes(lead_seconds)} min",
            hint="Decrease the lead times.",
        )
    if np.any(np.abs(lead_seconds - steps * time_step) > STEP_TOLERANCE * time_step):
        raise ConfigError(
            "lead times",
            expected=f"multiples of the model's step of {time_step / 60:g} min",
            received=f"{_minutes(lead_seconds)} min",
            hint="Choose multiples, or train a model with `model.duration_strategy`.",
        )
    return steps.astype(np.intp)


def _minutes(lead_seconds: NDArray[np.float64]) -> str:
    return ", ".join(f"{s / 60:g}" for s in lead_seconds)
