"""A slow reader, and whatever is too large, costs bounded memory from the server's pipe to the caller."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
import unruly_http
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool
from mcp.server.mcpserver import MCPServer

from mcp_bridge import multiplex
from mcp_bridge.exchange import Outbox
from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from secure_mcp_grpc import calls
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

LIMIT = 1024 * 1024
ON_THE_WAY = 24 * 1024 * 1024
"""Pipe, sockets and the windows of HTTP/2 hold some on top of what the bridge holds."""


@contextlib.asynccontextmanager
async def unruly(kind: str) -> AsyncIterator[Bridge]:
    async with contextlib.AsyncExitStack() as stack:
        if kind == "stdio":
            upstream: Any = stdio("unruly", "-S", str(HERE / "unruly_server.py"), max_message_bytes=LIMIT)
        else:
            server = await stack.enter_async_context(unruly_http.http_server(unruly_http.misbehave))
            upstream = HttpUpstream("unruly", server.url, max_message_bytes=LIMIT)
        yield await stack.enter_async_context(serving(upstream, request_timeout_s=30.0, max_answer_bytes=LIMIT))


def flood(channel: grpc.aio.Channel) -> Any:
    message = request("tools/call", {"name": "endless_notes", "arguments": {}, "_meta": {"progressToken": "mine"}})
    call = channel.unary_stream(f"{calls.TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)
    return call(message, timeout=30)


class Meter:
    """Counts what goes into outboxes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        add = Outbox._add

        def counted(outbox: Outbox, message: bytes) -> None:
            self.bytes += len(message)
            add(outbox, message)

        monkeypatch.setattr(Outbox, "_add", counted)

    async def until_still(self) -> int:
        """Until nothing came for a while: whoever writes waits."""
        before = -1
        async with asyncio.timeout(20):
            while self.bytes != before:
                before = self.bytes
                await asyncio.sleep(0.4)
        return before


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_flood_waits_for_its_reader_and_loses_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 4: back-pressure bounded end to end; the pipe is not read on, and another caller is not disturbed."""
    monkeypatch.setattr(multiplex, "_PATIENCE_S", 30.0)
    meter = Meter(monkeypatch)
    async with unruly(kind) as bridge, bridge.channel("model-a") as a, bridge.channel("model-b") as b:
        call = flood(a)
        await call.read()
        held = await meter.until_still()
        assert held < LIMIT + ON_THE_WAY
        answer = await send(b, "Call", tool("echo", {"n": 1}))
        assert answer["result"]["content"][0]["text"] == '{"n": 1}'
        numbers = [
            msgspec.json.decode((await call.read()).message_json)["params"]["progress"]
            for _ in range(held // 10_000 + 500)
        ]
        assert numbers == list(range(1, len(numbers) + 1))
        call.cancel()
        async with asyncio.timeout(10):
            while bridge.executor.in_flight:
                await asyncio.sleep(0.02)


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_reader_that_stays_away_is_refused_and_the_flood_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a shared pipe does not wait for ever for one reader, and a child that only floods is ended."""
    monkeypatch.setattr(multiplex, "_PATIENCE_S", 0.3)
    async with unruly("stdio") as bridge, bridge.channel() as channel:
        call = flood(channel)
        await call.read()
        async with asyncio.timeout(20):
            while not bridge.records:
                await asyncio.sleep(0.05)
            while bridge.upstream._count():
                await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await to_the_end(call)
        answer = await send(channel, "Call", tool("echo", {"n": 1}))

    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.value.details() == "the caller reads this request's messages too slowly"
    assert answer["result"]["content"][0]["text"] == '{"n": 1}'


async def test_what_is_too_large_is_refused_in_both_directions() -> None:
    """Issue 4: RESOURCE_EXHAUSTED beyond the limits, and the connection goes on."""
    server = MCPServer("large")

    @server.tool()
    def repeat(times: int) -> str:
        return "x" * times

    async with (
        serving(InProcessUpstream("large", server), max_answer_bytes=LIMIT) as bridge,
        bridge.channel() as channel,
    ):
        waiting = asyncio.create_task(send(channel, "Call", tool("repeat", {"times": 100_000})))
        refused = []
        for message in (tool("repeat", {"times": LIMIT}), tool("repeat", {"times": 1, "x": "y" * 2 * LIMIT})):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await send(channel, "Call", message)
            refused.append(failed.value.code())
        good = await send(channel, "Call", tool("repeat", {"times": 3}))
        await waiting

    assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert good["result"]["structuredContent"] == {"result": "xxx"}
