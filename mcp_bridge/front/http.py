"""The server side of MCP's streamable HTTP, both eras, as an ASGI application over a `Backend`.

Between an HTTP server (uvicorn) and a backend. Messages pass as bytes. Which
era a request is of is told by its `MCP-Protocol-Version` header and by its
`_meta`; the two must agree. The last few streams of a session can be resumed
where its version knows events to come back to (2025-11-25).
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import replace
from typing import Any, Final

from mcp_bridge import wire
from mcp_bridge.front import messages, rules
from mcp_bridge.front.access import Access, values
from mcp_bridge.front.backend import Backend, BackendError, Headers, SessionUnknown, Via
from mcp_bridge.front.conversations import Conversations
from mcp_bridge.front.log import Reader
from mcp_bridge.front.messages import Invalid, Notification, Request, Response
from mcp_bridge.front.params import ParamHeaders
from mcp_bridge.front.reply import Receive, Reply, Send, read_body, watching
from mcp_bridge.front.rules import Refusal
from mcp_bridge.front.streams import Conversation, RequestStream

__all__ = ["HttpFront"]

Scope = MutableMapping[str, Any]

_SESSION_ID: Final = "mcp-session-id"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_INITIALIZED: Final = "notifications/initialized"
_PLAIN: Final = frozenset({"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Handshake-era requests during which, like lists, nobody is asked anything."""
_REVIVED_S: Final = 0.5
"""How long a GET stream waits to hear that its session is unknown before it says 200."""


