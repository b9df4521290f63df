"""The bridge's server from outside: grpcio as the client, over its Unix socket, with handlers of this file."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from mcp_bridge.errors import HopError
from mcp_bridge.serving import Context, Routes, new_server
from secure_mcp_grpc import headers

CALL, WAIT, FAIL, COUNT, TALK = (f"/test.Bridge/{name}" for name in ("Call", "Wait", "Fail", "Count", "Talk"))
MIB = 1024 * 1024
MAX_REQUEST, MAX_ANSWER = MIB, 16 * MIB


class Service:
    """Handlers that say what they saw."""

    def __init__(self) -> None:
        self.metadata: Any = ()
        self.ended: list[str] = []
        self.given = 0
        self.read = 0
        self.go = asyncio.Event()

    def routes(self) -> Routes:
        return Routes(
            calls={CALL: self.call, WAIT: self.wait, FAIL: self.fail},
            streams={COUNT: self.count},
            sessions={TALK: self.talk},
        )

    async def call(self, message: bytes, context: Context) -> bytes:
        """The message, or zeros as many as it says after `zeros `."""
        self.metadata = context.metadata
        context.name_server("one")
        return bytes(int(message[6:])) if message.startswith(b"zeros ") else message

    async def wait(self, message: bytes, context: Context) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("wait")
        return message

    async def fail(self, message: bytes, context: Context) -> bytes:
        details = status_pb2.Status(code=9, message="why").SerializeToString()
        raise HopError(grpc.StatusCode.FAILED_PRECONDITION, "not so; 100 % — é", details)

    async def count(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        """Messages of as many MiB as the request says, for ever."""
        try:
            context.name_server("two")
            while True:
                self.given += 1
                yield bytes(int(message) * MIB) or b"x"
                await asyncio.sleep(0)
        finally:
            self.ended.append("count")

    async def talk(self, frames: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Each frame back; after `hold`, nothing more is read until `go`."""
        try:
            async for frame in frames:
                self.read += 1
                if frame == b"hold":
                    await self.go.wait()
                if frame == b"enough":
                    return
                yield frame
        finally:
            self.ended.append("talk")


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Service, grpc.aio.Channel]]:
    service = Service()
    server = new_server([service.routes()], max_request_bytes=MAX_REQUEST, max_answer_bytes=MAX_ANSWER)
    await server.start(directory / "s.sock")
    try:
        async with channel(directory) as one:
            yield service, one
    finally:
        await server.stop(0.1)


