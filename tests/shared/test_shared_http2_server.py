"""The server on its socket: what peers do that the protocol does not forbid, or does."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from http2_frames import ECHO, END, GREETING, WHOLE, Said, block, data, headers, read, request

from secure_mcp_grpc import http2
from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.messages import prefixed
from secure_mcp_grpc.http2.wire import ErrorCode, Setting

WAIT, COUNT, STUBBORN = "/test.Service/Wait", "/test.Service/Count", "/test.Service/Stubborn"


class Handlers:
    """Calls that wait until the test lets them go, and streams."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.cancelled = 0
        self.sent = 0

    async def wait(self, message: bytes) -> bytes:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    async def stubborn(self, message: bytes) -> bytes:
        """Does not heed its cancellation, the first time."""
        try:
            return await self.wait(message)
        except asyncio.CancelledError:
            return await self.wait(message)

    async def count(self, message: bytes) -> AsyncIterator[bytes]:
        for number in range(int(message)):
            self.sent += 1
            yield bytes(10_000) + b"%d" % number

    def server(self, limits: http2.Limits = http2.Limits(), **options: int) -> http2.Server:  # noqa: B008  # frozen
        unary: dict[str, http2.Unary] = {ECHO: lambda body: body, WAIT: self.wait, STUBBORN: self.stubborn}
        return http2.Server(unary, {COUNT: self.count}, limits, **options)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.octets = b""

    async def until(self, *, stream_id: int = 0) -> Said:
        """What the server said, once it has ended `stream_id` (0: once it has closed the connection)."""
        async with asyncio.timeout(10):
            while not (stream_id and (answer := self.said().answers.get(stream_id)) and (answer.ended or answer.reset)):
                if not (piece := await self.reader.read(65_536)):
                    return self.said()
                self.octets += piece
        return self.said()

    def said(self) -> Said:
        octets, end = self.octets, 0
        while len(octets) - end >= 9 and end + 9 + int.from_bytes(octets[end : end + 3], "big") <= len(octets):
            end += 9 + int.from_bytes(octets[end : end + 3], "big")
        return read(octets[:end])


