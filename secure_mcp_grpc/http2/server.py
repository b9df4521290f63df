"""The server on a Unix socket: asyncio around `Connection`."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, cast

from secure_mcp_grpc import logs
from secure_mcp_grpc.http2.connection import Call, Connection, Limits
from secure_mcp_grpc.http2.messages import RpcError, Status

__all__ = ["Server", "Streaming", "Unary"]

logger = logging.getLogger(__name__)

Unary = Callable[[bytes], bytes | Awaitable[bytes]]
"""One message in, one out: at once, or later, out of order. Raises `RpcError` for any other status."""
Streaming = Callable[[bytes], AsyncIterator[bytes]]
"""One message in, several out."""

_FLUSH_AFTER: Final = 16
"""Answers that may wait for each other in one write: fewer system calls, and no answer waits for a long queue."""
_WRITE_BUFFER_BYTES: Final = 1024 * 1024
_ROOM_BYTES: Final = 256 * 1024
"""A stream of messages pauses while more than this waits for the peer's windows."""
_GREETING_S: Final = 10.0
_STALL_S: Final = 30.0
"""Longest time that a peer may leave our octets unread."""
_LAST_WORDS_S: Final = 0.5
_INTERNAL: Final = RpcError(Status.INTERNAL, "the request could not be answered")
_BUSY: Final = RpcError(Status.RESOURCE_EXHAUSTED, "too many requests are under way")


class Server:
    """Serves `unary` and `streaming`, gRPC path → handler, to at most `max_connections` clients."""

    def __init__(
        self,
        unary: Mapping[str, Unary],
        streaming: Mapping[str, Streaming],
        limits: Limits = Limits(),  # noqa: B008  # frozen
        *,
        max_connections: int = 256,
    ) -> None:
        self.unary = unary
        self.streaming = streaming
        self.paths = frozenset((*unary, *streaming))
        self.limits = limits
        self.stopping = False
        self._max_connections = max_connections
        self._connections: set[_Connected] = set()
        self._ended = asyncio.Event()
        self._listener: asyncio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Listen. A stale socket file is removed."""
        socket.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: _Connected(self, loop), socket)

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

    def connected(self, one: "_Connected") -> bool:
        """Whether there is room for `one` more."""
        if self.stopping or len(self._connections) >= self._max_connections:
            return False
        self._connections.add(one)
        return True

    def disconnected(self, one: "_Connected") -> None:
        self._connections.discard(one)
        self._ended.set()


class _Connected(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._connection = Connection(server.paths, time.monotonic, server.limits)
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, tuple[asyncio.Future[bytes | Status], asyncio.TimerHandle | None]] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._paused = False
        self._room = asyncio.Event()
        self._room.set()
        self._max_tasks = 2 * server.limits.max_streams

    @property
    def tasks(self) -> list[asyncio.Future[bytes | Status]]:
        return [task for task, _ in self._pending.values()]

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = both_ways = cast("asyncio.Transport", transport)  # uvloop's has another base
        if not self._server.connected(self):
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
            if isinstance(event, Call):
                self._take(event)
                answers += 1
                if answers % _FLUSH_AFTER == 0:
                    self._flush()
            elif pending := self._pending.get(event.stream_id):
                pending[0].cancel()
        if self._patience is not None and connection.greeted and not self._paused:
            self._be_patient()
        self._flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The peer does not read: nor do we, so that nothing more piles up for it."""
        self._paused = True
        self._room.clear()
        if self._transport is not None:
            self._transport.pause_reading()
        self._abort_in(_STALL_S)

    def resume_writing(self) -> None:
        self._paused = False
        self._be_patient()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        self._cancel_all()
        self._server.disconnected(self)

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
        handler = self._server.unary.get(call.head.path)
        if len(self._pending) >= self._max_tasks:  # tasks that do not heed their cancellation
            self._refuse(call.stream_id, _BUSY)
        elif handler is None:
            self._wait_for(call, self._stream(call))
        else:
            try:
                answer = handler(call.message)
                if isinstance(answer, bytes):
                    self._connection.answer(call.stream_id, answer)
                else:
                    self._wait_for(call, answer)
            except Exception as error:  # noqa: BLE001  # top of the stack: any fault is this call's alone
                self._refuse(call.stream_id, error)

    def _wait_for(self, call: Call, waiting: Awaitable[bytes | Status]) -> None:
        stream_id, timeout_s = call.stream_id, call.head.timeout_s
        task = asyncio.ensure_future(waiting)
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._expire, stream_id)
        self._pending[stream_id] = (task, timer)
        task.add_done_callback(lambda done: self._settle(stream_id, done))

    def _expire(self, stream_id: int) -> None:
        self._connection.end(stream_id, Status.DEADLINE_EXCEEDED, "the request could not be answered in time")
        self._pending[stream_id][0].cancel()
        self._flush()

    def _settle(self, stream_id: int, done: "asyncio.Future[bytes | Status]") -> None:
        _, timer = self._pending.pop(stream_id)
        if timer is not None:
            timer.cancel()
        if done.cancelled():
            self._connection.end(stream_id, Status.CANCELLED, "the request was cancelled")
        elif error := done.exception():
            self._refuse(stream_id, error)
        elif isinstance(answer := done.result(), bytes):
            self._connection.answer(stream_id, answer)
        elif answer is Status.OK:
            self._connection.end(stream_id, Status.OK)
        else:
            self._refuse(stream_id, TypeError("a handler answered with something other than bytes"))
        self._flush()

    async def _stream(self, call: Call) -> Status:
        """Messages as they come, no faster than the peer takes them."""
        async for message in self._server.streaming[call.head.path](call.message):
            self._connection.send(call.stream_id, message)
            self._flush()
            await self._room.wait()
        return Status.OK

    def _refuse(self, stream_id: int, error: BaseException) -> None:
        if not isinstance(error, RpcError):
            logger.error("handler_failed", exc_info=error)
            error = _INTERNAL
        self._connection.end(stream_id, error.status, error.sentence)

    def _cancel_all(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _flush(self) -> None:
        """Write what there is, and close where there will be no more."""
        transport, connection = self._transport, self._connection
        if transport is None or transport.is_closing():
            return
        if data := connection.take():
            transport.write(data)
        if connection.closed or (self._server.stopping and connection.drained):
            if connection.fault:
                logs.event(logger, logging.WARNING, "http2_peer_cut_off", what=connection.fault)
            self._cancel_all()
            self._abort_in(_STALL_S)  # unless it takes our last words before
            transport.close()
        else:
            self._make_room()

    def _abort_in(self, seconds: float) -> None:
        self._be_patient()
        self._patience = self._loop.call_later(seconds, self.abort)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _make_room(self) -> None:
        if self._paused or self._connection.waiting_bytes > _ROOM_BYTES:
            self._room.clear()
        else:
            self._room.set()
