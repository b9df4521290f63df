"""Quotas counted in this process."""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from authz_service.quotas.quota import BUCKETS, Exceeded, Quota, Take, wait_us

__all__ = ["LocalQuotas"]

_KEYS_OF_ONE: Final = 1000


class LocalQuotas:
    """Counters of this process, by a clock that is never set back.

    Memory is bounded and no counter in use is ever thrown away, since that
    would hand out its quota anew. When a quota has `max_keys` counters in use,
    callers without one share a common counter until others run out; and one
    owner has at most a thousand (or half of `max_keys`) of them, after which
    its further tools or tokens share one: a client that invents names limits
    itself, not its neighbours.
    """

    def __init__(self, max_keys: int, clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._max_keys = max_keys
        self._clock_us = clock_us
        self._tables: defaultdict[Quota, _Table] = defaultdict(lambda: _Table(max_keys))

    @property
    def size(self) -> int:
        """Counters kept."""
        return sum(len(table.windows) for table in self._tables.values())

    def take(self, takes: Sequence[Take]) -> Exceeded | None:
        """Count one call against all of `takes`, or against none: then the one that has to wait longest."""
        now_us = self._clock_us()
        worst: Exceeded | None = None
        found = []
        for take in takes:
            table = self._tables[take.quota]
            window = table.find(take, now_us)
            wait = window.wait_us(take.quota, now_us)
            if wait and (worst is None or wait > worst.wait_us):
                worst = Exceeded(take, wait)
            found.append((table, window, now_us // take.quota.bucket_us))
        if worst is None:
            for table, window, now in found:
                window.add(now)
                table.keep(window)
        return worst

    def note(self, takes: Sequence[Take]) -> None:
        """Count a call that was admitted elsewhere, so that a fall back to here does not begin at nothing."""
        now_us = self._clock_us()
        for take in takes:
            table = self._tables[take.quota]
            window = table.find(take, now_us)
            window.add(now_us // take.quota.bucket_us)
            table.keep(window)


class _Window:
    """One counter."""

    __slots__ = ("counts", "key", "newest", "owner", "total")

    def __init__(self, key: str, owner: str) -> None:
        self.key = key
        self.owner = owner
        self.counts: dict[int, int] = {}
        self.total = 0
        self.newest = -1

    def wait_us(self, quota: Quota, now_us: int) -> int:
        self.trim(now_us // quota.bucket_us)
        return 0 if self.total < quota.limit else wait_us(self.counts, quota, now_us)

    def trim(self, now: int) -> None:
        """Forget the buckets that no longer count; the oldest comes first."""
        while self.counts and (oldest := next(iter(self.counts))) < now - BUCKETS:
            self.total -= self.counts.pop(oldest)

    def add(self, now: int) -> None:
        self.counts[now] = self.counts.get(now, 0) + 1
        self.total += 1
        self.newest = now


class _Table:
    """The counters of one quota, the least recently used first: all have one window, so that one lapses first."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._max_of_one = max(1, min(_KEYS_OF_ONE, max_keys // 2))
        self.windows: OrderedDict[str, _Window] = OrderedDict()
        self._owned: defaultdict[str, int] = defaultdict(int)

    def find(self, take: Take, now_us: int) -> _Window:
        """The counter for `take`; a new one is kept only by `keep`."""
        self._drop_lapsed(now_us // take.quota.bucket_us)
        window = self.windows.get(take.key)
        if window is not None:
            return window
        if self._owned.get(take.owner, 0) >= self._max_of_one:
            return self._shared(f"{take.owner}\nrest", take.owner)
        if len(self.windows) >= self._max_keys:
            return self._shared("\nrest", "")
        return _Window(take.key, take.owner)

    def keep(self, window: _Window) -> None:
        if window.key not in self.windows:
            self.windows[window.key] = window
            self._owned[window.owner] += 1
        self.windows.move_to_end(window.key)

    def _shared(self, key: str, owner: str) -> _Window:
        return self.windows.get(key) or _Window(key, owner)

    def _drop_lapsed(self, now: int) -> None:
        while self.windows:
            key, window = next(iter(self.windows.items()))
            if window.newest >= now - BUCKETS:
                return
            del self.windows[key]
            self._owned[window.owner] -= 1
            if not self._owned[window.owner]:
                del self._owned[window.owner]
