"""Times of the clock as texts, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(seconds: float | None = None) -> str:
    """Return a time in seconds since 1970, or the present one, as a text such as 2018-05-20T12:00:00Z.

    Example:
        >>> utc_text(1526817600.0)
        '2018-05-20T12:00:00Z'
    """
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
