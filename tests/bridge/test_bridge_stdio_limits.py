"""What a child process may use, and how long it may take to start."""

import asyncio
import json
import shutil
from typing import Any

import grpc
import pytest
from bridge_harness import HERE, request, send, serving, stdio, tool

from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams.limits import ChildLimits
from secure_mcp_grpc.errors import UserError

MIB = 1024 * 1024


def limited(limits: ChildLimits, **options: Any) -> Any:
    return stdio("unruly", "-S", str(HERE / "unruly_server.py"), limits=limits.for_launch(), **options)


def text_of(answer: Any) -> Any:
    return answer["result"]["content"][0]["text"]


async def test_limits_hold_in_the_child() -> None:
    """Issue 4: resource limits; core dumps, which would hold what callers sent, are always off."""
    limits = ChildLimits(memory_mib=200, cpu_s=100, files=64)
    async with serving(limited(limits)) as bridge, bridge.channel() as channel:
        seen = json.loads(text_of(await send(channel, "Call", tool("limits"))))

    assert seen["RLIMIT_DATA"] == [200 * MIB] * 2
    assert seen["RLIMIT_CPU"] == [100, 100]
    assert seen["RLIMIT_NOFILE"] == [64, 64]
    assert seen["RLIMIT_CORE"] == [0, 0]


async def test_child_that_wants_too_much_memory_ends_alone() -> None:
    """Issue 4: the limit is the child's, and another child is not disturbed."""
    limits = ChildLimits(memory_mib=128)
    async with (
        serving(limited(limits)) as bridge,
        bridge.channel("model-a") as a,
        bridge.channel("model-b") as b,
    ):
        assert text_of(await send(a, "Call", tool("allocate", {"mib": 16}))) == str(16 * MIB)
        await send(b, "Call", tool("echo"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(a, "Call", tool("allocate", {"mib": 500}))
        assert text_of(await send(b, "Call", tool("echo", {"n": 1}))) == '{"n": 1}'
        assert text_of(await send(a, "Call", tool("echo", {"n": 2}))) == '{"n": 2}'

    assert failed.value.details() == "the MCP server unruly ended before it answered"


async def test_child_that_burns_its_cpu_time_is_ended() -> None:
    """Ours: a server in an endless loop does not loop for ever."""
    async with serving(limited(ChildLimits(cpu_s=1))) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", tool("burn"))

    assert failed.value.details() == "the MCP server unruly ended before it answered"


async def test_node_starts_within_a_memory_limit() -> None:
    """Ours: what counts is memory in use, not V8's reserved address space."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    code = (
        "process.stdin.once('data', () => console.log(JSON.stringify({jsonrpc: '2.0', id: 1,"
        " result: {content: [{type: 'text', text: 'node'}]}})))"
    )
    upstream = stdio("node", limits=ChildLimits(memory_mib=512).for_launch())
    upstream._command[:] = [node, "-e", code]
    async with serving(upstream) as bridge, bridge.channel() as channel:
        assert text_of(await send(channel, "Call", tool("x"))) == "node"


@pytest.mark.parametrize("limits", ['{"memory_mib": 1}', '{"files": "many"}', '{"memory": 100}'])
def test_limits_that_cannot_be_stop_the_start(limits: str) -> None:
    """Style: a bad value stops start-up and is named."""
    with pytest.raises(UserError, match=r"MCP_BRIDGE_UPSTREAMS.x.limits"):
        BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": '{"x": {"command": ["y"], "limits": ' + limits + "}}"})


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_child_that_does_not_start_is_ended_in_time(method: str) -> None:
    """Ours: `child_start_timeout_s` is kept, and the child that missed it does not stay."""
    mute = stdio("mute", "-S", "-c", "import sys; sys.stdin.read()", start_timeout_s=0.6)
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    async with serving(mute) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", request(method, params if method == "initialize" else {}))
        async with asyncio.timeout(5):
            while mute._count():
                await asyncio.sleep(0.01)

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "the MCP server mute did not start within 0.6 s"


async def test_child_that_has_spoken_may_take_its_time() -> None:
    """Ours: the start is timed, not the work."""
    upstream = stdio("unruly", "-S", str(HERE / "unruly_server.py"), start_timeout_s=1.0)
    async with serving(upstream) as bridge, bridge.channel() as channel:
        await send(channel, "Call", tool("echo"))
        held = asyncio.create_task(send(channel, "Call", tool("hold")))
        await asyncio.sleep(1.2)
        await send(channel, "Call", request("server/discover"))
        await send(channel, "Call", tool("release"))
        assert text_of(await held) == "released"
