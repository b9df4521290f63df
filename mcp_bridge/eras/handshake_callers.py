"""Clients of the handshake versions at a 2026-07-28 server: their sessions live in the bridge."""

import asyncio
import itertools
import secrets
from collections.abc import Mapping
from typing import Any, Final

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.capabilities import read_capabilities
from mcp_bridge.eras.feed import Feed
from mcp_bridge.eras.questions import Questions
from mcp_bridge.eras.through import Through
from mcp_bridge.eras.words import Refused
from mcp_bridge.errors import HopError, timed_out, unavailable
from mcp_bridge.exchange import Exchange, Note, Outbox, Session, Upstream
from secure_mcp_grpc.calls import McpCall

__all__ = ["HandshakeCallers"]

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 0.25
"""Between tries where a server asks for nothing but to be asked again, as SDK clients wait."""
_DEFAULT_LEVEL: Final = "info"
"""2025-11-25, "Setting Log Level": without a level the server decides; the modern server is told one."""


class HandshakeCallers:
    """`wait_s` bounds how long a client may take to answer, `max_rounds` how often a server may ask in one call."""

    def __init__(self, inner: Upstream, *, wait_s: float, open_s: float, max_rounds: int) -> None:
        self._inner = inner
        self._wait_s = wait_s
        self._open_s = open_s
        self._max_rounds = max_rounds
        self._callers: dict[str, _Caller] = {}

    def find(self, session: Session) -> "_Caller | None":
        return self._callers.get(session.id)

    async def open(self, exchange: Exchange, *, needed: bool) -> bytes | None:
        """Answer `initialize` from `server/discover`; None where the server does not know that, unless it is `needed`.

        2025-11-25, "Version Negotiation": the version that was asked for where there is such a one, else the newest.
        """
        session = exchange.session
        if session is None:
            return None
        exchange.server = self._inner.name
        try:
            members = wire.object_of(exchange.params_json)
            asked = words.decoded(members.get("protocolVersion"))
            capabilities = read_capabilities(bytes(members.get("capabilities", b"{}")))
        except (wire.NotJson, msgspec.MsgspecError):
            return wire.error(
                exchange.id_json, wire.INVALID_PARAMS, "initialize needs protocolVersion and capabilities"
            )
        version = asked if asked in words.HANDSHAKE_VERSIONS else words.HANDSHAKE_VERSIONS[-1]
        caller = _Caller(
            self._inner,
            session,
            version,
            bytes(members.get("clientInfo", Raw(words.CLIENT_INFO))),
            capabilities,
            self._wait_s,
            self._max_rounds,
        )
        try:
            async with asyncio.timeout(self._open_s):
                envelope = wire.read_envelope(await caller.ask("server/discover", b""))
        except (HopError, TimeoutError) as error:
            if not needed:
                return None
            if isinstance(error, HopError):
                raise
            raise timed_out(f"the MCP server {self._inner.name} did not answer server/discover in time") from None
        if bytes(envelope.error):
            return wire.response_with_id(envelope, exchange.id_json) if needed else None
        try:
            discovered = wire.object_of(bytes(envelope.result))
            supported = words.decoded(discovered.get("supportedVersions"))
            if not isinstance(supported, list) or words.MODERN not in supported:
                data = words.encode({"supported": supported, "requested": asked})
                return words.error(exchange.id_json, wire.INVALID_PARAMS, "Unsupported protocol version", data)
            body = words.initialize_result(discovered, version, self._inner.name)
        except wire.NotJson:
            return None
        caller.discovered(words.decoded(discovered.get("capabilities")))
        self._callers[session.id] = caller
        return wire.result(exchange.id_json, body)

    async def end(self, session: Session) -> None:
        caller = self._callers.pop(session.id, None)
        if caller is not None:
            await caller.close()

    async def close(self) -> None:
        callers = list(self._callers.values())
        self._callers.clear()
        await asyncio.gather(*(caller.close() for caller in callers))