@asynccontextmanager
async def serving(directory: Path, server: http2.Server) -> AsyncIterator[Path]:
    socket = directory / "s.sock"
    await server.start(socket)
    try:
        yield socket
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(socket: Path, greeting: bytes = GREETING) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_unix_connection(socket))
    client.writer.write(greeting)
    try:
        yield client
    finally:
        client.writer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_peer_that_breaks_the_protocol_is_told_and_disconnected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: GOAWAY, the end, and one line in the log without a traceback; the next client is served."""
    with caplog.at_level(logging.INFO):
        async with serving(tmp_path, Handlers().server()) as socket:
            async with connected(socket, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as client:
                said = await client.until()
            async with connected(socket) as client:
                client.writer.write(request(1))
                assert (await client.until(stream_id=1)).answers[1].status == "0"

    assert said.goaway == (0, ErrorCode.PROTOCOL_ERROR)
    assert [record.message for record in caplog.records] == ["http2_peer_cut_off"]
    assert not caplog.records[0].exc_info


async def test_calls_of_a_peer_that_goes_away_are_cancelled(tmp_path: Path) -> None:
    """Ours: nothing goes on for nobody, also when the end comes in the same octets as the calls."""
    handlers = Handlers()
    async with serving(tmp_path, handlers.server()) as socket:
        async with connected(socket) as client:
            client.writer.write(request(1, _path=WAIT) + request(3, _path=WAIT))
            await until(lambda: handlers.begun == 2)
        await until(lambda: handlers.cancelled == 2)
        async with connected(socket) as client:
            client.writer.write(request(1, _path=WAIT) + wire.reset(1, ErrorCode.CANCEL) + request(3))
            assert (await client.until(stream_id=3)).answers[3].status == "0"
    gc.collect()  # a coroutine that was never awaited would warn, and warnings are errors

    assert handlers.begun == handlers.cancelled


async def test_peer_that_never_reads_costs_a_bounded_amount(tmp_path: Path) -> None:
    """Ours: when its answers pile up in the socket, nothing more is read from it; others are served meanwhile."""
    handlers = Handlers()
    open_wide = wire.settings({Setting.INITIAL_WINDOW_SIZE: wire.MAX_WINDOW}) + wire.window_update(0, 2**30)
    async with serving(tmp_path, handlers.server()) as socket, connected(socket, GREETING + open_wide) as greedy:
        sent, stream_id = 0, 1
        greedy.writer.transport.set_write_buffer_limits(0)
        while sent < 64 * 2**20:
            pieces = [data(stream_id, bytes(16_384), 0) for _ in range(63)]
            body = headers(stream_id) + data(stream_id, b"\0" + (63 * 16_384).to_bytes(4, "big"), 0) + b"".join(pieces)
            greedy.writer.write(body + data(stream_id, b""))
            stream_id += 2
            try:
                await asyncio.wait_for(greedy.writer.drain(), 0.5)
            except TimeoutError:
                break
            sent += len(body)
        async with connected(socket) as client:
            client.writer.write(request(1))
            assert (await client.until(stream_id=1)).answers[1].status == "0"
        greedy.writer.transport.abort()

    assert sent < 16 * 2**20


async def test_stream_of_messages_goes_no_faster_than_its_peer(tmp_path: Path) -> None:
    """RFC 9113, 5.2: a handler is not asked for more while what it gave waits for windows."""
    handlers = Handlers()
    async with serving(tmp_path, handlers.server()) as socket, connected(socket) as client:
        client.writer.write(request(1, b"200", _path=COUNT))
        await until(lambda: handlers.sent > 10)
        await asyncio.sleep(0.1)
        assert handlers.sent < 100
        wide = wire.window_update(0, 2**30) + wire.window_update(1, 2**30)
        client.writer.write(wide)
        answer = (await client.until(stream_id=1)).answers[1]

    assert handlers.sent == 200
    assert answer.status == "0"
    assert answer.body.endswith(b"199")


async def test_connections_beyond_the_limit_are_closed(tmp_path: Path) -> None:
    """Ours: bounded, and free again when one goes."""
    async with serving(tmp_path, Handlers().server(max_connections=1)) as socket:
        async with connected(socket) as first:
            first.writer.write(request(1))
            await first.until(stream_id=1)
            async with connected(socket) as second:
                with pytest.raises((ConnectionResetError, BrokenPipeError, AssertionError)):
                    assert (await second.until()).answers[1]
            first.writer.write(request(3))
            assert (await first.until(stream_id=3)).answers[3].status == "0"
            first.writer.close()
            await first.writer.wait_closed()

        async def served() -> bool:
            async with connected(socket) as third:
                third.writer.write(request(1))
                try:
                    return (await third.until(stream_id=1)).answers.get(1) is not None
                except (ConnectionResetError, BrokenPipeError):
                    return False

        async with asyncio.timeout(5):
            while not await served():
                await asyncio.sleep(0.01)


async def test_tasks_that_do_not_end_are_bounded(tmp_path: Path) -> None:
    """Ours, CVE-2023-44487: cancelled work that goes on counts, so that resets do not make room for more."""
    handlers = Handlers()
    limits = http2.Limits(max_streams=5)
    async with serving(tmp_path, handlers.server(limits)) as socket, connected(socket) as client:
        for stream_id in range(1, 41, 2):
            client.writer.write(request(stream_id, _path=STUBBORN))
            await asyncio.sleep(0.01)  # a task that is cancelled before it begins never begins
            client.writer.write(wire.reset(stream_id, ErrorCode.CANCEL))
        client.writer.write(request(101, _path=STUBBORN))
        said = await client.until(stream_id=101)
        handlers.go.set()

    assert said.answers[101].status == "8"


async def test_deadline_of_the_wire_is_kept_for_a_client_that_does_not_keep_it(tmp_path: Path) -> None:
    """gRPC over HTTP2, Timeout: the server ends the call by itself."""
    handlers = Handlers()
    async with serving(tmp_path, handlers.server()) as socket, connected(socket) as client:
        client.writer.write(request(1, _path=WAIT, grpc_timeout="50m"))
        answer = (await client.until(stream_id=1)).answers[1]
        await until(lambda: handlers.cancelled == 1)

    assert answer.status == "4"


async def test_stop_lets_an_idle_client_go_at_once(tmp_path: Path) -> None:
    """RFC 9113, 6.8: GOAWAY, its acknowledgement, the end: no grace is waited for that nobody needs."""
    server = Handlers().server()
    async with serving(tmp_path, server) as socket, grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        assert await channel.unary_unary(ECHO)(b"x", timeout=5) == b"x"
        async with asyncio.timeout(3):
            await server.stop(30)


async def test_stop_does_not_wait_for_a_peer_that_says_nothing(tmp_path: Path) -> None:
    """Ours: the grace bounds it."""
    server = Handlers().server()
    async with serving(tmp_path, server) as socket, connected(socket, b"") as client:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(3):
            await server.stop(0.1)
        said = await client.until()

    assert said.goaway is None or said.goaway[1] == ErrorCode.NO_ERROR


@pytest.mark.parametrize("greeting", [b"", GREETING[:10], GREETING[:30]])
async def test_peer_that_does_not_introduce_itself_is_disconnected(
    tmp_path: Path, greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: places are for those who speak; one that has is left alone, however long it is idle."""
    monkeypatch.setattr("secure_mcp_grpc.http2.connected._GREETING_S", 0.2)
    async with serving(tmp_path, Handlers().server()) as socket, connected(socket) as idle:
        async with connected(socket, greeting) as client:
            with contextlib.suppress(ConnectionResetError):
                await client.until()
        await asyncio.sleep(0.3)
        idle.writer.write(request(1))
        assert (await idle.until(stream_id=1)).answers[1].status == "0"


async def test_octets_may_come_one_by_one(tmp_path: Path) -> None:
    """Ours: sockets deliver any piece."""
    octets = GREETING + headers(1, block(), WHOLE) + data(1, prefixed(b"hello"), END)
    async with serving(tmp_path, Handlers().server()) as socket, connected(socket, b"") as client:
        for octet in octets:
            client.writer.write(bytes((octet,)))
            await asyncio.sleep(0)
        answer = (await client.until(stream_id=1)).answers[1]

    assert answer.body == prefixed(b"hello")


async def test_handler_that_answers_with_something_else_is_a_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: INTERNAL, in the log, and no answer."""

    async def nothing(_: bytes) -> bytes:
        return None  # type: ignore[return-value]

    server = http2.Server({ECHO: nothing, WAIT: _awaitable_of_text}, {})
    async with serving(tmp_path, server) as socket, connected(socket) as client:
        client.writer.write(request(1) + request(3, _path=WAIT))
        statuses = [(await client.until(stream_id=stream_id)).answers[stream_id].status for stream_id in (1, 3)]

    assert statuses == ["13", "13"]
    assert caplog.text.count("handler_failed") == 2


def _awaitable_of_text(_: bytes) -> Awaitable[bytes]:
    return asyncio.sleep(0, "text")  # type: ignore[arg-type]
