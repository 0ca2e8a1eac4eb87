"""Format lead times in a unit that suits the longest of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LeadUnit:
    """The unit of the lead times of a page.

    Args:
        short: Its symbol.
        long: Its name, in the plural.
        minutes: Its length in minutes.
        steps: Tick distances of a clock in this unit, ascending; empty for round numbers.

    Example:
        >>> lead_unit([5, 60]).label(-25), lead_unit([60, 720]).label(720), lead_unit([518400]).words(518400)
        ('−25 min', '12 h', '360 days')
    """

    short: str
    long: str
    minutes: float
    steps: tuple[float, ...] = ()

    def label(self, lead_time: float) -> str:
        """Return a lead time in short form, such as `30 min`.

        Args:
            lead_time: Lead time in minutes.

        Returns:
            Number and unit.
        """
        return f"{signed(f'{lead_time / self.minutes:g}')} {self.short}"

    def words(self, lead_time: float) -> str:
        """Return a lead time for a sentence.

        Args:
            lead_time: Lead time in minutes.

        Returns:
            Number and unit, spelled out.
        """
        number = f"{lead_time / self.minutes:g}"
        return f"{signed(number)} {self.long.removesuffix('s') if number == '1' else self.long}"


def lead_unit(lead_times: Iterable[float]) -> LeadUnit:
    """Return the unit that suits the longest lead time.

    Args:
        lead_times: Lead times in minutes.

    Returns:
        Seconds below three minutes, minutes up to three hours, hours up to three days, then days.

    Example:
        >>> [lead_unit([longest]).short for longest in (0.04, 60, 720, 10080)]
        ['s', 'min', 'h', 'd']
    """
    longest = max(lead_times)
    if longest < 3:
        return LeadUnit("s", "seconds", 1 / 60)
    if longest <= 180:
        return LeadUnit("min", "minutes", 1, steps=(1, 2, 5, 10, 15, 20, 30))
    if longest <= 3 * 1440:
        return LeadUnit("h", "hours", 60, steps=(1, 2, 3, 6, 12))
    return LeadUnit("d", "days", 1440)


def signed(text: str) -> str:
    """Return the text with a leading hyphen as a minus sign.

    Args:
        text: A number as text.

    Returns:
        The text with a minus sign.

    Example:
        >>> signed("-5")
        '−5'
    """
    return text.replace("-", "−")
