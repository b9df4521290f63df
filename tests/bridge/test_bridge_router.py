"""Several MCP servers behind one bridge, two of them not ours."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import full_server
import grpc
import mcp
import pytest
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool
from mcp.server.mcpserver import MCPServer
from mcp_types import CreateMessageResult, TextContent

from mcp_bridge.upstreams.inprocess import InProcessUpstream
from mcp_bridge.upstreams.router import Router

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
LIMIT = 4 * 1024 * 1024


def unruly(name: str, *tools: str) -> Any:
    return stdio(name, "-S", str(HERE / "unruly_server.py"), *tools)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """mcp-server-time and mcp-server-git from PyPI, and the tests' own server in this process."""
    subprocess.run(["git", "init", "-q", "-b", "main", tmp_path], check=True)
    upstreams = [
        stdio("time", "-m", "mcp_server_time"),
        stdio("git", "-m", "mcp_server_git", "--repository", str(tmp_path)),
        InProcessUpstream("full", full_server.server),
    ]
    async with serving(Router(upstreams, max_bytes=LIMIT)) as one:
        yield one


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_of_all_servers_are_listed_and_reached(bridge: Bridge, tmp_path: Path, mode: Any) -> None:
    """Ours: one list, and each call at the server that offers the tool."""

    async def answer(_context: Any, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="Because"), model="test")

    async with mcp.Client(bridge.transport(), mode=mode, sampling_callback=answer) as client:
        names = [one.name for one in (await client.list_tools()).tools]
        time = await client.call_tool("get_current_time", {"timezone": "UTC"})
        status = await client.call_tool("git_status", {"repo_path": str(tmp_path)})
        total = await client.call_tool("add", {"a": 1, "b": 2})
        note = await client.read_resource("note://today")
        day = await client.read_resource("note://day/friday")
        prompt = await client.get_prompt("greet", {"name": "Ada"})
        if mode == "legacy":
            asked = await client.call_tool("ask", {"question": "why"})
            assert asked.structured_content == {"result": "Because"}
        with pytest.raises(mcp.MCPError, match="no MCP server here offers nothing"):
            await client.call_tool("nothing", {})

    assert {"get_current_time", "git_status", "add"} <= set(names)
    assert names.index("get_current_time") < names.index("git_status") < names.index("add")
    assert not time.is_error
    assert not status.is_error
    assert "UTC" in time.content[0].text
    assert "On branch main" in status.content[0].text
    assert total.structured_content == {"result": 3}
    assert note.contents[0].text == "sunny"
    assert day.contents[0].text == "rain on friday"
    assert prompt.messages[0].content.text == "Say hello to Ada"
    servers = {record.tool: record.server for record in bridge.records if record.outcome == "ok"}
    assert servers["get_current_time"] == "time"
    assert servers["git_status"] == "git"
    assert servers["add"] == "full"


async def test_name_offered_twice_is_refused_and_said() -> None:
    """Ours: which of two tools of one name runs must not be chance."""
    router = Router([unruly("one", "echo", "pid"), unruly("two", "echo")], max_bytes=LIMIT)
    async with serving(router) as bridge, bridge.channel() as channel:
        listed = await send(channel, "Call", request("tools/list"))
        called = await send(channel, "Call", tool("echo"))
        other = await send(channel, "Call", tool("pid"))

    sentence = "'echo' is offered by both one and two; rename it in one of them"
    assert listed["error"]["message"] == called["error"]["message"] == sentence
    assert "result" in other


async def test_server_that_is_down_is_named_not_left_out() -> None:
    """Ours: a list that lacks a server's tools would look like a list without them."""
    down = unruly("down", "x")
    router = Router([unruly("up", "echo"), down], max_bytes=LIMIT)
    async with serving(router) as bridge, bridge.channel() as channel:
        down._command[:] = ["/nowhere/to/be/found"]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", request("tools/list"))

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "the MCP server down cannot be started"


async def test_one_server_passes_through_untouched() -> None:
    """Ours: with one upstream nothing is merged, so nothing can be lost."""
    from prometheus_client import CollectorRegistry

    from mcp_bridge.assemble import build_upstream
    from mcp_bridge.metrics import BridgeMetrics
    from mcp_bridge.settings import BridgeSettings

    settings = BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": '{"time": {"command": ["x"]}}'})
    upstream = build_upstream(settings, BridgeMetrics(CollectorRegistry()))
    assert upstream.name == "time"
    assert not isinstance(upstream, Router)


async def test_pages_are_drained() -> None:
    """Ours: a merged list comes in one page, so every server's pages are fetched."""
    from mcp.server.lowlevel.server import Server
    from mcp_types import ListToolsResult, Tool

    async def list_tools(_context: Any, params: Any) -> ListToolsResult:
        number = int(params.cursor or 0) if params else 0
        tools = [Tool(name=f"t{number}", input_schema={"type": "object"})]
        return ListToolsResult(tools=tools, next_cursor=str(number + 1) if number < 4 else None)

    paged: Any = Server("paged", on_list_tools=list_tools)
    other = MCPServer("other")
    router = Router([InProcessUpstream("paged", paged), InProcessUpstream("other", other)], max_bytes=LIMIT)
    async with serving(router) as bridge, mcp.Client(bridge.transport()) as client:
        assert [one.name for one in (await client.list_tools()).tools] == ["t0", "t1", "t2", "t3", "t4"]
