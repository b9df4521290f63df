"""Child processes: apart from each other by identity, and harmless when they misbehave."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb


def unruly(*tools: str, **options: Any) -> Any:
    options.setdefault("max_message_bytes", 1024 * 1024)
    return stdio("unruly", "-S", str(HERE / "unruly_server.py"), *tools, **options)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with serving(unruly(), request_timeout_s=3.0) as one:
        yield one


def text_of(answer: Any) -> Any:
    return json.loads(answer["result"]["content"][0]["text"])


async def refusal(channel: grpc.aio.Channel, message: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await send(channel, "Call", message)
    return refused.value


async def test_crash_fails_its_call_and_the_next_finds_a_new_child(bridge: Bridge) -> None:
    """Issue 4: a clear error to that caller only; the server is started anew."""
    async with bridge.channel() as channel:
        first = text_of(await send(channel, "Call", tool("pid")))
        error = await refusal(channel, tool("crash"))
        second = text_of(await send(channel, "Call", tool("pid")))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "the MCP server unruly ended before it answered"
    assert first != second
    assert [record.outcome for record in bridge.records] == ["ok", "failed", "ok"]


async def test_server_that_keeps_crashing_is_restarted_with_backoff(bridge: Bridge) -> None:
    """Ours: a server that ends at once does not cost a process per request."""
    async with bridge.channel() as channel:
        errors = [await refusal(channel, tool("crash")) for _ in range(3)]

    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert "keeps ending" in str(errors[2].details())


async def test_server_that_cannot_start_is_unavailable() -> None:
    """Ours: nothing of the system's error reaches the peer."""
    upstream = unruly()
    async with serving(upstream) as bridge, bridge.channel() as channel:
        upstream._command[0] = "/nowhere/to/be/found"
        error = await refusal(channel, tool("echo"))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "the MCP server unruly cannot be started"


async def test_hanging_server_ends_in_deadline_exceeded() -> None:
    """Ours: no caller waits longer than request_timeout_s, and others are not disturbed."""
    async with serving(unruly(), request_timeout_s=0.5) as bridge, bridge.channel() as channel:
        hanging = asyncio.create_task(refusal(channel, tool("hang", id_json=b'"h"')))
        await asyncio.sleep(0.1)
        good = await send(channel, "Call", tool("echo", {"n": 1}))
        error = await hanging
        cancelled = text_of(await send(channel, "Call", tool("cancelled")))

    assert text_of(good) == {"n": 1}
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(cancelled) == 1


@pytest.mark.parametrize("name", ["huge", "huge_last"])
async def test_oversized_answer_fails_only_its_call(bridge: Bridge, name: str) -> None:
    """Issue 4: RESOURCE_EXHAUSTED beyond the limit, wherever the server writes the id."""
    async with bridge.channel() as channel:
        await send(channel, "Call", tool("echo"))
        hanging = asyncio.create_task(refusal(channel, tool("hang")))
        error = await refusal(channel, tool(name))
        good = await send(channel, "Call", tool("echo", {"n": 1}))
        assert not hanging.done()
        hanging.cancel()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1048576 bytes" in str(error.details())
    assert text_of(good) == {"n": 1}


async def test_garbage_fails_the_call_it_answers(bridge: Bridge) -> None:
    """Issue 4: invalid JSON gives a clear error to that caller only; a stray line gives none."""
    async with bridge.channel() as channel:
        error = await refusal(channel, tool("garbage"))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "the MCP server unruly answered with something that is not JSON-RPC"


@pytest.mark.parametrize("name", ["unasked", "flood"])
async def test_noise_disturbs_nobody(bridge: Bridge, name: str) -> None:
    """Issue 4: an id that was never asked, a flood on stderr."""
    async with bridge.channel() as channel:
        answer = await send(channel, "Call", tool(name))

    assert answer["result"]["content"][0]["text"] in ("asked", "after the flood")


async def test_identities_never_share_a_child(bridge: Bridge) -> None:
    """Ours: what one workload tells a server stays in its own process."""
    async with bridge.channel("model-a") as a, bridge.channel("model-b") as b:
        pids = [text_of(await send(channel, "Call", tool("pid"))) for channel in (a, b, a)]

    assert pids[0] == pids[2] != pids[1]


async def test_params_cannot_smuggle_a_second_message(bridge: Bridge) -> None:
    """Ours: a line break between JSON tokens must not become a message that nobody authorized."""
    hidden = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"pid"}}'
    plain = tool("echo", {"x": 0})
    for line_break in (b"\n", b"\r", b"\r\n"):
        params = plain.params_json.replace(b'"x":0', b'"x":' + line_break + hidden + line_break)
        message = pb.Request()
        message.CopyFrom(plain)
        message.params_json = params
        async with bridge.channel() as channel:
            answer = await send(channel, "Call", message)
            seen = text_of(await send(channel, "Call", tool("calls")))
        assert text_of(answer)["x"]["method"] == "tools/call"
        assert ["tools/call", "pid"] not in seen


