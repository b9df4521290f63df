"""One client of the server: asyncio around `Connection`, and the tasks of its calls."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Final, Protocol, cast

from secure_mcp_grpc import logs
from secure_mcp_grpc.http2.connection import Connection
from secure_mcp_grpc.http2.events import Call, Cancelled, Ended, Event, Limits, Message, Opened, Room
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.rpc import Inbox, Rpc, closing
from secure_mcp_grpc.http2.table import Kind, Table

__all__ = ["Connected", "Host"]

logger = logging.getLogger(__name__)

_FLUSH_AFTER: Final = 16
"""Answers that may wait for each other in one write: fewer system calls, and no answer waits for a long queue."""
_WRITE_BUFFER_BYTES: Final = 1024 * 1024
_GREETING_S: Final = 10.0
_STALL_S: Final = 30.0
"""Longest time that a peer may leave our octets unread."""
_INTERNAL: Final = RpcError(Status.INTERNAL, "the request could not be answered")
_BUSY: Final = RpcError(Status.RESOURCE_EXHAUSTED, "too many requests are under way")

Answer = bytes | Status


class Host(Protocol):
    """The server, as its connections see it."""

    table: Table
    limits: Limits
    stopping: bool

    def connected(self, one: "Connected") -> bool:
        """Whether there is room for `one` more."""
        ...

    def disconnected(self, one: "Connected") -> None: ...


class _Work:
    """One RPC whose answer is not yet complete."""

    __slots__ = ("inbox", "room", "rpc", "task", "timer")

    def __init__(self, rpc: Rpc | None, inbox: Inbox | None = None) -> None:
        self.rpc = rpc
        self.inbox = inbox
        self.room: asyncio.Future[None] | None = None
        """Done when its stream, full, has room again."""
        self.task: asyncio.Future[Answer]
        self.timer: asyncio.TimerHandle | None = None


class Connected(asyncio.Protocol):
    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._table = host.table
        self._connection = Connection(host.table.paths, time.monotonic, host.limits, host.table.sessions)
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, _Work] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._max_tasks = 2 * host.limits.max_streams

    @property
    def tasks(self) -> list[asyncio.Future[Answer]]:
        return [work.task for work in self._pending.values()]

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = both_ways = cast("asyncio.Transport", transport)  # uvloop's has another base
        if not self._host.connected(self):
            both_ways.abort()
            return
        both_ways.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        self._abort_in(_GREETING_S)
        self._flush()

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        answers = 0
        for event in connection.receive(data):
            if connection.closed:
                break
            if type(event) is Call:
                self._take(event)
                answers += 1
                if answers % _FLUSH_AFTER == 0:
                    self._flush()
            else:
                self._hear(event)
        if self._patience is not None and connection.greeted and not self._paused:
            self._be_patient()
        self._flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The peer does not read: nor do we, so that nothing more piles up for it."""
        self._paused = True
        self._writable.clear()
        if self._transport is not None:
            self._transport.pause_reading()
        self._abort_in(_STALL_S)

    def resume_writing(self) -> None:
        self._paused = False
        self._be_patient()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        self._cancel_all()
        self._host.disconnected(self)

    # What the server says.

    def shut_down(self) -> None:
        self._connection.shut_down()
        self._flush()

    def abort(self) -> None:
        self._cancel_all()
        if self._transport is not None:
            self._transport.abort()

    # Calls.

    def _take(self, call: Call) -> None:
        kind, handler = self._table.handlers[call.head.path]
        if len(self._pending) >= self._max_tasks:  # tasks that do not heed their cancellation
            self._refuse(call.stream_id, _BUSY)
            return
        try:
            if kind is Kind.PLAIN:
                answer = handler(call.message)
                if isinstance(answer, bytes):
                    self._connection.answer(call.stream_id, answer)
                else:
                    self._wait_for(call, _Work(None), answer)
            else:
                work = _Work(Rpc(call.head.metadata))
                answer = handler(call.message, work.rpc)
                self._wait_for(call, work, answer if kind is Kind.CALL else self._stream(call.stream_id, work, answer))
        except Exception as error:  # noqa: BLE001  # top of the stack: any fault is this call's alone
            self._refuse(call.stream_id, error)

    def _open(self, opened: Opened) -> None:
        if len(self._pending) >= self._max_tasks:
            self._refuse(opened.stream_id, _BUSY)
            return
        stream_id = opened.stream_id
        inbox = Inbox(partial(self._taken, stream_id))
        work = _Work(Rpc(opened.head.metadata), inbox)
        try:
            answers = self._table.handlers[opened.head.path][1](inbox, work.rpc)
            self._connection.begin(stream_id)
            self._wait_for(opened, work, self._stream(stream_id, work, answers))
        except Exception as error:  # noqa: BLE001  # as above
            self._refuse(stream_id, error)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._open(event)
            return
        work = self._pending.get(event.stream_id)
        if work is None:
            return
        if isinstance(event, Cancelled):
            work.task.cancel()
        elif isinstance(event, Room):
            if work.room is not None and not work.room.done():
                work.room.set_result(None)
        elif work.inbox is not None:
            if isinstance(event, Message):
                work.inbox.put(event.message)
            elif isinstance(event, Ended):
                work.inbox.end()

    def _taken(self, stream_id: int, size: int) -> None:
        if self._connection.taken(stream_id, size):
            self._flush()

    def _wait_for(self, call: Call | Opened, work: _Work, waiting: Awaitable[Answer]) -> None:
        stream_id, timeout_s = call.stream_id, call.head.timeout_s
        work.task = asyncio.ensure_future(waiting)
        if timeout_s is not None:
            work.timer = self._loop.call_later(timeout_s, self._expire, stream_id)
        self._pending[stream_id] = work
        work.task.add_done_callback(partial(self._settle, stream_id))

    def _expire(self, stream_id: int) -> None:
        self._connection.end(stream_id, Status.DEADLINE_EXCEEDED, "the request could not be answered in time")
        self._pending[stream_id].task.cancel()
        self._flush()

    def _settle(self, stream_id: int, done: asyncio.Future[Answer]) -> None:
        work = self._pending.pop(stream_id)
        if work.timer is not None:
            work.timer.cancel()
        if done.cancelled():
            self._connection.end(stream_id, Status.CANCELLED, "the request was cancelled")
        elif error := done.exception():
            self._refuse(stream_id, error)
        elif isinstance(answer := done.result(), bytes):
            self._connection.answer(stream_id, answer, work.rpc.fields if work.rpc is not None else b"")
        elif answer is Status.OK:
            self._connection.end(stream_id, Status.OK)
        else:
            self._refuse(stream_id, TypeError("a handler answered with something other than bytes"))
        self._flush()

    async def _stream(self, stream_id: int, work: _Work, messages: AsyncIterator[bytes]) -> Status:
        """Messages as they come, no faster than the peer takes those of this stream."""
        connection = self._connection
        async with closing(messages):
            async for message in messages:
                connection.begin(stream_id, work.rpc.fields if work.rpc is not None else b"")
                if not connection.send(stream_id, message):
                    work.room = self._loop.create_future()
                self._flush()
                if work.room is not None:
                    await work.room
                    work.room = None
                await self._writable.wait()
        return Status.OK

    def _refuse(self, stream_id: int, error: BaseException) -> None:
        if not isinstance(error, RpcError):
            logger.error("handler_failed", exc_info=error)
            error = _INTERNAL
        self._connection.end(stream_id, error.status, error.sentence, error.details)

    def _cancel_all(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _flush(self) -> None:
        """Write what there is, and close where there will be no more."""
        transport, connection = self._transport, self._connection
        if transport is None or transport.is_closing():
            return
        for event in connection.take_events():
            self._hear(event)
        if data := connection.take():
            transport.write(data)
        if connection.closed or (self._host.stopping and connection.drained):
            if connection.fault:
                logs.event(logger, logging.WARNING, "http2_peer_cut_off", what=connection.fault)
            self._cancel_all()
            self._abort_in(_STALL_S)  # unless it takes our last words before
            transport.close()

    def _abort_in(self, seconds: float) -> None:
        self._be_patient()
        self._patience = self._loop.call_later(seconds, self.abort)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
