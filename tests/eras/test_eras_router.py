"""Servers of both eras behind one sidecar, and many calls at once."""

import asyncio
import gc
from typing import Any

import mcp
import pytest
from bridge_harness import Bridge, serving, stdio
from era_bridge import SERVER, Answers, bridge_to, state

from mcp_bridge.eras.bridged import Bridged
from mcp_bridge.upstreams.router import Router

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_router_over_both_eras_serves_either(mode: Any) -> None:
    """Issue 4: with several upstreams each is translated by itself; questions find their way back."""
    upstreams = [Bridged(stdio(era, SERVER, era)) for era in ("modern", "handshake")]
    router = Router(upstreams, max_bytes=4 * 1024 * 1024, prefixes={"modern": "m_", "handshake": "h_"})
    answers = Answers()
    async with serving(router) as bridge, answers.client(bridge, mode) as client, asyncio.timeout(60):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"m_add", "h_add", "m_later", "h_both"} <= names
        for prefix in ("m_", "h_"):
            assert (await client.call_tool(f"{prefix}add", {"a": 1, "b": 2})).structured_content == {"total": 3}
            assert (await client.call_tool(f"{prefix}ask", {"question": "x"})).content[0].text == "re x"
            assert (await client.call_tool(f"{prefix}form", {})).content[0].text == "to first? to second?"
    assert answers.asked == ["x", "first?", "second?"] * 2


@pytest.mark.parametrize(("era", "mode"), [("handshake", "auto"), ("modern", "legacy")])
async def test_many_calls_half_of_them_cancelled_leave_nothing(era: str, mode: Any) -> None:
    """Issue 4: 200 concurrent calls with progress, half cancelled: no leak of tasks, children or state."""

    async def note(*_: Any) -> None: ...

    async with bridge_to(era) as bridge, Answers().client(bridge, mode) as client, asyncio.timeout(90):
        await client.call_tool("echo", {"value": "warm"})
        before = await tasks_at_rest()
        counting = [
            asyncio.create_task(client.call_tool("count", {"to": 2}, progress_callback=note)) for _ in range(100)
        ]
        waiting = [asyncio.create_task(client.call_tool("wait", {"label": f"w{number}"})) for number in range(100)]
        await asyncio.gather(*counting)
        await asyncio.sleep(0.2)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        while len((await state(client))["cancelled"]) < 100:
            await asyncio.sleep(0.05)
        while await tasks_at_rest() > before:
            await asyncio.sleep(0.05)
        assert holds_nothing(bridge)


def holds_nothing(bridge: Bridge) -> bool:
    upstream = bridge.upstream
    links = [slot.link for slot in upstream._links._slots.values() if slot.link is not None]
    callers = upstream._handshake_callers._callers.values()
    return (
        not any(link.calls or link.listeners or link._tasks for link in links)
        and not any(caller._running or caller._questions._open for caller in callers)
        and upstream.parked == 0
    )


async def tasks_at_rest() -> int:
    await asyncio.sleep(0.05)
    gc.collect()
    return len(asyncio.all_tasks())


async def test_clients_of_both_eras_share_a_server_of_one() -> None:
    """Issue 4: any era to any era, at the same time."""
    async with (
        bridge_to("handshake") as bridge,
        asyncio.timeout(60),
        mcp.Client(bridge.transport("model-a")) as modern,
        mcp.Client(bridge.transport("model-b"), mode="legacy") as handshake,
    ):
        results = await asyncio.gather(
            *(client.call_tool("add", {"a": n, "b": n}) for n in range(20) for client in (modern, handshake))
        )
    assert [one.structured_content["total"] for one in results[::2]] == [2 * n for n in range(20)]
    assert [one.structured_content["total"] for one in results[1::2]] == [2 * n for n in range(20)]


async def test_program_that_cannot_be_started_is_tried_once_for_a_list(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: not for the handshake again, a moment after server/discover."""
    down = stdio("down", "x")
    router = Router([Bridged(stdio("up", SERVER, "modern")), Bridged(down)], max_bytes=1 << 22, leave_out=True)
    async with serving(router) as bridge:
        down._command[:] = ["/nowhere/to/be/found"]
        async with mcp.Client(bridge.transport(), mode="auto") as client:
            caplog.clear()
            await client.list_tools()
    tried = ("upstream_not_started", "upstream_ended")
    assert sum(one.msg in tried and one.fields["server"] == "down" for one in caplog.records) == 1