async def test_params_reach_the_server_as_they_were_written(bridge: Bridge) -> None:
    """Issue 4: big integers, key order, escapes and unknown fields survive; ids and tokens come back as they were."""
    params = (
        b'{"name":"raw","arguments":{"z":123456789012345678901234567890,"a":1.10,"\\u00e9":"\xc3\xa9"},"_meta":'
        b'{"progressToken":"mine","io.modelcontextprotocol/protocolVersion":"2026-07-28"},"unknown":null}'
    )
    message = tool("raw", id_json=b'"an id"')
    message.params_json = params
    async with bridge.channel() as channel:
        answer = await send(channel, "Call", message)

    line = answer["result"]["content"][0]["text"]
    assert answer["id"] == "an id"
    before_meta, _, after_meta = params.replace(b'"mine"', b"1").decode().rpartition("},")
    assert before_meta in line, "the chain's trace may be added to _meta, nothing else"
    assert line.endswith("," + after_meta + "}\n")


async def test_request_without_version_or_session_is_answered_not_sent(bridge: Bridge) -> None:
    """Ours: the first request decides a child's era, so one of no era must not reach a shared child."""
    message = pb.Request(method="tools/list", id_json=b"5", params_json=b"{}")
    async with bridge.channel() as channel:
        answer = await send(channel, "Call", message)

    assert answer["id"] == 5
    assert answer["error"]["code"] == -32600


async def test_idle_children_are_reaped_and_close_leaves_none(bridge: Bridge) -> None:
    """Ours: a child lives as long as it is used; none survives the bridge."""
    async with bridge.channel("model-a") as a, bridge.channel("model-b") as b:
        first = text_of(await send(a, "Call", tool("pid")))
        await asyncio.sleep(0.2)
        second = text_of(await send(b, "Call", tool("pid")))
        await bridge.executor.reap(0.15)
        assert not alive(first)
        assert alive(second)
        stubborn = asyncio.create_task(send(b, "Call", tool("ignore_eof")))
        await asyncio.sleep(0.1)
        await bridge.upstream.close()
        assert not alive(second)
        with pytest.raises(grpc.aio.AioRpcError):
            await stubborn


async def test_children_are_limited() -> None:
    """Ours: many identities cost a bounded number of processes; an idle one makes room."""
    async with (
        serving(unruly(max_children=1)) as bridge,
        bridge.channel("model-a") as a,
        bridge.channel("model-b") as b,
    ):
        first = text_of(await send(a, "Call", tool("pid")))
        second = text_of(await send(b, "Call", tool("pid")))
        assert not alive(first)
        assert alive(second)
        hanging = asyncio.create_task(send(b, "Call", tool("hang")))
        await asyncio.sleep(0.1)
        error = await refusal(a, request("tools/list"))
        hanging.cancel()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_owner_of_most_children_makes_room_for_others() -> None:
    """Ours: sessions that one identity opens do not shut the others out; alone it may have all."""
    first = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    async with (
        serving(unruly(max_children=4)) as bridge,
        bridge.channel("model-a") as a,
        bridge.channel("model-b") as b,
    ):
        for _ in range(4):
            await send(a, "Call", request("initialize", first))
        error = await refusal(a, request("initialize", first))
        answers = [await send(b, "Call", request("initialize", first)) for _ in range(2)]
        last = await refusal(b, request("initialize", first))

    assert error.code() is last.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert all("result" in answer for answer in answers)


async def test_children_started_at_the_same_time_are_limited_too() -> None:
    """Ours: a child counts from the moment it is being started."""
    async with serving(unruly(max_children=2)) as bridge, AsyncExitStack() as open_:
        channels = [await open_.enter_async_context(bridge.channel(f"model-{number}")) for number in range(6)]
        outcomes = await asyncio.gather(
            *(send(channel, "Call", tool("hang")) for channel in channels),
            _until_refused(bridge, 4),
            return_exceptions=True,
        )

    assert sum(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes[:6]) == 6
    assert outcomes[6] == 2


async def _until_refused(bridge: Bridge, count: int) -> int:
    """How many children run when so many calls were refused; then all end."""
    async with asyncio.timeout(10):
        while len(bridge.records) < count:
            await asyncio.sleep(0.01)
    running = len(bridge.upstream._places) and bridge.upstream._count()
    await bridge.upstream.close()
    return int(running)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
