"""How much a peer may ask that costs work and leads to no answer: pings, settings, resets, faults."""

from collections.abc import Callable
from typing import Final

from secure_mcp_grpc.http2.wire import ConnectionFault, ErrorCode

__all__ = ["Patience"]

_WHAT: Final = "too many frames that ask for nothing"


class Patience:
    """`burst` at once, `per_s` lastingly; `clock` gives seconds and is read only when a burst is used up."""

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left = float(burst)
        self._since = clock()

    def spend(self) -> None:
        """One nuisance; raises `ConnectionFault` ENHANCE_YOUR_CALM when there were too many."""
        self._left -= 1
        if self._left >= 0:
            return
        now = self._clock()
        self._left = min(self._burst, (now - self._since) * self._per_s) - 1
        self._since = now
        if self._left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, _WHAT)
