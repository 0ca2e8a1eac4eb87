"""Format lead times in a unit that suits the longest of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LeadUnit:
    """The unit of the lead times of a page."""

    short: str  # symbol
    long: str  # name, in the plural
    minutes: float  # length in minutes
    steps: tuple[float, ...] = ()  # tick distances of a clock in this unit, ascending; empty for round numbers

    def label(self, lead_time: float) -> str:
        """Return a lead time in minutes in short form, such as `30 min`."""
        return f"{signed(f'{lead_time / self.minutes:g}')} {self.short}"

    def words(self, lead_time: float) -> str:
        """Return a lead time in minutes for a sentence, such as `30 minutes`."""
        number = f"{lead_time / self.minutes:g}"
        return f"{signed(number)} {self.long.removesuffix('s') if number == '1' else self.long}"


def lead_unit(lead_times: Iterable[float]) -> LeadUnit:
    """Return the unit that suits the longest lead time (minutes): s below 3 min, min to 3 h, h to 3 days, then days."""
    longest = max(lead_times)
    if longest < 3:
        return LeadUnit("s", "seconds", 1 / 60)
    if longest <= 180:
        return LeadUnit("min", "minutes", 1, steps=(1, 2, 5, 10, 15, 20, 30))
    if longest <= 3 * 1440:
        return LeadUnit("h", "hours", 60, steps=(1, 2, 3, 6, 12))
    return LeadUnit("d", "days", 1440)


def signed(text: str) -> str:
    """Return the text of a number with a leading hyphen as a minus sign."""
    return text.replace("-", "−")
