"""The server side of MCP's stdio transport, both eras: one client, one JSON-RPC message a line, over a `Backend`.

2026-07-28 requests are stateless; the handshake's `initialize` opens a session
at the backend, which ends with the client. A session that the backend lost
(its sidecar was restarted) is opened again with the client's own `initialize`,
since clients on stdio have no way to be told.
"""

import asyncio
import contextlib
import logging
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.front.backend import Answer, Backend, BackendError, SessionUnknown, Via
from mcp_bridge.front.messages import (
    Invalid,
    Notification,
    Request,
    Response,
    agreed_version,
    error,
    id_of,
    read_message,
)
from mcp_bridge.front.pipes import Read, Write
from mcp_bridge.upstreams.lines import LineReader, TooLong, one_line
from secure_mcp_grpc import logs

__all__ = ["StdioFront"]

logger = logging.getLogger(__name__)

_END_SESSION_S: Final = 1.0
_CANCELLED: Final = "notifications/cancelled"
_INITIALIZED: Final = "notifications/initialized"
_REOPEN_ID: Final = b'"secure-mcp-grpc/reopen"'

Key = tuple[type, Any]


class StdioFront:
    def __init__(
        self, backend: Backend, read: Read, write: Write, *, max_line_bytes: int, max_in_flight: int = 1024
    ) -> None:
        self._backend = backend
        self._read = read
        self._write = write
        self._max_line_bytes = max_line_bytes
        self._max_in_flight = max_in_flight
        self._in_flight: dict[Key, tuple[asyncio.Task[None], bool]] = {}
        self._via = Via()
        self._initialize: Request | None = None
        self._initialized: Notification | None = None
        self._listener: asyncio.Task[None] | None = None
        self._reopening = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until the client closes its end or `stop` is set; then nothing is left in flight, nor a session."""
        try:
            async with asyncio.TaskGroup() as self._group:
                reading = self._group.create_task(self._read_all())
                stopping = self._group.create_task(stop.wait())
                await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
                for task in (reading, stopping, self._listener, *(task for task, _ in self._in_flight.values())):
                    if task is not None:
                        task.cancel()
        finally:
            await self._end_session(self._via)

    async def _read_all(self) -> None:
        lines = LineReader(self._max_line_bytes)
        with contextlib.suppress(ConnectionError):  # a client that takes nothing more is gone
            while chunk := await self._read():
                for line in lines.feed(chunk):
                    await self._survive(line)

    async def _survive(self, line: bytes | TooLong) -> None:
        try:
            await self._take(line)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - top of the stack: a bug is this message's failure, not the connection's
            logs.event(logger, logging.ERROR, "message_failed")

    async def _take(self, line: bytes | TooLong) -> None:
        if isinstance(line, TooLong):
            sentence = f"the message is larger than the limit of {self._max_line_bytes} bytes"
            await self._send(error(id_of(line.head, line.tail), wire.INVALID_REQUEST, sentence))
            return
        if not line.strip():
            return
        match read_message(line):
            case Invalid() as invalid:
                await self._send(error(invalid.id_json, invalid.code, invalid.sentence))
            case Request() as request:
                await self._start(request)
            case Notification() as notification:
                await self._tell(notification)
            case Response() as response:
                await self._quietly("reply", self._backend.reply(response.message, self._via))

    async def _start(self, request: Request) -> None:
        """The next line is read while this request is under way. An id used again belongs to the later request."""
        if len(self._in_flight) >= self._max_in_flight:
            sentence = f"{self._max_in_flight} requests are in flight"
            await self._send(error(request.id_json, wire.INTERNAL_ERROR, sentence))
            return
        key = _key(msgspec.json.decode(request.id_json))
        if (earlier := self._in_flight.get(key)) is not None:
            earlier[0].cancel()
        task = self._running_group().create_task(self._ask(request), name=request.method)
        self._in_flight[key] = (task, request.is_modern)
        task.add_done_callback(lambda done: self._finished(key, done))

    def _finished(self, key: Key, task: asyncio.Task[None]) -> None:
        if (entry := self._in_flight.get(key)) is not None and entry[0] is task:
            del self._in_flight[key]

    async def _ask(self, request: Request) -> None:
        try:
            await self._relay(request)
        except BackendError as failure:
            await self._send(error(request.id_json, failure.code, failure.sentence))
        except ConnectionError:
            return  # the client is gone; reading ends, too
        except Exception:  # noqa: BLE001 - top of the stack: a bug is this request's failure, not the connection's
            logs.event(logger, logging.ERROR, "request_failed", method=request.method)
            await self._send(
                error(request.id_json, wire.INTERNAL_ERROR, "the request failed inside; the log says more")
            )

    async def _relay(self, request: Request) -> None:
        if request.method == "initialize":
            await self._open(request)
            return
        via = Via() if request.is_modern else self._via
        try:
            await self._exchange(request, via)
        except SessionUnknown:
            if not await self._reopen(via):
                raise
            await self._exchange(request, self._via)

    async def _exchange(self, request: Request, via: Via) -> None:
        answers = self._backend.request(request, via, streams=request.expects_notifications)
        async with aclosing(answers):
            async for answer in answers:
                await self._send(answer.message)

    async def _open(self, request: Request) -> None:
        answer = await self._handshake(request)
        earlier, self._initialize, self._initialized = self._via, request, None
        if answer.session_id:
            self._entered(answer)
            await self._send(answer.message)
            await self._end_session(earlier)
        else:
            await self._send(answer.message)

    async def _handshake(self, request: Request) -> Answer:
        async with aclosing(self._backend.request(request, Via(), streams=False)) as answers:
            async for answer in answers:
                if answer.is_response:
                    return answer
        raise BackendError("the server ended the request without a response")

    def _entered(self, answer: Answer) -> None:
        self._via = Via(answer.session_id, agreed_version(answer.message))

    async def _reopen(self, lost: Via) -> bool:
        """A session in place of the lost one, opened as the client opened that; False where that fails."""
        async with self._reopening:
            if self._via.session_id != lost.session_id:
                return True
            if self._initialize is None or not lost.session_id:
                return False
            answer = await self._handshake(replace(self._initialize, id_json=_REOPEN_ID))
            if not answer.session_id:
                return False
            self._entered(answer)
            if self._initialized is not None:
                await self._backend.notify(self._initialized, self._via)
                self._listen()
            logs.event(logger, logging.WARNING, "session_reopened")
            return True

    async def _tell(self, notification: Notification) -> None:
        if notification.method == _CANCELLED and not await self._cancel(notification):
            return
        if not self._via.session_id:
            return  # 2026-07-28 has no other notifications from clients
        done = await self._quietly(notification.method, self._backend.notify(notification, self._via))
        if notification.method == _INITIALIZED:
            self._initialized = notification
            if done:
                self._listen()

    async def _cancel(self, notification: Notification) -> bool:
        """Whether the server has to be told: in 2026-07-28 the end of the call tells it. No response is sent."""
        entry = self._in_flight.get(_key(notification.params.get("requestId")))
        if entry is None:
            return True
        task, is_modern = entry
        if is_modern or not self._via.session_id:
            task.cancel()
            return False
        await self._quietly(_CANCELLED, self._backend.notify(notification, self._via))
        task.cancel()
        return False

    def _listen(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        self._listener = self._running_group().create_task(self._listening(self._via), name="listen")

    async def _listening(self, via: Via) -> None:
        try:
            async with aclosing(self._backend.listen(via)) as messages:
                async for message in messages:
                    await self._send(message)
        except BackendError as failure:
            logs.event(logger, logging.INFO, "listen_ended", reason=failure.sentence)
        except ConnectionError:
            return  # the client is gone
        except Exception:  # noqa: BLE001 - top of the stack: requests go on without it
            logs.event(logger, logging.ERROR, "listen_failed")

    async def _end_session(self, via: Via) -> None:
        if via.session_id:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SESSION_S):
                    await self._quietly("end_session", self._backend.end_session(via))

    async def _quietly(self, what: str, telling: Any) -> bool:
        """A message that nobody answers: a failure is logged."""
        try:
            await telling
        except BackendError as failure:
            logs.event(logger, logging.WARNING, "not_delivered", what=what, reason=failure.sentence)
            return False
        return True

    async def _send(self, message: bytes) -> None:
        await self._write(one_line(message))

    def _running_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("run() was not called")
        return self._group


def _key(value: Any) -> Key:
    """1 and "1" are two ids; what is no id names nothing."""
    return (type(value), value) if isinstance(value, int | str) else (type(None), None)