class HttpFront:
    """Serve inside `async with front.running():`.

    `listens_ahead`: this front is the sessions' only way. It takes what a
    session's server says as soon as the session is up, so that a client
    without a GET stream can be asked, too, and ends the sessions when it
    stops. Without it, it listens only while a GET stream is open.
    `asks_for_tools`: it may send a `tools/list` of its own. `resumes`: streams
    are kept for clients that come back, which costs memory for each session.
    """

    def __init__(
        self,
        backend: Backend,
        access: Access,
        *,
        max_request_bytes: int,
        max_answer_bytes: int,
        path: str = "/mcp",
        keep_alive_s: float = 15.0,
        idle_s: float = 600.0,
        max_sessions: int = 1000,
        max_in_flight: int = 1000,
        listens_ahead: bool = True,
        asks_for_tools: bool = True,
        resumes: bool = True,
    ) -> None:
        self._backend = backend
        self._access = access
        self._max_request_bytes = max_request_bytes
        self._max_answer_bytes = max_answer_bytes
        self._path = path
        self._keep_alive_s = keep_alive_s
        self._max_in_flight = max_in_flight
        self._listens_ahead = listens_ahead
        self._resumes = resumes
        self._conversations = Conversations(backend, max_sessions, idle_s, max_answer_bytes, resumes=resumes)
        self._streams: dict[RequestStream, asyncio.Task[None]] = {}
        self._params = ParamHeaders(asks=asks_for_tools)
        self._group: asyncio.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as self._group:
            reaper = self._group.create_task(self._conversations.reap())
            try:
                yield
            finally:
                reaper.cancel()
                self.stop()
                for pump in list(self._streams.values()):
                    pump.cancel()
                if self._listens_ahead:
                    await self._conversations.end()

    def stop(self) -> None:
        """End every stream, so that the HTTP server can drain."""
        self._conversations.close()
        for stream in self._streams:
            stream.log.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        reply = Reply(send, self._access.browser(headers))
        try:
            refusal = await self._serve(scope, headers, receive, reply)
        except BackendError as error:
            refusal = Refusal(error.http_status, error.code, error.sentence, error.data)
        if refusal is not None:
            await reply.refuse(refusal)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, reply: Reply) -> Refusal | None:
        if sentence := self._access.flaw(headers):
            return Refusal(403, wire.INVALID_REQUEST, sentence)
        if scope["path"].rstrip("/") != self._path:
            return Refusal(404, wire.INVALID_REQUEST, f"the MCP endpoint is {self._path}")
        match scope["method"]:
            case "POST":
                return await self._post(headers, receive, reply)
            case "GET" if rules.is_handshake(headers):
                return await self._get(headers, receive, reply)
            case "DELETE" if rules.is_handshake(headers):
                return await self._delete(headers, reply)
            case "OPTIONS" if self._access.browser(headers):
                await reply.empty(204)
                return None
        reply.extra["allow"] = "GET, POST, DELETE" if rules.is_handshake(headers) else "POST"
        return Refusal(405, wire.INVALID_REQUEST, f"{scope['method']} is not served here")

    async def _post(self, headers: Headers, receive: Receive, reply: Reply) -> Refusal | None:
        if not rules.is_json(headers):
            return Refusal(415, wire.INVALID_REQUEST, "Content-Type must be application/json")
        if not (rules.accepts(headers, _JSON) and rules.accepts(headers, _EVENTS)):
            return Refusal(406, wire.INVALID_REQUEST, "Accept must list application/json and text/event-stream")
        body = await read_body(headers, receive, self._max_request_bytes)
        if not isinstance(body, bytes):
            return body
        message = messages.read_message(body)
        if isinstance(message, Invalid):
            reply.id_json = message.id_json
            return Refusal(400, message.code, message.sentence)
        if isinstance(message, Request):
            reply.id_json = message.id_json
            if message.declared is not None or not rules.is_handshake(headers):
                return await self._modern(message, headers, receive, reply)
            return await self._handshake(message, headers, receive, reply)
        return await self._tell(message, headers, reply)

    async def _modern(self, request: Request, headers: Headers, receive: Receive, reply: Reply) -> Refusal | None:
        if refusal := rules.check_modern(request, headers):
            return refusal
        via = Via(version=request.declared, headers=headers)
        if refusal := await self._params.check(self._backend, request, via):
            return refusal
        stream = RequestStream(self._max_answer_bytes, None, request, resumable=False)
        await self._exchange(stream, request, via, receive, reply, streams=request.expects_notifications)
        return None

    async def _handshake(self, request: Request, headers: Headers, receive: Receive, reply: Reply) -> Refusal | None:
        if request.method == "initialize":
            stream = RequestStream(self._max_answer_bytes, None, request, resumable=False)
            await self._exchange(stream, request, Via(headers=headers), receive, reply, streams=False)
            return None
        via = self._via(headers)
        conversation = self._conversations.of(via)
        reply.extra[_SESSION_ID] = via.session_id
        via = replace(via, version=conversation.version)
        # A stream to come back to begins at once; without one the status can still say that there is no such session.
        resumable = conversation.is_resumable and conversation.is_sure
        stream = RequestStream(self._max_answer_bytes, conversation, request, resumable=resumable)
        stream.begins_at_once = resumable or (conversation.is_sure and not self._resumes)
        try:
            await self._exchange(stream, request, via, receive, reply, streams=_may_ask(request))
        except SessionUnknown:
            self._conversations.forget(conversation)
            raise
        if isinstance(stream.failure, SessionUnknown):
            self._conversations.forget(conversation)
        elif stream.response:
            conversation.is_sure = True
        return None

    async def _tell(self, message: Notification | Response, headers: Headers, reply: Reply) -> Refusal | None:
        if not rules.is_handshake(headers):
            version = values(headers, "mcp-protocol-version")[0]
            if isinstance(message, Response):
                return Refusal(400, wire.INVALID_REQUEST, "2026-07-28 has no requests of servers to respond to")
            if version not in rules.MODERN_VERSIONS:
                return rules.unsupported(version)
            await reply.empty(202)  # 2026-07-28 defines none over HTTP: a cancel is the end of the request's stream
            return None
        via = self._via(headers)
        conversation = self._conversations.of(via)
        via = replace(via, version=conversation.version)
        try:
            if isinstance(message, Response):
                await self._backend.reply(message.message, via)
            else:
                await self._backend.notify(message, via)
        except SessionUnknown:
            self._conversations.forget(conversation)
            raise
        if isinstance(message, Notification) and message.method == _INITIALIZED and self._listens_ahead:
            conversation.listen(self._running_group(), via)
        await reply.empty(202)
        return None

    async def _get(self, headers: Headers, receive: Receive, reply: Reply) -> Refusal | None:
        if not rules.accepts(headers, _EVENTS):
            return Refusal(406, wire.INVALID_REQUEST, "Accept must list text/event-stream")
        via = self._via(headers)
        conversation = self._conversations.of(via)
        seen = conversation.find(next(iter(values(headers, "last-event-id")), ""))
        reply.extra[_SESSION_ID] = via.session_id
        if isinstance(seen, tuple):
            stream, position = seen
            stream.is_gone = False
            await reply.start_events()
            await self._write(stream, stream.log.reader(position), receive, reply)
            return None
        if conversation.queue.has_reader and seen is None:
            return Refusal(409, wire.INVALID_REQUEST, "another GET stream of this session is open")
        reader = conversation.queue.reader(seen)
        try:
            if refusal := await self._begin_listening(conversation, via):
                return refusal
            await reply.start_events()
            await reply.event(b"")
            await self._write_queue(reader, receive, reply, named=conversation.is_resumable)
        finally:
            reader.detach()
            conversation.last_used = time.monotonic()
            if conversation.ended.is_set() or not (self._listens_ahead or conversation.queue.has_reader):
                self._conversations.forget(conversation)
        return None

    async def _begin_listening(self, conversation: Conversation, via: Via) -> Refusal | None:
        if conversation.listen(self._running_group(), via):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(conversation.ended.wait(), _REVIVED_S)
        if isinstance(conversation.failure, SessionUnknown):
            raise conversation.failure
        if conversation.failure is not None:
            return Refusal(405, conversation.failure.code, conversation.failure.sentence, conversation.failure.data)
        return None

    async def _delete(self, headers: Headers, reply: Reply) -> Refusal | None:
        via = self._via(headers)
        conversation = self._conversations.of(via)
        try:
            await self._backend.end_session(via)
        finally:
            self._conversations.forget(conversation)
        await reply.empty(200)
        return None

    async def _exchange(
        self, stream: RequestStream, request: Request, via: Via, receive: Receive, reply: Reply, *, streams: bool
    ) -> None:
        """2025-11-25: a client that leaves cancels nothing; 2026-07-28: it cancels its request. So does one that
        leaves before it was told its session."""
        if len(self._streams) >= self._max_in_flight:
            raise BackendError(f"{self._max_in_flight} requests are in flight", http_status=503)
        pump = self._running_group().create_task(stream.pump(self._backend, request, via, streams=streams))
        self._streams[stream] = pump
        pump.add_done_callback(lambda _: self._streams.pop(stream))
        cancels = stream.is_modern or request.method == "initialize"
        reader = stream.log.reader()

        def left() -> None:
            stream.is_gone = True
            reader.detach()

        try:
            async with watching(receive, left):
                await self._answer(stream, reader, request, via, reply)
        finally:
            reader.detach()
            if cancels:
                pump.cancel()

    async def _answer(self, stream: RequestStream, reader: Reader, request: Request, via: Via, reply: Reply) -> None:
        """JSON where the response comes before anything else, so that its HTTP status can be of its kind."""
        if stream.begins_at_once:
            await reply.start_events()
            if stream.resumable:
                await reply.prime(_event_id(stream, 0))
        else:
            opens = request.method == "initialize"
            first = await self._next(reader)
            while opens and first is not None:
                first = await self._next(reader)
            if first is None:
                if not stream.is_gone:
                    await self._answer_as_json(stream, request, via, reply)
                return
            await reply.start_events()
            await reply.event(first[1])
        await self._write_rest(stream, reader, reply)

    async def _write_rest(self, stream: RequestStream, reader: Reader, reply: Reply) -> None:
        while (item := await self._next(reader)) is not None:
            await reply.event(item[1], _event_id(stream, item[0]) if item[1] else "")
        if not stream.log.is_closed:
            await reply.end()  # the client is gone, or came back elsewhere
        elif stream.response:
            await reply.event(stream.response, _event_id(stream, stream.log.last + 1), last=True)
        else:
            await reply.event(_failed(stream).body(stream.id_json), last=True)

    async def _answer_as_json(self, stream: RequestStream, request: Request, via: Via, reply: Reply) -> None:
        if not stream.response:
            if isinstance(stream.failure, SessionUnknown):
                raise stream.failure
            await reply.refuse(_failed(stream))
            return
        if stream.session_id:
            reply.extra[_SESSION_ID] = stream.session_id
            version = messages.agreed_version(stream.response)
            self._conversations.of(replace(via, session_id=stream.session_id, version=version)).is_sure = True
        if stream.is_modern and request.method == "tools/list":
            self._params.learn(self._backend.owner(via), request, stream.response)
        await reply.json(rules.status_of(stream.response) if stream.is_modern else 200, stream.response)

    async def _write(self, stream: RequestStream, reader: Reader, receive: Receive, reply: Reply) -> None:
        """The rest of a request's stream, for a client that came back to it."""

        def left() -> None:
            stream.is_gone = True
            reader.detach()

        try:
            async with watching(receive, left):
                await self._write_rest(stream, reader, reply)
        finally:
            reader.detach()

    async def _write_queue(self, reader: Reader, receive: Receive, reply: Reply, *, named: bool) -> None:
        async with watching(receive, reader.detach):
            while (item := await self._next(reader)) is not None:
                await reply.event(item[1], f"0-{item[0]}" if named and item[1] else "")
        await reply.end()

    async def _next(self, reader: Reader) -> tuple[int, bytes] | None:
        """The next message; an empty one when it is time for a sign of life; None at the end."""
        try:
            async with asyncio.timeout(self._keep_alive_s):
                return await reader.next()
        except TimeoutError:
            return 0, b""

    def _via(self, headers: Headers) -> Via:
        named = values(headers, _SESSION_ID)
        if len(named) != 1 or not re.fullmatch(r"[\x21-\x7e]{1,128}", named[0]):
            sentence = "the Mcp-Session-Id header must name the session: send initialize first"
            raise BackendError(sentence, code=wire.INVALID_REQUEST, http_status=400)
        return Via(named[0], next(iter(values(headers, "mcp-protocol-version")), ""), headers)

    def _running_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("serve inside running()")
        return self._group


def _may_ask(request: Request) -> bool:
    """Handshake era: whether the server may say something about this request before it answers."""
    if request.expects_notifications:
        return True
    return request.method not in _PLAIN and not request.method.endswith("/list")


def _event_id(stream: RequestStream, number: int) -> str:
    return f"{stream.number}-{number}" if stream.resumable else ""


def _failed(stream: RequestStream) -> Refusal:
    failure = stream.failure or BackendError("the server is stopping")
    return Refusal(failure.http_status, failure.code, failure.sentence, failure.data)