def channel(directory: Path, **arguments: int) -> grpc.aio.Channel:
    options = {"grpc.max_receive_message_length": 64 * MIB, "grpc.max_send_message_length": 64 * MIB} | arguments
    return grpc.aio.insecure_channel(f"unix:{directory}/s.sock", options=list(options.items()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_call_sees_headers_and_names_its_server(tmp_path: Path) -> None:
    """Ours: metadata in both directions, octets too."""
    async with served(tmp_path) as (service, client):
        call = client.unary_unary(CALL)(b"hello", metadata=(("x-mcp-subject", "a b"), ("x-odd-bin", b"\0\xff")))
        answer, told = await call, await call.initial_metadata()

    assert answer == b"hello"
    assert (headers.SERVER, "one") in tuple(told)
    assert ("x-mcp-subject", "a b") in service.metadata
    assert ("x-odd-bin", b"\0\xff") in service.metadata


async def test_refusal_carries_its_sentence_and_details(tmp_path: Path) -> None:
    """Ours: a HopError is the status that the peer sees, `google.rpc.Status` included."""
    async with served(tmp_path) as (_, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(FAIL)(b"")

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not so; 100 % — é"
    details = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(details).message == "why"


@pytest.mark.parametrize("size", [0, 70_000, 8 * MIB, 16 * MIB])
async def test_answers_of_every_size_pass(tmp_path: Path, size: int) -> None:
    """Issue 4: answers up to 16 MiB."""
    async with served(tmp_path) as (_, client):
        assert await client.unary_unary(CALL)(b"zeros %d" % size, timeout=20) == bytes(size)


async def test_request_beyond_the_limit_is_refused_by_a_sentence(tmp_path: Path) -> None:
    """Issue 4: requests up to 1 MiB, RESOURCE_EXHAUSTED beyond, unary or in a stream."""
    async with served(tmp_path) as (service, client):
        assert len(await client.unary_unary(CALL)(bytes(MIB))) == MIB
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await client.unary_unary(CALL)(bytes(2 * MIB))
        call = client.stream_stream(TALK)()
        await call.write(bytes(MIB))
        assert len(await call.read()) == MIB
        with contextlib.suppress(asyncio.InvalidStateError):  # grpcio may notice the end first
            await call.write(bytes(2 * MIB))
        code, sentence = await call.code(), await call.details()
        await until(lambda: service.ended == ["talk"])

    assert unary.value.code() is code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unary.value.details() == sentence == f"messages are limited to {MIB + 64 * 1024} bytes"


async def test_many_messages_go_both_ways(tmp_path: Path) -> None:
    """Issue 4: the session; order is kept, and its end is the peer's."""
    sent = [b"%d" % number * (number % 50) for number in range(5000)]

    async def messages() -> AsyncIterator[bytes]:
        for message in sent:
            yield message

    async with served(tmp_path) as (service, client):
        call = client.stream_stream(TALK)(messages())
        received = [message async for message in call]
        assert await call.code() is grpc.StatusCode.OK

    assert received == sent
    assert service.ended == ["talk"]


async def test_headers_of_a_session_go_out_at_once(tmp_path: Path) -> None:
    """Ours: Envoy's time limit for a response ends when it begins, not with the first message."""
    async with served(tmp_path) as (_, client):
        call = client.stream_stream(TALK)()
        async with asyncio.timeout(5):
            await call.initial_metadata()
        call.cancel()


async def test_handler_that_ends_a_session_ends_it_for_a_peer_that_would_go_on(tmp_path: Path) -> None:
    """RFC 9113, 8.1: the answer may be complete before the request."""
    async with served(tmp_path) as (_, client):
        call = client.stream_stream(TALK)()
        await call.write(b"one")
        assert await call.read() == b"one"
        await call.write(b"enough")

        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_peer_sends_no_more_than_the_handler_reads(tmp_path: Path) -> None:
    """Issue 4, back-pressure: bounded while nothing is read, and complete afterwards."""
    chunk = bytes(100_000)
    async with served(tmp_path) as (service, client):
        call = client.stream_stream(TALK)()
        await call.write(b"hold")
        written = 0
        with contextlib.suppress(TimeoutError):
            while written < 500:
                await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(call.write(chunk))), 0.3)
                written += 1
        assert written * len(chunk) < 4 * MIB
        assert await client.unary_unary(CALL)(b"others go on", timeout=5) == b"others go on"
        service.go.set()
        await call.read()
        for _ in range(written):
            assert len(await call.read()) == len(chunk)
        call.cancel()


@pytest.mark.parametrize("path", [WAIT, COUNT, TALK])
async def test_cancel_reaches_the_handler_within_100_ms(tmp_path: Path, path: str) -> None:
    """Issue 4: the peer's reset cancels the handler, wherever it is."""
    async with served(tmp_path) as (service, client):
        call: Any
        if path == WAIT:
            call = client.unary_unary(WAIT)(b"")
            await asyncio.sleep(0.1)
        elif path == COUNT:
            call = client.unary_stream(COUNT)(b"1")
            await call.read()
        else:
            call = client.stream_stream(TALK)()
            await call.write(b"x")
            await call.read()
        started = time.perf_counter()
        call.cancel()
        await until(lambda: bool(service.ended))

    assert time.perf_counter() - started < 0.1


async def test_deadline_ends_the_handler(tmp_path: Path) -> None:
    """gRPC over HTTP2, Timeout."""
    async with served(tmp_path) as (service, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(WAIT)(b"", timeout=0.1)
        await until(lambda: service.ended == ["wait"])

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_slow_reader_costs_bounded_memory_and_delays_nobody_on_its_connection(tmp_path: Path) -> None:
    """Issue 4, back-pressure: one stream of 8 MiB answers that nobody reads, fast calls beside it."""
    async with served(tmp_path) as (service, client):
        slow = client.unary_stream(COUNT)(b"8")
        assert len(await slow.read()) == 8 * MIB
        await asyncio.sleep(0.3)
        before = service.given
        times = []
        for _ in range(50):
            started = time.perf_counter()
            await client.unary_unary(CALL)(b"quick", timeout=5)
            times.append(time.perf_counter() - started)
        assert service.given == before < 12, "grpcio takes some in advance, and then no more"
        assert sorted(times)[25] < 0.05
        assert len(await slow.read()) == 8 * MIB
        slow.cancel()
        await until(lambda: service.ended == ["count"])


async def test_stop_ends_a_session_that_would_not_end(tmp_path: Path) -> None:
    """Ours: calls under way have the grace, then the handler is cancelled."""
    service = Service()
    server = new_server([service.routes()], max_request_bytes=MAX_REQUEST, max_answer_bytes=MAX_ANSWER)
    await server.start(tmp_path / "s.sock")
    async with channel(tmp_path) as client:
        call = client.stream_stream(TALK)()
        await call.write(b"x")
        await call.read()
        async with asyncio.timeout(3):
            await server.stop(0.1)
        assert await call.code() is not grpc.StatusCode.OK

    assert service.ended == ["talk"]
