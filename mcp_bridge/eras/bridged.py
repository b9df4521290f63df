"""An upstream behind which server and caller may be of different protocol eras. See the package's docstring.

Which eras a server speaks is a property of the server (2026-07-28,
"Backward Compatibility"): found out once, and again when an answer shows
that it no longer holds.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.handshake_callers import HandshakeCallers
from mcp_bridge.eras.links import Links
from mcp_bridge.eras.modern_callers import ModernCallers
from mcp_bridge.eras.settings import Era
from mcp_bridge.errors import HopError, NotStarted, unavailable
from mcp_bridge.exchange import Exchange, Note, Session, Upstream
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall

__all__ = ["Bridged", "Limits"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one upstream; times in seconds."""

    input_wait_s: float = 300.0
    max_parked_calls: int = 256
    max_sessions: int = 64
    max_sessions_per_owner: int = 8
    open_s: float = 30.0
    probe_s: float = 5.0
    """After this long without an answer to `server/discover` the handshake is tried beside it."""
    max_rounds: int = 10


class Bridged:
    """See `mcp_bridge.exchange.Upstream`. Wraps `inner`, which reaches one MCP server."""

    def __init__(self, inner: Upstream, *, era: Era = "auto", limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.name = inner.name
        self.inner = inner
        self._limits = limits
        self._is_modern: bool | None = {"modern": True, "handshake": False}.get(era)
        self._shakes_hands: bool | None = {"modern": False, "handshake": True}.get(era)
        self._fixed = era != "auto"
        self._finding_out = asyncio.Lock()
        self._links = Links(
            inner, most=limits.max_sessions, most_per_owner=limits.max_sessions_per_owner, open_s=limits.open_s
        )
        self._modern_callers = ModernCallers(
            inner, self._links, most_parked=limits.max_parked_calls, wait_s=limits.input_wait_s
        )
        self._handshake_callers = HandshakeCallers(
            inner, wait_s=limits.input_wait_s, open_s=limits.open_s, max_rounds=limits.max_rounds
        )

    @property
    def parked(self) -> int:
        """Calls that wait for their client's input."""
        return self._modern_callers.parked

    async def start(self) -> None:
        await self.inner.start()

    async def request(self, exchange: Exchange) -> bytes:
        session = exchange.session
        if session is not None:
            if exchange.opens_session:
                return await self._initialize(exchange)
            if (caller := self._handshake_callers.find(session)) is not None:
                return await caller.request(exchange)
            return await self.inner.request(exchange)
        if self._is_modern is None:
            await self._find_out(exchange)
        if self._is_modern:
            answer = await self.inner.request(exchange)
            if exchange.call.method == "server/discover" and not self._fixed and _verdict(answer) is False:
                self._is_modern = None  # another server answers there now
            return answer
        try:
            return await self._modern_callers.request(exchange)
        finally:
            if self._modern_callers.refused_handshake and not self._fixed:
                self._modern_callers.refused_handshake = False
                self._is_modern = None

    async def notify(self, note: Note) -> None:
        caller = self._handshake_callers.find(note.session) if note.session is not None else None
        if caller is not None:
            await caller.notify(note)
        else:
            await self.inner.notify(note)

    async def reply(self, session: Session, message: bytes) -> None:
        if (caller := self._handshake_callers.find(session)) is not None:
            caller.reply(message)
        else:
            await self.inner.reply(session, message)

    async def end_session(self, session: Session) -> None:
        if self._handshake_callers.find(session) is not None:
            await self._handshake_callers.end(session)
        else:
            await self.inner.end_session(session)

    async def reap(self, idle_s: float) -> None:
        await self._links.reap(idle_s)
        await self.inner.reap(idle_s)

    async def close(self) -> None:
        self._modern_callers.close()
        await asyncio.gather(self._handshake_callers.close(), self._links.close())
        await self.inner.close()

    async def _initialize(self, exchange: Exchange) -> bytes:
        """To the server where it knows the handshake; otherwise answered from what it says of itself."""
        failure: HopError | None = None
        answer: bytes | None = None
        if self._shakes_hands is not False:
            try:
                answer = await self.inner.request(exchange)
            except HopError as error:
                failure = error
            if answer is not None and bytes(wire.read_envelope(answer).result):
                self._shakes_hands = True
                return answer
            if self._shakes_hands and not (answer is not None and self._is_other_server(answer)):
                return _outcome(answer, failure)  # it knows the handshake and refuses this one
            if exchange.session is not None:
                with contextlib.suppress(HopError):
                    await self.inner.end_session(exchange.session)
        opened = await self._handshake_callers.open(exchange, needed=self._shakes_hands is False)
        if opened is None:
            return _outcome(answer, failure)
        if failure is None and self._shakes_hands is not False:
            self._shakes_hands = False
            self._say("modern", False)
        return opened

    async def _find_out(self, exchange: Exchange) -> None:
        async with self._finding_out:
            if self._is_modern is not None:
                return
            asking = asyncio.ensure_future(self.inner.request(_discovery(exchange)))
            try:
                self._is_modern = await self._verdict_of(asking, exchange)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            if not self._is_modern:
                self._say("handshake", True)

    async def _verdict_of(self, asking: "asyncio.Future[bytes]", exchange: Exchange) -> bool:
        """2026-07-28, stdio, "Backward Compatibility": a modern answer, or else any other, or none in good time.

        An outage says nothing about the era: only a handshake that succeeds does.
        """
        await asyncio.wait([asking], timeout=self._limits.probe_s)
        if asking.done() and asking.exception() is None:
            return _verdict(asking.result())
        if asking.done() and isinstance(failed := asking.exception(), NotStarted):
            raise failed  # a handshake would only start it once more
        opening = asyncio.ensure_future(self._modern_callers.greet(exchange))
        try:
            waiting: set[asyncio.Future[Any]] = {opening} if asking.done() else {asking, opening}
            until = time.monotonic() + self._limits.open_s
            while waiting and (left_s := until - time.monotonic()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if asking in done and asking.exception() is None:
                    return _verdict(asking.result())
                if opening in done and opening.exception() is None:
                    return False
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        ended = [one for one in (asking, opening) if one.done() and not one.cancelled()]
        failure = next((one.exception() for one in ended), None)
        raise failure if isinstance(failure, HopError) else unavailable(f"the MCP server {self.name} does not answer")

    def _is_other_server(self, answer: bytes) -> bool:
        """An error that only a modern server has: another one answers there now."""
        code = words.read_error_code(bytes(wire.read_envelope(answer).error))
        return not self._fixed and code in words.MODERN_ERRORS

    def _say(self, era: str, modern_callers: bool) -> None:
        bridges = "2026-07-28 callers" if modern_callers else "handshake callers"
        logs.event(logger, logging.INFO, "upstream_era", server=self.name, era=era, bridged=bridges)


def _discovery(exchange: Exchange) -> Exchange:
    params = words.declare(b"", words.CLIENT_INFO, b"{}", "")
    call = McpCall("server/discover", "", {}, words.MODERN)
    return Exchange(call, b"0", params, wire.read_meta(params), owner=exchange.owner)


def _verdict(answer: bytes) -> bool:
    """Whether an answer to `server/discover` is a modern server's."""
    try:
        envelope = wire.read_envelope(answer)
        if body := bytes(envelope.error):
            members = wire.object_of(body)
            if words.read_error_code(body) not in words.MODERN_ERRORS:
                return False
            data = words.decoded(members.get("data"))
            supported = data.get("supported") if isinstance(data, dict) else None
            return not any(version in words.HANDSHAKE_VERSIONS for version in supported or ())
        versions = words.decoded(wire.object_of(bytes(envelope.result)).get("supportedVersions"))
    except wire.NotJson:
        return False
    return isinstance(versions, list) and words.MODERN in versions


def _outcome(answer: bytes | None, failure: HopError | None) -> bytes:
    if answer is None:
        raise failure or unavailable("the MCP server did not answer initialize")
    return answer
