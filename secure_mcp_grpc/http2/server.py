"""The server on a Unix socket: it listens, and stops."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from secure_mcp_grpc.http2.connected import Connected
from secure_mcp_grpc.http2.events import Limits
from secure_mcp_grpc.http2.rpc import Methods, Streaming, Unary
from secure_mcp_grpc.http2.table import Table

__all__ = ["Server"]

_LAST_WORDS_S: Final = 0.5


class Server:
    """Serves handlers by gRPC path to at most `max_connections` clients.

    Those in `methods` know the headers of their requests; `unary` and `streaming` know the message alone.
    """

    def __init__(
        self,
        unary: Mapping[str, Unary],
        streaming: Mapping[str, Streaming],
        limits: Limits = Limits(),  # noqa: B008  # frozen
        *,
        methods: Methods = Methods(),  # noqa: B008  # frozen
        max_connections: int = 256,
    ) -> None:
        self.table = Table(unary, streaming, methods)
        self.limits = limits
        self.stopping = False
        self._max_connections = max_connections
        self._connections: set[Connected] = set()
        self._ended = asyncio.Event()
        self._listener: asyncio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Listen. A stale socket file is removed."""
        socket.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: Connected(self, loop), socket)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those under way end for `grace_s` seconds, then cancel them. May be called again."""
        self.stopping = True
        if self._listener is not None:
            self._listener.close()
        for connected in list(self._connections):
            connected.shut_down()
        await self._all_ended(grace_s)
        tasks = [task for connected in self._connections for task in connected.tasks]
        for connected in list(self._connections):
            connected.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        await self._all_ended(_LAST_WORDS_S)

    async def _all_ended(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while self._connections:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            return

    def connected(self, one: Connected) -> bool:
        """Whether there is room for `one` more."""
        if self.stopping or len(self._connections) >= self._max_connections:
            return False
        self._connections.add(one)
        return True

    def disconnected(self, one: Connected) -> None:
        self._connections.discard(one)
        self._ended.set()
