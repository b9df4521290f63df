"""How fast frames may come: Envoy counts a pipelined session as one request, so the bridge counts what is in it.

The same limits as Envoy's (section `limits`), in buckets of our own: for each
caller, and for each caller, method and name. Pure but for the clock.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import grpc

from mcp_bridge.errors import HopError
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.limit_settings import LimitSettings

__all__ = ["Buckets", "Throttle"]


class Buckets:
    """Token buckets by key: `per_second` lastingly, `burst` at once, the `max_keys` used last; others start full."""

    def __init__(self, per_second: float, burst: int, max_keys: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_keys = max_keys
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, key: Hashable) -> bool:
        """Whether there was a token."""
        now = self._clock()
        left, since = self._left.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > self._max_keys:
            self._left.popitem(last=False)
        return allowed


class Throttle:
    """For all sessions of the bridge together: more streams give no more room."""

    def __init__(self, limits: LimitSettings, clock: Callable[[], float]) -> None:
        self._callers = Buckets(limits.per_client_per_second, limits.per_client_burst, limits.max_identities, clock)
        self._tools = Buckets(limits.per_tool_per_second, limits.per_tool_burst, limits.max_identity_tools, clock)
        self._max_keys = limits.max_identities
        self._between_s = 1 / limits.per_client_per_second
        self._clock = clock
        self._next: OrderedDict[str, float] = OrderedDict()

    def arrived(self, subject: str) -> HopError | None:
        """Before a frame is judged, as Envoy counts a request before it asks."""
        return None if self._callers.take(subject) else _too_fast()

    def pause_s(self, subject: str) -> float:
        """How long to read no further on the stream that was refused: so refusals come no faster than the limit,
        over all streams of a caller."""
        now = self._clock()
        then = max(now, self._next.pop(subject, now)) + self._between_s
        self._next[subject] = then
        if len(self._next) > self._max_keys:
            self._next.popitem(last=False)
        return then - now

    def allowed(self, subject: str, call: McpCall) -> HopError | None:
        """After it was allowed."""
        return None if self._tools.take((subject, call.method, call.name)) else _too_fast()


def _too_fast() -> HopError:
    return HopError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests; slow down", reason="rate_limited")
