"""One `subscriptions/listen` of a 2026-07-28 client: the events that wait for it."""

import asyncio
from collections import deque
from typing import Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.eras import words

__all__ = ["Listener", "stamped"]

_MOST: Final = 1024


class Listener:
    """A listener that falls behind by more than 1024 events is ended: it listens, and fetches, again."""

    def __init__(self, kinds: frozenset[str], uris: frozenset[str], id_json: bytes) -> None:
        self.kinds = kinds
        self.uris = uris
        self._id_json = id_json
        self._events: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def add(self, method: str, params: bytes) -> None:
        if len(self._events) >= _MOST:
            self.end()
        elif not self._ended:
            self._events.append(stamped(method, params, self._id_json))
            self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def next(self) -> bytes | None:
        """None once it ended and all events were taken."""
        while not self._events and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft() if self._events else None


def stamped(method: str, params: bytes, id_json: bytes) -> bytes:
    """A notification of a subscription, which carries the id of the request that listens."""
    members = wire.object_of(params) if params else {}
    meta = wire.object_of(bytes(members["_meta"])) if "_meta" in members else {}
    meta[wire.SUBSCRIPTION_ID] = msgspec.Raw(id_json)
    return wire.notification(method, words.encode({"_meta": meta} | {k: v for k, v in members.items() if k != "_meta"}))
