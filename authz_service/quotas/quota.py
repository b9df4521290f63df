"""Quotas and the arithmetic of their sliding window. Pure.

Time is cut into buckets of a twentieth of the window. A call counts in its
bucket, and a bucket counts until all of it is older than the window, so:

- no window of `window_s` seconds, wherever it begins, holds more than `limit`
  admitted calls (error 0 towards allowing too much, by one clock);
- a call may be counted up to one bucket (5 % of the window) longer than it
  must be (error towards refusing).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["BUCKETS", "By", "Exceeded", "Quota", "Take", "seconds", "wait_us"]

BUCKETS: Final = 20
"""Buckets in a window; one more is counted, since the window begins in the middle of one."""

By = Literal["identity", "identity_tool", "token", "user"]
"""What shares a counter."""


@dataclass(frozen=True, slots=True, eq=False)
class Quota:
    """At most `limit` calls in any `window_us` microseconds, for each of what `by` names. Equal to itself alone."""

    name: str
    by: By
    limit: int
    window_us: int
    methods: tuple[str, ...] = ("tools/call",)
    tools: tuple[str, ...] = ("*",)
    """Names of tools, resources or prompts."""
    who: tuple[str, ...] = ("*",)
    """Subjects it is for: of the workload, or of the user where `by` is `user` or `token`."""

    bucket_us: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bucket_us", -(-self.window_us // BUCKETS))


@dataclass(frozen=True, slots=True)
class Take:
    """One call counted against one quota."""

    quota: Quota
    owner: str
    """Whose quota it is: a verified subject."""
    key: str
    """What shares the counter, as the Redis key; never the same for two quotas, owners or tools."""


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Nothing was taken: `take.quota` has no room for `wait_us` microseconds."""

    take: Take
    wait_us: int


def _counted(counts: Mapping[int, int], quota: Quota, now_us: int) -> Iterator[tuple[int, int]]:
    """The (bucket, count) that count now, oldest first.

    A bucket of the future is from a clock that was set back: it counts, unless it is further off than a window.
    """
    now = now_us // quota.bucket_us
    return ((bucket, counts[bucket]) for bucket in sorted(counts) if now - BUCKETS <= bucket <= now + BUCKETS)


def wait_us(counts: Mapping[int, int], quota: Quota, now_us: int) -> int:
    """Microseconds until one more call has room; 0 for room now."""
    live = list(_counted(counts, quota, now_us))
    total = sum(count for _, count in live)
    for bucket, count in live:
        if total < quota.limit:
            break
        total -= count
        released_us = (bucket + BUCKETS + 1) * quota.bucket_us
        if total < quota.limit:
            return max(1, released_us - now_us)
    return 0


def seconds(wait: int) -> int:
    """`wait` microseconds as whole seconds, rounded up: a retry hint."""
    return max(1, math.ceil(wait / 1e6))
