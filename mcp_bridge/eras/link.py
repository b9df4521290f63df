"""A session that the bridge keeps with a handshake server for clients that have none (2026-07-28)."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.calls import Ask, Call
from mcp_bridge.eras.capabilities import lacking, refusal
from mcp_bridge.eras.listener import Listener
from mcp_bridge.eras.through import Through
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange, Note, Outbox, Session, Upstream
from secure_mcp_grpc.calls import McpCall

__all__ = ["Link"]

_MAX_UNASKED: Final = 16
"""Requests of the server that wait for a call to travel with."""
_UNASKED_S: Final = 60.0
_UNASKED_BUSY_S: Final = 5.0
"""The same while a call that cannot carry them may be waiting for their answers."""
_MAX_REPLIES: Final = 64
_TELL_S: Final = 5.0
_SURE_S: Final = 1.0
"""A session that served a call this lately is there."""


class Link:
    """`initialized` is the server's InitializeResult, once `open` returned."""

    def __init__(self, inner: Upstream, session_id: str, owner: str, capabilities: Mapping[str, Any]) -> None:
        self._inner = inner
        self._capabilities = capabilities
        self.session = Session(session_id, owner, Through(self._from_session, self._ended))
        self.initialized: dict[str, msgspec.Raw] = {}
        self.version = ""
        self.server_info = b""
        self.server_capabilities: dict[str, Any] = {}
        self.alive = True
        self.last_used = time.monotonic()
        self.calls: dict[int, Call] = {}
        self.listeners: list[Listener] = []
        self.watched: dict[str, int] = {}
        self._level = ""
        self._numbers = itertools.count(1)
        self._unasked: dict[str, Ask] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        return bool(self.calls or self.listeners)

    async def open(self, declared: words.Declared) -> None:
        """The handshake. Raises `Refused` with the server's own error, or where the two share no version."""
        newest = words.HANDSHAKE_VERSIONS[-1]
        params = words.encode(
            {
                "protocolVersion": newest,
                "capabilities": msgspec.Raw(declared.capabilities),
                "clientInfo": msgspec.Raw(declared.client_info),
            }
        )
        answer = await self._inner.request(self._exchange("initialize", params, opens_session=True))
        envelope = wire.read_envelope(answer)
        if body := bytes(envelope.error):
            members = wire.object_of(body)
            message = words.decoded(members.get("message"))
            raise words.Refused(
                words.read_error_code(body),
                str(message or "the MCP server refused"),
                bytes(members.get("data", b"")),
                of_server=True,
            )
        self.initialized = wire.object_of(bytes(envelope.result))
        version = words.decoded(self.initialized.get("protocolVersion"))
        if version not in words.HANDSHAKE_VERSIONS:
            data = words.encode({"supported": [str(version)], "requested": words.MODERN})
            raise words.Refused(words.UNSUPPORTED_VERSION, "Unsupported protocol version", data)
        self.version = version
        self.server_info = bytes(self.initialized.get("serverInfo", b'{"name":"","version":""}'))
        capabilities = words.decoded(self.initialized.get("capabilities"))
        self.server_capabilities = capabilities if isinstance(capabilities, dict) else {}
        await self._inner.notify(Note("notifications/initialized", b"", self.session.owner, self.session))

    def has(self, capability: str, member: str = "") -> bool:
        value = self.server_capabilities.get(capability)
        return isinstance(value, dict) and (not member or value.get(member) is True)

    # Calls

    def new_call(self, method: str) -> Call:
        """Raises nothing; what the server asked outside of any call travels with the first that may carry it."""
        call = Call(next(self._numbers), method, method in words.ASKING)
        self.calls[call.number] = call
        self.last_used = time.monotonic()
        if call.may_ask and self._unasked:
            for one in self._unasked.values():
                call.ask(one)
            self._unasked.clear()
        return call

    def run(self, call: Call, exchange: Exchange, params: bytes) -> None:
        """Send it. `params` are free of 2026-07-28; the progress token becomes our number."""
        if call.token:
            params = wire.replace_meta(params, {wire.PROGRESS_TOKEN: b"%d" % call.number})
        inner = self._exchange(exchange.call.method, params, number=call.number)
        inner.call = McpCall(exchange.call.method, exchange.call.name, exchange.call.arguments)
        inner.trace = exchange.trace
        inner.outbox = Through(lambda message: self._received(message, call))
        call.start(self._inner.request(inner))

    def finish(self, call: Call) -> None:
        """Work that still runs is cancelled; questions that it carries for others travel on."""
        ended_by_itself = call.work is not None and call.work.done() and not call.work.cancelled()
        call.stop()
        self.calls.pop(call.number, None)
        self.last_used = time.monotonic()
        asks, call.asks = call.asks, {}
        if ended_by_itself and self.alive:
            for ask in asks.values():
                self._carry(ask, None)

    async def request(self, method: str, params: bytes) -> wire.Envelope:
        """A request of the bridge's own; its response."""
        return wire.read_envelope(await self._inner.request(self._exchange(method, params, number=next(self._numbers))))

    async def check(self) -> None:
        """Find out whether the server still knows the session: raises `HopError` where it does not."""
        if time.monotonic() - self.last_used > _SURE_S:
            with contextlib.suppress(TimeoutError, wire.NotJson):
                async with asyncio.timeout(_TELL_S):
                    await self.request("ping", b"")  # any answer will do
            self.last_used = time.monotonic()

    async def reply(self, ask: Ask, body: bytes) -> None:
        """The client's result, to the server. One that is gone is told by its call."""
        with contextlib.suppress(HopError):
            await self._inner.reply(self.session, wire.result(ask.id_json, body))

    async def log_at(self, level: str) -> None:
        """Have the server log at `level` at least; raised only, since others may still want it."""
        if not self.has("logging") or (self._level and words.LEVELS.index(level) >= words.LEVELS.index(self._level)):
            return
        envelope = await self.request("logging/setLevel", words.encode({"level": level}))
        if not bytes(envelope.error):
            self._level = level

    def give_up(self, call: Call) -> None:
        """The client did not come back: answer what the server waits for, then cancel the call."""
        for ask in call.asks.values():
            if ask.method == "elicitation/create":
                self._tell(wire.result(ask.id_json, b'{"action":"cancel"}'))
            else:
                self._tell(wire.error(ask.id_json, wire.INTERNAL_ERROR, "the client gave no answer in time"))
        call.asks.clear()
        self.finish(call)

    # Messages of the server

    def _from_session(self, message: bytes) -> tuple[Outbox, bytes] | None:
        return self._received(message, None)

    def _received(self, message: bytes, call: Call | None) -> tuple[Outbox, bytes] | None:
        try:
            envelope = wire.read_envelope(message)
        except wire.NotJson:
            return None
        method = envelope.method
        if method and bytes(envelope.id):
            self._asked(envelope, call)
        elif method == "notifications/progress":
            return self._progress(bytes(envelope.params))
        elif method == "notifications/message":
            return self._log(message, bytes(envelope.params), call)
        elif method == "notifications/cancelled":
            self._withdrawn(bytes(envelope.params))
        elif method in words.CHANGES or method == "notifications/resources/updated":
            with contextlib.suppress(wire.NotJson):
                self._event(method, bytes(envelope.params))
        elif method and method != "notifications/elicitation/complete" and call is not None and call.outbox is not None:
            return call.outbox, message
        return None

    def _asked(self, envelope: wire.Envelope, call: Call | None) -> None:
        id_json, params = bytes(envelope.id), bytes(envelope.params)
        if envelope.method == "ping":
            self._tell(wire.result(id_json, b"{}"))
            return
        if (refused := refusal(envelope.method, params, self._capabilities)) is not None:
            if (blamed := call or self._carrier()) is not None:
                blamed.lacking |= lacking(envelope.method, params, self._capabilities) or {}
            self._tell(wire.error(id_json, *refused))
            return
        if params and params.lstrip()[:1] != b"{":
            self._tell(wire.error(id_json, wire.INVALID_PARAMS, "params must be an object"))
            return
        if envelope.method == "elicitation/create" and params:
            members = wire.object_of(params)
            if members.pop("elicitationId", None) is not None:  # 2026-07-28 removed it
                params = words.encode(members)
        self._carry(Ask(f"input-{next(self._numbers)}", id_json, envelope.method, params), call)

    def _carry(self, ask: Ask, call: Call | None) -> None:
        carrier = call if call is not None and call.may_ask else self._carrier()
        if carrier is not None and not carrier.has_room(ask):
            self._tell(wire.error(ask.id_json, wire.INTERNAL_ERROR, "too many requests wait for this client"))
        elif carrier is not None:
            carrier.ask(ask)
        elif len(self._unasked) < _MAX_UNASKED:
            self._unasked[ask.key] = ask
            loop = asyncio.get_running_loop()
            loop.call_later(_UNASKED_BUSY_S, self._stale, ask, False)
            loop.call_later(_UNASKED_S, self._stale, ask, True)
        else:
            self._tell(wire.error(ask.id_json, wire.INTERNAL_ERROR, "too many requests wait for this client"))

    def _carrier(self) -> Call | None:
        """Over one pipe a server does not say for which call it asks: the latest that runs may carry it.

        All of them are one client's, and the answer goes back by the server's own id.
        """
        for call in reversed(self.calls.values()):
            if call.may_ask and call.work is not None and not call.work.done():
                return call
        return None

    def _stale(self, ask: Ask, at_once: bool) -> None:
        blocked = any(call.started <= ask.arrived for call in self.calls.values())
        if ask.key in self._unasked and (at_once or blocked):
            del self._unasked[ask.key]
            self._tell(wire.error(ask.id_json, wire.INTERNAL_ERROR, "the client cannot be asked outside of a call"))

    def _withdrawn(self, params: bytes) -> None:
        try:
            id_json = bytes(wire.object_of(params)["requestId"])
        except (wire.NotJson, KeyError):
            return
        for asks in (self._unasked, *(call.asks for call in self.calls.values())):
            for key in [key for key, ask in asks.items() if ask.id_json == id_json]:
                del asks[key]

    def _progress(self, params: bytes) -> tuple[Outbox, bytes] | None:
        try:
            token = bytes(wire.object_of(params)["progressToken"])
        except (wire.NotJson, KeyError):
            return None
        call = self.calls.get(int(token)) if token.isdigit() and len(token) < 19 else None
        if call is None or call.outbox is None or not call.token:
            return None
        restored = wire.with_params(params, {"progressToken": call.token})
        return call.outbox, wire.notification("notifications/progress", restored)

    def _log(self, message: bytes, params: bytes, call: Call | None) -> tuple[Outbox, bytes] | None:
        """2026-07-28: only for a request that asked for logs, at its level, on its own stream."""
        try:
            level = words.decoded(wire.object_of(params).get("level"))
        except wire.NotJson:
            return None
        if level not in words.LEVELS:
            return None
        weight = words.LEVELS.index(level)
        for one in (call,) if call is not None else reversed(self.calls.values()):
            if one.outbox is not None and one.level and words.LEVELS.index(one.level) <= weight:
                return one.outbox, message
        return None

    def _event(self, method: str, params: bytes) -> None:
        uri = None
        if method not in words.CHANGES:
            uri = words.decoded(wire.object_of(params).get("uri"))
        for listener in list(self.listeners):
            wanted = uri in listener.uris if uri is not None else words.CHANGES.get(method) in listener.kinds
            if wanted:
                listener.add(method, params)

    # The rest

    def end_listeners(self) -> None:
        for listener in self.listeners:
            listener.end()

    async def close(self) -> None:
        for call in list(self.calls.values()):
            self.finish(call)
        self.end_listeners()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.alive = False
        with contextlib.suppress(HopError):
            await self._inner.end_session(self.session)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A message that nobody waits for; beyond a bound the server does without."""
        if len(self._tasks) >= _MAX_REPLIES:
            work.close()
            return
        task = asyncio.create_task(work, name=f"{self._inner.name} era")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self) -> None:
        """The connection is gone: calls fail by themselves, listeners have to be told."""
        self.alive = False
        self._unasked.clear()
        self.end_listeners()

    def _tell(self, message: bytes) -> None:
        self.spawn(self._send(message))

    async def _send(self, message: bytes) -> None:
        with contextlib.suppress(HopError, TimeoutError):
            async with asyncio.timeout(_TELL_S):
                await self._inner.reply(self.session, message)

    def _exchange(self, method: str, params: bytes, *, number: int = 0, opens_session: bool = False) -> Exchange:
        return Exchange(
            McpCall(method, "", {}),
            b"%d" % number,
            params,
            wire.read_meta(params),
            owner=self.session.owner,
            session=self.session,
            opens_session=opens_session,
        )