class _Caller:
    """One session: what its client declared, what it asked for, what is under way."""

    def __init__(
        self,
        inner: Upstream,
        session: Session,
        version: str,
        info: bytes,
        capabilities: Mapping[str, Any],
        wait_s: float,
        max_rounds: int,
    ) -> None:
        self._inner = inner
        self._session = session
        self._version = version
        self._info = info
        self._capabilities = words.encode(capabilities)
        self._max_rounds = max_rounds
        self._level = _DEFAULT_LEVEL
        self._server: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._running: dict[bytes, asyncio.Task[bytes]] = {}
        self._questions = Questions(f"era-{secrets.token_hex(4)}", capabilities, wait_s)
        self._feed: Feed | None = None

    def discovered(self, capabilities: Any) -> None:
        self._server = capabilities if isinstance(capabilities, dict) else {}
        kinds = [
            kind
            for kind, name in (
                ("promptsListChanged", "prompts"),
                ("resourcesListChanged", "resources"),
                ("toolsListChanged", "tools"),
            )
            if self._has(name, "listChanged")
        ]
        self._feed = Feed(self._listen, self._session.queue.offer, kinds)

    async def request(self, exchange: Exchange) -> bytes:
        """The response as a handshake server would give it."""
        exchange.server = self._inner.name
        try:
            if (body := await self._answered_here(exchange)) is not None:
                return wire.result(exchange.id_json, body)
            return await self._cancellable(exchange)
        except Refused as refused:
            return refused.answer(exchange.id_json)
        except (wire.NotJson, msgspec.MsgspecError, UnicodeDecodeError):
            raise unavailable(
                f"the MCP server {self._inner.name} answered with something that is not of MCP's form"
            ) from None

    async def notify(self, note: Note) -> None:
        """What 2026-07-28 has no word for ends here."""
        if note.method == "notifications/initialized" and self._feed is not None:
            self._feed.start()
        elif note.method == "notifications/cancelled":
            try:
                named = bytes(wire.object_of(note.params_json)["requestId"])
            except (wire.NotJson, KeyError):
                return
            if (running := self._running.get(named)) is not None:
                running.cancel()

    def reply(self, message: bytes) -> None:
        self._questions.answered(message)

    async def ask(self, method: str, params: bytes, exchange: Exchange | None = None) -> bytes:
        """One stateless request under this client's name; `exchange` is the client's own that it is made for."""
        declared = words.declare(params, self._info, self._capabilities, self._level)
        name, arguments = (exchange.call.name, exchange.call.arguments) if exchange is not None else ("", {})
        part = Exchange(
            McpCall(method, name, arguments, words.MODERN),
            b"%d" % next(self._numbers),
            declared,
            wire.read_meta(declared),
            owner=self._session.owner,
        )
        if exchange is not None:
            part.trace = exchange.trace
            part.outbox = Through(lambda message: self._onward(message, exchange.outbox))
        return await self._inner.request(part)

    async def close(self) -> None:
        running = list(self._running.values())
        for one in running:
            one.cancel()
        if self._feed is not None:
            await self._feed.close()
        await asyncio.gather(*running, return_exceptions=True)

    async def _answered_here(self, exchange: Exchange) -> bytes | None:
        """The result of what only the session concerns."""
        method = exchange.call.method
        if method == "ping":
            return b"{}"
        if words.gone_in_handshake(method):
            raise Refused(wire.METHOD_NOT_FOUND, f"the handshake versions have no {method} here")
        if method == "logging/setLevel":
            if "logging" not in self._server:
                raise Refused(wire.METHOD_NOT_FOUND, "the MCP server does not log to its clients")
            level = words.decoded(wire.object_of(exchange.params_json or b"{}").get("level"))
            if level not in words.LEVELS:
                raise Refused(wire.INVALID_PARAMS, f"level must be one of {', '.join(words.LEVELS)}")
            self._level = level
            return b"{}"
        if method in ("resources/subscribe", "resources/unsubscribe"):
            if self._feed is None or not self._has("resources", "subscribe"):
                raise Refused(wire.METHOD_NOT_FOUND, "the MCP server has no resource subscriptions")
            uri = words.decoded(wire.object_of(exchange.params_json or b"{}").get("uri"))
            if not isinstance(uri, str):
                raise Refused(wire.INVALID_PARAMS, "params.uri must be a string")
            await (self._feed.add(uri) if method == "resources/subscribe" else self._feed.remove(uri))
            return b"{}"
        return None

    async def _cancellable(self, exchange: Exchange) -> bytes:
        """A cancel is the client's notification, or the end of its call."""
        work = asyncio.ensure_future(self._rounds(exchange))
        self._running[exchange.id_json] = work
        try:
            return await work
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise HopError(grpc.StatusCode.CANCELLED, "the client cancelled this request") from None
        finally:
            if self._running.get(exchange.id_json) is work:
                del self._running[exchange.id_json]

    async def _rounds(self, exchange: Exchange) -> bytes:
        """Ask; while the server wants input, get it from the client and ask again (2026-07-28, "Basic Workflow")."""
        method, params, pause_s = exchange.call.method, exchange.params_json, _FIRST_PAUSE_S
        for _ in range(self._max_rounds + 1):
            envelope = wire.read_envelope(await self.ask(method, params, exchange))
            if bytes(envelope.error):
                return wire.response_with_id(envelope, exchange.id_json)
            members = wire.object_of(bytes(envelope.result))
            if words.decoded(members.get("resultType")) != "input_required":
                return wire.result(exchange.id_json, words.handshake_result(method, members, self._version))
            if method not in words.ASKING:
                raise Refused(wire.INTERNAL_ERROR, f"the MCP server asks for input in {method}, which it must not")
            changes: dict[str, bytes] = {}
            if "requestState" in members:
                changes["requestState"] = bytes(members["requestState"])
            if asked := wire.object_of(bytes(members.get("inputRequests", Raw(b"{}")))):
                responses = await self._questions.ask(asked, exchange.outbox or self._session.queue)
                changes["inputResponses"] = words.encode(responses)
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)
            params = wire.with_params(exchange.params_json, changes)
        raise Refused(wire.INTERNAL_ERROR, f"the MCP server asked for input more than {self._max_rounds} times")

    async def _listen(self, filter_: bytes, outbox: Outbox) -> bytes:
        params = words.declare(words.encode({"notifications": Raw(filter_)}), self._info, self._capabilities, "")
        call = McpCall("subscriptions/listen", "", {}, words.MODERN)
        part = Exchange(call, b"%d" % next(self._numbers), params, wire.read_meta(params), self._session.owner)
        part.outbox = outbox
        return await self._inner.request(part)

    def _has(self, capability: str, member: str) -> bool:
        value = self._server.get(capability)
        return isinstance(value, dict) and value.get(member) is True

    def _onward(self, message: bytes, outbox: Outbox | None) -> tuple[Outbox, bytes] | None:
        """Notifications go on; a modern server sends no requests, and one that does gets none through.

        Without a stream of the call's own they go to the session, if there is room: a client that
        does not listen holds up no call.
        """
        try:
            envelope = wire.read_envelope(message)
        except wire.NotJson:
            return None
        if not envelope.method or bytes(envelope.id):
            return None
        if outbox is None:
            self._session.queue.offer(message)
            return None
        return outbox, message
