"""What a page is about: a span of time and filters. Pure; the clock is passed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["CUSTOM", "DEFAULT_RANGE", "OUTCOMES", "RANGES", "REFUSED", "Filters", "Window", "custom", "last"]

# Shown as they are and kept in the URL as they are: `?range=Last+hour`.
RANGES: Final[Mapping[str, timedelta]] = {
    "Last 15 minutes": timedelta(minutes=15),
    "Last hour": timedelta(hours=1),
    "Last 6 hours": timedelta(hours=6),
    "Last 24 hours": timedelta(hours=24),
    "Last 7 days": timedelta(days=7),
    "Last 30 days": timedelta(days=30),
}
CUSTOM: Final = "Custom (UTC)"
DEFAULT_RANGE: Final = "Last hour"

OUTCOMES: Final = ("allowed", "denied", "limited", "error", "unavailable", "cancelled", "public")
"""Outcomes of a request, in the order in which they are drawn."""

REFUSED: Final = ("denied", "limited")

_BUCKETS_S: Final = (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_MAX_BUCKETS: Final = 90


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` (included) to `end` (excluded), both in UTC."""

    start: datetime
    end: datetime

    @property
    def start_us(self) -> int:
        return _microseconds(self.start)

    @property
    def end_us(self) -> int:
        return _microseconds(self.end)

    @property
    def previous_us(self) -> int:
        """Start of the window of the same length before this one."""
        return self.start_us - (self.end_us - self.start_us)

    @property
    def bucket_s(self) -> int:
        """Width of a bar: the smallest round one that makes at most ninety bars."""
        seconds = (self.end - self.start).total_seconds()
        return next((bucket for bucket in _BUCKETS_S if seconds / bucket <= _MAX_BUCKETS), _BUCKETS_S[-1])

    def text(self) -> str:
        """The window in words, with its time zone."""
        same_day = self.start.date() == self.end.date()
        end = f"{self.end:%H:%M:%S}" if same_day else f"{self.end:%Y-%m-%d %H:%M:%S}"
        return f"{self.start:%Y-%m-%d %H:%M:%S} to {end} UTC"


@dataclass(frozen=True, slots=True)
class Filters:
    """Values to keep, per column; an empty tuple keeps everything."""

    identities: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.identities, self.servers, self.methods, self.tools, self.outcomes))


def last(name: str, now: datetime) -> Window:
    """The window that ends now; whole seconds, so that pages open at the same time share their queries.

    The end is the next whole second: a row of this very second is inside.
    """
    end = now.replace(microsecond=0) + timedelta(seconds=1)
    return Window(end - RANGES[name], end)


def custom(start: datetime, end: datetime) -> Window | None:
    """The window between two times without a zone, which are read as UTC; None where the end is not after the start."""
    if end <= start:
        return None
    return Window(start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
