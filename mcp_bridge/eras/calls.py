"""One call of a 2026-07-28 client at a handshake server, while it runs or is parked."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_bridge.exchange import Outbox

__all__ = ["Ask", "Call"]

_MAX_ASKS: Final = 64
_MAX_ASKED_BYTES: Final = 2 * 1024 * 1024
"""Of questions that wait for one call's client."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the server that waits for the client's answer. `id_json` is the server's."""

    key: str
    id_json: bytes
    method: str
    params: bytes
    arrived: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Call:
    """`outbox`, `token` and `level` are those of the client's latest request for it; without an outbox it is parked."""

    number: int
    method: str
    may_ask: bool
    outbox: Outbox | None = None
    token: bytes = b""
    level: str = ""
    lacking: dict[str, Any] = field(default_factory=dict)
    """Client capabilities that the server would have needed for it."""
    asks: dict[str, Ask] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    work: asyncio.Task[bytes] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, work: Awaitable[bytes]) -> None:
        self.work = asyncio.ensure_future(work)
        self.work.add_done_callback(self._done)

    async def turn(self) -> bool:
        """Wait for the answer, or for the server to ask something; True for the answer."""
        while not self.asks and not (self.work is not None and self.work.done()):
            self.changed.clear()
            await self.changed.wait()
        return self.work is not None and self.work.done()

    def follow(self, outbox: Outbox | None, token: bytes, level: str) -> None:
        self.outbox, self.token, self.level = outbox, token, level

    def unfollow(self) -> None:
        self.outbox, self.token = None, b""

    def has_room(self, one: Ask) -> bool:
        """A server may go on asking while the call is parked and nobody looks."""
        waiting = sum(len(ask.params) for ask in self.asks.values())
        return len(self.asks) < _MAX_ASKS and (not self.asks or waiting + len(one.params) <= _MAX_ASKED_BYTES)

    def ask(self, one: Ask) -> None:
        self.asks[one.key] = one
        self.changed.set()

    def stop(self) -> None:
        """Cancelled work tells the server."""
        if self.work is not None:
            self.work.cancel()

    def _done(self, work: asyncio.Future[bytes]) -> None:
        if not work.cancelled():
            work.exception()  # a client that never comes back does not fetch it
        self.changed.set()
