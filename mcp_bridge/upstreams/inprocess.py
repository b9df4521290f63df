"""MCP servers that live in this process (`package.module:server`): no socket, no pipe, no second JSON-RPC stack."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_bridge.errors import session_unknown, unavailable
from mcp_bridge.exchange import Exchange, Note, Session
from mcp_bridge.multiplex import Multiplex
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from mcp_bridge.upstreams import sdk

__all__ = ["InProcessUpstream"]

logger = logging.getLogger(__name__)

_STOP_S = 0.5


@dataclass(slots=True)
class _Served:
    peer: Multiplex
    duplex: "sdk.Duplex"
    task: asyncio.Task[None]


class InProcessUpstream:
    """See `mcp_bridge.exchange.Upstream`. `server` is `package.module:server`, or the object itself."""

    def __init__(self, name: str, server: Any) -> None:
        self.name = name
        self._given = server
        self._server: Any = None
        self._state: Any = None
        self._stop = asyncio.Event()
        self._living: asyncio.Task[None] | None = None
        self._sessions: dict[str, _Served] = {}

    async def start(self) -> None:
        from mcp_bridge.upstreams import sdk

        if isinstance(self._given, str):
            self._server = sdk.load(self._given, self.name)
        else:
            self._server = sdk.as_server(self._given, f"upstream {self.name}")
        self._serve_stateless = sdk.serve_stateless
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live(started), name=f"{self.name} lifespan")
        await started

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        if exchange.session is None:
            return await self._serve_stateless(self._server, self._state, exchange)
        if exchange.opens_session:
            self._open(exchange.session)
        return await self._served(exchange.session).peer.request(exchange)

    async def notify(self, note: Note) -> None:
        if note.session is not None:
            self._served(note.session).peer.notify(note.method, note.params_json)

    async def reply(self, session: Session, message: bytes) -> None:
        self._served(session).peer.reply(message)

    async def end_session(self, session: Session) -> None:
        served = self._sessions.pop(session.id, None)
        if served is not None:
            served.duplex.close()
            await _finish([served.task])

    async def reap(self, idle_s: float) -> None:
        return None

    async def close(self) -> None:
        for served in self._sessions.values():
            served.duplex.close()
        await _finish([served.task for served in self._sessions.values()])
        self._sessions.clear()
        self._stop.set()
        if self._living is not None:
            await _finish([self._living])

    async def _live(self, started: asyncio.Future[None]) -> None:
        """The server's lifespan, entered and left by one task."""
        from mcp_bridge.upstreams import sdk

        try:
            async with sdk.lifespan(self._server) as self._state:
                started.set_result(None)
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - somebody else's code; start-up stops on it
            logs.event(logger, logging.ERROR, "upstream_lifespan_failed", server=self.name)
            if not started.done():
                started.set_exception(UserError(f"upstream {self.name} does not start: {error}"))

    def _open(self, session: Session) -> None:
        from mcp_bridge.upstreams import sdk

        peer: Multiplex

        async def received(message: bytes, related: int | None) -> None:
            await peer.received(message, related)

        duplex = sdk.Duplex(received)
        peer = Multiplex(self.name, duplex.write, session, own_words=True)
        task = asyncio.create_task(self._run(session, duplex, peer), name=f"{self.name} session")
        self._sessions[session.id] = _Served(peer, duplex, task)

    async def _run(self, session: Session, duplex: "sdk.Duplex", peer: Multiplex) -> None:
        from mcp_bridge.upstreams import sdk

        try:
            await sdk.serve_session(self._server, self._state, duplex, session.id)
        except Exception:  # noqa: BLE001 - somebody else's code; only its session ends
            logs.event(logger, logging.ERROR, "upstream_session_failed", server=self.name)
        finally:
            self._sessions.pop(session.id, None)
            peer.fail(unavailable(f"the session with the MCP server {self.name} ended"))

    def _served(self, session: Session) -> _Served:
        served = self._sessions.get(session.id)
        if served is None:
            raise session_unknown()
        return served


async def _finish(tasks: list[asyncio.Task[None]]) -> None:
    """Give `tasks` a moment to end by themselves, then cancel them."""
    if not tasks:
        return
    _, running = await asyncio.wait(tasks, timeout=_STOP_S)
    for task in running:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
