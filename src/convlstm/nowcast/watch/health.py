"""The health file of a watch: what it did last, for monitoring."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from convlstm.errors import DataError
from convlstm.files import write_atomic

State = Literal["starting", "waiting", "forecasting", "stopped", "failed"]

HEALTH_FILE = "health.json"
HEARTBEAT_SECONDS = 10.0
"""Longest time between two writes of the health file while the watch waits."""


@dataclass
class Health:
    """The content of the health file; times are texts in UTC, or None if there was no such event."""

    state: State
    started: str
    updated: str  # time of this content
    process: int
    version: str
    model: str  # digest of the weights
    source: str
    last_frame: str | None = None  # time of the last frame
    last_init_time: str | None = None  # of the last forecast
    last_output: str | None = None
    last_forecast: str | None = None  # when it was written
    latency_seconds: float | None = None  # from the last change of its file until then
    compute_seconds: float | None = None
    forecasts: int = 0  # written since the start
    skipped: int = 0  # initial times without a forecast, since the start
    given_up: int = 0  # files that could not be read
    duplicates: int = 0  # frames of a time that was known
    pending: int = 0  # files that are not read yet
    problem: str | None = None  # the last warning or error

    def write(self, path: Path) -> None:
        """Replace the health file atomically."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_atomic(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def check_health(path: Path, now: float, max_age: float, max_forecast_age: float | None = None) -> tuple[bool, str]:
    """Return whether a watch is healthy, and one line that says why.

    It is healthy if the file was updated at most `max_age` seconds before `now` (seconds since 1970) by a watch that
    runs. With `max_forecast_age`, its last forecast may be at most that many seconds old, or the watch itself before
    the first forecast. A file that is no health file is a `DataError`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state, problem = str(content["state"]), content["problem"]
        age = now - _seconds(content["updated"])
        forecast_age = now - _seconds(content["last_forecast"] or content["started"])
    except OSError as error:
        raise DataError(
            str(path),
            expected="the health file of a watch",
            received=str(error.strerror or error),
            hint="Pass the file in the output folder of `convlstm watch`.",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            str(path),
            expected="the health file of a watch",
            received=f"{type(error).__name__}: {error}",
            hint="Pass the file in the output folder of `convlstm watch`.",
        ) from error
    facts = f"{state}, updated {age:.0f} s ago, last frame {content.get('last_frame') or 'none'}"
    facts += f", {content.get('forecasts', 0)} forecasts, {content.get('skipped', 0)} skipped"
    if state in ("stopped", "failed"):
        return False, f"unhealthy: {facts}" + (f"; {problem}" if problem else "")
    if age > max_age:
        return False, f"unhealthy: {facts}; expected an update within {max_age:g} s"
    if max_forecast_age is not None and forecast_age > max_forecast_age:
        return False, f"unhealthy: {facts}; no forecast for {forecast_age / 60:.0f} min"
    return True, f"healthy: {facts}"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
