"""What a watch reports: one event for everything that an operator may want to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["INFO", "WARNING", "ERROR"]


@dataclass(frozen=True)
class Event:
    """Something that happened during a watch.

    Args:
        kind: `start`, `read`, `forecast`, `missing`, `late`, `duplicate`, `changed`, `unreadable`, `given_up`,
            `refused`, `skipped`, `problem` or `stop`.
        message: One line for a log.
        level: INFO, WARNING or ERROR.
        values: JSON values by name, for programs.
    """

    kind: str
    message: str
    level: Level = "INFO"
    values: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[Event], object]
