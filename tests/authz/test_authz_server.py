"""The contract of a server around the check, the same for each kind: our own and the reference."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from authz_requests import POLICY, answered, check_request
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz_service.checker import Checker
from authz_service.server import METHOD, Handler, PartHealth, RpcServer, ServerKind, new_server
from secure_mcp_grpc.http2 import RpcError, Status

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ECHO, LATER = "/test.Service/Echo", "/test.Service/Later"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(params=get_args(ServerKind))
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def serving(
    kind: ServerKind, directory: Path, routes: dict[str, Handler]
) -> AsyncIterator[tuple[RpcServer, PartHealth, grpc.aio.Channel]]:
    socket, health = directory / "authz.sock", PartHealth()
    socket.touch()  # as a service that was killed leaves it
    server = new_server(kind, routes, health, socket)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS) as channel:
            yield server, health, channel
    finally:
        await server.stop(0)


class Waiting:
    """A handler whose answers are given by the test, in any order."""

    def __init__(self) -> None:
        self.answers: dict[bytes, asyncio.Future[bytes]] = {}
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()

    def __call__(self, message: bytes) -> Awaitable[bytes]:
        self.answers[message] = asyncio.get_running_loop().create_future()
        self.arrived.set()
        return self._wait(message)

    async def _wait(self, message: bytes) -> bytes:
        try:
            return await self.answers[message]
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_decisions_are_answered(
    kind: ServerKind, short_dir: Path, make_checker: Callable[[bytes], Checker]
) -> None:
    """Issue 3: bytes to bytes, allowed and denied, with nothing added or lost."""
    checker = make_checker(POLICY)
    async with serving(kind, short_dir, {METHOD: checker.check}) as (_, _, channel):
        check = channel.unary_unary(METHOD)
        allowed = answered(await check(check_request().SerializeToString(), timeout=5))
        denied = answered(await check(check_request("model-b").SerializeToString(), timeout=5))
        garbled = answered(await check(b"\xff", timeout=5))

    assert (allowed.code, denied.code, garbled.code) == (0, 7, 3)
    assert allowed.metadata["decision"] == "allow"
    assert denied.metadata["reason"] == "not_permitted"


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_000_000, 4 * 1024 * 1024])
async def test_messages_of_any_size_pass_whole(kind: ServerKind, short_dir: Path, size: int) -> None:
    """Issue 3: both directions, up to 4 MiB, across every frame and window."""
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with serving(kind, short_dir, {ECHO: lambda body: body}) as (_, _, channel):
        assert await channel.unary_unary(ECHO)(message, timeout=20) == message


async def test_message_that_is_too_long_is_refused(kind: ServerKind, short_dir: Path) -> None:
    """gRPC status codes: RESOURCE_EXHAUSTED; and the connection goes on."""
    async with serving(kind, short_dir, {ECHO: lambda body: body}) as (_, _, channel):
        echo = channel.unary_unary(ECHO)
        code, _ = await failure(echo(bytes(4 * 1024 * 1024 + 1), timeout=20))
        assert await echo(b"hello", timeout=5) == b"hello"

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_two_hundred_calls_at_once(kind: ServerKind, short_dir: Path) -> None:
    """Issue 3: each gets its own answer."""

    async def later(body: bytes) -> bytes:
        await asyncio.sleep(int(body) % 7 / 1000)
        return body

    routes: dict[str, Handler] = {ECHO: lambda body: body, LATER: later}
    async with serving(kind, short_dir, routes) as (_, _, channel):
        calls = [channel.unary_unary((ECHO, LATER)[number % 2])(b"%d" % number, timeout=20) for number in range(200)]
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(200)]


async def test_answers_come_in_the_order_in_which_they_are_ready(kind: ServerKind, short_dir: Path) -> None:
    """Ours: a decision that waits for somebody holds nobody else up."""
    waiting = Waiting()
    async with serving(kind, short_dir, {LATER: waiting, ECHO: lambda body: body}) as (_, _, channel):
        slow, fast = (channel.unary_unary(LATER)(body, timeout=10) for body in (b"slow", b"fast"))
        while len(waiting.answers) < 2:
            await waiting.arrived.wait()
            await asyncio.sleep(0)
        assert await channel.unary_unary(ECHO)(b"third", timeout=5) == b"third"
        waiting.answers[b"fast"].set_result(b"first")
        assert await fast == b"first"
        assert not slow.done()
        waiting.answers[b"slow"].set_result(b"second")
        assert await slow == b"second"


async def test_call_that_its_client_cancels_is_cancelled(kind: ServerKind, short_dir: Path) -> None:
    """Ours: nothing waits for the keys of a request that has gone away."""
    waiting = Waiting()
    async with serving(kind, short_dir, {LATER: waiting}) as (_, _, channel):
        call = channel.unary_unary(LATER)(b"x", timeout=10)
        await waiting.arrived.wait()
        call.cancel()
        await asyncio.wait_for(waiting.cancelled.wait(), 5)


async def test_deadline_ends_a_call_on_both_sides(kind: ServerKind, short_dir: Path) -> None:
    """gRPC over HTTP2, Timeout."""
    waiting = Waiting()
    async with serving(kind, short_dir, {LATER: waiting}) as (_, _, channel):
        code, _ = await failure(channel.unary_unary(LATER)(b"x", timeout=0.1))
        await asyncio.wait_for(waiting.cancelled.wait(), 5)

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_unknown_method_is_unimplemented(kind: ServerKind, short_dir: Path) -> None:
    """gRPC status codes."""
    async with serving(kind, short_dir, {ECHO: lambda body: body}) as (_, _, channel):
        code, _ = await failure(channel.unary_unary("/test.Service/Other")(b"x", timeout=5))

    assert code is grpc.StatusCode.UNIMPLEMENTED


async def _raise_later(_: bytes) -> bytes:
    raise RpcError(Status.NOT_FOUND, "not here: 100 % sure")


def _raise(_: bytes) -> bytes:
    raise RpcError(Status.NOT_FOUND, "not here: 100 % sure")


@pytest.mark.parametrize("handler", [_raise, _raise_later])
async def test_handler_gives_any_status(kind: ServerKind, short_dir: Path, handler: Handler) -> None:
    """Ours: `RpcError` is an answer."""
    async with serving(kind, short_dir, {ECHO: handler}) as (_, _, channel):
        assert await failure(channel.unary_unary(ECHO)(b"", timeout=5)) == (
            grpc.StatusCode.NOT_FOUND,
            "not here: 100 % sure",
        )


async def _break_later(_: bytes) -> bytes:
    raise ValueError("secret")


def _break(_: bytes) -> bytes:
    raise ValueError("secret")


@pytest.mark.parametrize("handler", [_break, _break_later])
async def test_broken_handler_is_an_error_of_that_call_alone(
    kind: ServerKind, short_dir: Path, handler: Handler
) -> None:
    """Ours: no answer that could count as one; Envoy refuses the request (failure_mode_allow: false)."""
    async with serving(kind, short_dir, {LATER: handler, ECHO: lambda body: body}) as (_, _, channel):
        code, details = await failure(channel.unary_unary(LATER)(b"", timeout=5))
        assert await channel.unary_unary(ECHO)(b"x", timeout=5) == b"x"

    assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    if kind == "http2":
        assert "secret" not in details


async def test_health_tells_of_the_service_and_its_parts(kind: ServerKind, short_dir: Path) -> None:
    """grpc.health.v1: NOT_SERVING until it serves; NOT_FOUND for what nobody knows."""
    async with serving(kind, short_dir, {}) as (_, health, channel):
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str = "") -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status)

        assert await status() == NOT_SERVING
        assert (await failure(status("policy")))[0] is grpc.StatusCode.NOT_FOUND
        await health.serving()
        await health.component("policy", well=False)
        assert (await status(), await status("policy")) == (SERVING, NOT_SERVING)
        await health.stopping()
        await health.serving()
        assert await status() == NOT_SERVING


async def test_health_is_watched(kind: ServerKind, short_dir: Path) -> None:
    """grpc.health.v1 Watch: the status at once, and each change; SERVICE_UNKNOWN until there is such a service."""
    async with serving(kind, short_dir, {}) as (_, health, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        whole, part = (stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10) for name in ("", "policy"))
        seen = [(await whole.read()).status, (await part.read()).status]
        await health.serving()
        seen.append((await whole.read()).status)
        await health.component("policy", well=True)
        seen.append((await part.read()).status)
        await health.stopping()
        seen += [(await whole.read()).status, (await part.read()).status]

    unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert seen == [NOT_SERVING, unknown, SERVING, SERVING, NOT_SERVING, NOT_SERVING]


async def test_stop_drains_what_is_under_way(kind: ServerKind, short_dir: Path) -> None:
    """Ours: a decision that is being made is still given; new ones are not begun."""
    waiting = Waiting()
    async with serving(kind, short_dir, {LATER: waiting}) as (server, _, channel):
        call = channel.unary_unary(LATER)(b"x", timeout=10)
        await waiting.arrived.wait()
        stopping = asyncio.create_task(server.stop(5))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        code, _ = await failure(channel.unary_unary(LATER)(b"y", timeout=5))
        waiting.answers[b"x"].set_result(b"done")
        assert await call == b"done"
        await asyncio.wait_for(stopping, 4)

    assert code is grpc.StatusCode.UNAVAILABLE
    assert list(waiting.answers) == [b"x"]


async def test_stop_cancels_what_takes_longer_than_its_grace(kind: ServerKind, short_dir: Path) -> None:
    """Ours: bounded, whatever a step waits for; stopping again does no harm."""
    waiting = Waiting()
    async with serving(kind, short_dir, {LATER: waiting}) as (server, _, channel):
        call = channel.unary_unary(LATER)(b"x", timeout=10)
        await waiting.arrived.wait()
        async with asyncio.timeout(3):
            await server.stop(0.1)
            await server.stop(0)
        await asyncio.wait_for(waiting.cancelled.wait(), 1)
        code, _ = await failure(call)

    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
