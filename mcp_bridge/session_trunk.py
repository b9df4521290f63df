"""What a pipelined session sends: one way out for all of its answers, and a bound on those that nobody reads."""

import asyncio
from collections.abc import Callable

import msgspec

from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Outbox
from mcp_bridge.status import error_of
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["Backlog", "Branch", "Running", "Trunk", "refused", "response"]


class Backlog:
    """Octets that wait for the readers of all sessions. Beyond `max_bytes` the session that holds most ends."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[Trunk, int] = {}
        self.total = 0

    def add(self, trunk: "Trunk", size: int) -> None:
        self._held[trunk] = self._held.get(trunk, 0) + size
        self.total += size
        while self.total > self._max_bytes and self._held:
            worst = max(self._held, key=self._held.__getitem__)
            self.drop(worst)
            worst.discard()

    def remove(self, trunk: "Trunk", size: int) -> None:
        if (held := self._held.get(trunk)) is not None:
            self._held[trunk] = held - size
            self.total -= size

    def drop(self, trunk: "Trunk") -> None:
        self.total -= self._held.pop(trunk, 0)


class Trunk(Outbox):
    """`unread` is called when it must be given up because its reader takes nothing."""

    def __init__(self, max_bytes: int, backlog: Backlog, unread: Callable[[], None]) -> None:
        super().__init__(max_bytes)
        self._backlog = backlog
        self._unread = unread

    def offer(self, message: bytes) -> bool:
        if not super().offer(message):
            return False
        self._backlog.add(self, len(message))
        return True

    async def put(self, message: bytes) -> None:
        if self._closed:
            return
        self._backlog.add(self, len(message))
        try:
            await super().put(message)
        except asyncio.CancelledError:
            self._backlog.remove(self, len(message))
            raise
        self._closed_meanwhile(len(message))

    def _closed_meanwhile(self, size: int) -> None:
        """Then the message was dropped."""
        if self._closed:
            self._backlog.remove(self, size)

    async def get(self) -> bytes | None:
        message = await super().get()
        if message is not None:
            self._backlog.remove(self, len(message))
        return message

    def discard(self) -> None:
        """Nobody reads it: what waits is let go."""
        self._unread()
        self.close()
        self._messages.clear()
        self._bytes = 0


class Running:
    """A request that was allowed. `forsaken`: its sender cancelled it, and expects no answer."""

    __slots__ = ("begun", "forsaken", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.forsaken = False


class Branch(Outbox):
    """One request's part of the trunk: the messages that come before its answer."""

    def __init__(self, trunk: Outbox, running: Running) -> None:
        super().__init__(0)
        self._trunk = trunk
        self._running = running

    def offer(self, message: bytes) -> bool:
        if self._closed or not self._trunk.offer(response(message)):
            self.overflowed = self._trunk.overflowed
            return False
        self.taken += 1
        return True

    async def put(self, message: bytes) -> None:
        if not self._closed:
            await self._trunk.put(response(message))
            self.taken += 1

    def close(self) -> None:
        """The bridge ends what would never end by itself."""
        super().close()
        if self._running.task is not None:
            self._running.task.cancel()


def response(message: bytes, session_id: str = "") -> bytes:
    written: bytes = pb.Response(message_json=message, session_id=session_id).SerializeToString()
    return written


def refused(id_json: bytes, error: HopError, retry_after_s: int = 0) -> bytes:
    """A `Response` with the JSON-RPC error that `error` becomes."""
    body = error_of(error.code, error.sentence)
    if retry_after_s:
        body["data"]["retryAfterS"] = retry_after_s
    return response(b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + msgspec.json.encode(body) + b"}")
