"""Several MCP servers behind one bridge, two of them not ours."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import full_server
import grpc
import mcp
import msgspec
import pytest
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool
from mcp.server.mcpserver import MCPServer
from mcp_types import CreateMessageResult, TextContent

from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams import listens
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from mcp_bridge.upstreams.router import Router
from secure_mcp_grpc import calls
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

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
        with pytest.raises(mcp.MCPError) as missing:
            await client.read_resource("nothing://here")
        # MCP 2026-07-28, "Resources", "Error Handling": INVALID_PARAMS, which had a code of its own before.
        assert missing.value.error.code == (-32602 if mode == "auto" else -32002)

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


PREFIXES = {"one": "one_", "two": "two_"}


async def test_prefixed_names_are_listed_and_reach_their_servers_under_their_own() -> None:
    """Issue 4: tools prefixed; servers that offer the same name no longer collide."""
    router = Router([unruly("one", "echo"), unruly("two", "echo")], max_bytes=LIMIT, prefixes=PREFIXES)
    async with serving(router) as bridge, bridge.channel() as channel:
        listed = await send(channel, "Call", request("tools/list"))
        await send(channel, "Call", tool("two_echo", {"n": 1}))
        seen = await send(channel, "Call", tool("two_calls"))
        other = await send(channel, "Call", tool("one_calls"))
        unknown = await send(channel, "Call", tool("echo"))

    assert [one["name"] for one in listed["result"]["tools"]] == ["one_echo", "two_echo"]
    assert '["tools/call", "echo"]' in seen["result"]["content"][0]["text"]
    assert '["tools/call", "echo"]' not in other["result"]["content"][0]["text"]
    assert unknown["error"] == {"code": -32602, "message": "no MCP server here offers echo"}
    assert [record.server for record in bridge.records][1:4] == ["two", "two", "one"]


async def test_prompts_and_completions_travel_under_their_own_names() -> None:
    """Ours: prompts have prefixes as tools have, resources keep their URIs."""
    server = MCPServer("prompts")

    @server.prompt()
    def greet(name: str) -> str:
        return f"Hello {name}"

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Any:
        from mcp_types import Completion

        return Completion(values=[f"{ref.name}:{argument.value}"])

    upstreams = [InProcessUpstream("one", server), InProcessUpstream("two", full_server.server)]
    router = Router(upstreams, max_bytes=LIMIT, prefixes=PREFIXES)
    async with serving(router) as bridge, mcp.Client(bridge.transport()) as client:
        prompts = [one.name for one in (await client.list_prompts()).prompts]
        said = await client.get_prompt("one_greet", {"name": "Ada"})
        from mcp_types import PromptReference

        completed = await client.complete(
            PromptReference(type="ref/prompt", name="one_greet"), {"name": "name", "value": "A"}
        )
        note = await client.read_resource("note://today")

    assert prompts == ["one_greet", "two_greet"]
    assert said.messages[0].content.text == "Hello Ada"
    assert completed.completion.values == ["greet:A"]
    assert note.contents[0].text == "sunny"


@pytest.mark.parametrize("way", ["prefixed", "listed_before"])
async def test_calls_go_on_while_another_server_is_down(way: str) -> None:
    """Ours: a call needs its own server only, where it is known that the name is not the other's."""
    down = unruly("two", "pid")
    prefixes = PREFIXES if way == "prefixed" else {}
    router = Router([unruly("one", "echo"), down], max_bytes=LIMIT, prefixes=prefixes)
    name = "one_echo" if way == "prefixed" else "echo"
    async with serving(router) as bridge, bridge.channel() as channel:
        if way == "listed_before":
            await send(channel, "Call", request("tools/list"))
        await down.close()
        down._command[:] = ["/nowhere/to/be/found"]
        for index in router._indexes._indexes.values():
            index.made -= 3600
        assert "result" in await send(channel, "Call", tool(name))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", tool(name.replace("one_echo", "two_pid").replace("echo", "pid")))

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_call_is_refused_while_an_unknown_server_might_contest_it() -> None:
    """Ours: fail closed; taking a server down must not hand its tools' names to another."""
    down = unruly("two", "echo")
    router = Router([unruly("one", "echo"), down], max_bytes=LIMIT)
    async with serving(router) as bridge, bridge.channel() as channel:
        down._command[:] = ["/nowhere/to/be/found"]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", tool("echo"))

    assert failed.value.details() == "the MCP server two cannot be started"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_server_that_is_down_may_be_left_out_and_is_named(mode: Any) -> None:
    """Ours: with `when_down: leave_out` the others go on, and the list says what it lacks."""
    down = unruly("down", "x")
    router = Router([InProcessUpstream("full", full_server.server), down], max_bytes=LIMIT, leave_out=True)
    async with serving(router) as bridge:
        down._command[:] = ["/nowhere/to/be/found"]
        async with mcp.Client(bridge.transport(), mode=mode) as client:
            listed = await client.list_tools()
            total = await client.call_tool("add", {"a": 1, "b": 2})

    assert "add" in [one.name for one in listed.tools]
    assert (listed.meta or {})["secure-mcp-grpc/missing"] == ["down"]
    assert total.structured_content == {"result": 3}


async def test_server_that_hangs_is_named_when_lists_wait_for_it() -> None:
    """Ours: one that does not answer costs `patience_s`, not the whole request's time, and is named."""
    hanging = stdio("slow", "-S", "-c", "import time; time.sleep(60)")
    router = Router([unruly("one", "echo"), hanging], max_bytes=LIMIT, patience_s=1.0)
    async with serving(router) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", request("tools/list"))

    assert failed.value.details() == "the MCP server slow did not answer within 1 s"


async def test_one_subscription_over_several_servers() -> None:
    """MCP 2026-07-28, "Subscriptions": acknowledged once, then the events of all, under the caller's own id."""
    router = Router(
        [InProcessUpstream("full", full_server.server), InProcessUpstream("old", quiet_server()), changing_stdio()],
        max_bytes=LIMIT,
    )
    async with serving(router) as bridge, bridge.channel() as channel, asyncio.timeout(15):
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note://today", "note://nobodys"]}
        message = request("subscriptions/listen", {"notifications": wanted}, id_json=b'"mine"')
        call = channel.unary_stream(f"{calls.TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)(
            message
        )
        acknowledged = msgspec.json.decode((await call.read()).message_json)
        await send(channel, "Call", tool("change"))
        first = msgspec.json.decode((await call.read()).message_json)
        await send(channel, "Call", tool("changed"))
        second = msgspec.json.decode((await call.read()).message_json)
        call.cancel()
        while bridge.executor.in_flight:
            await asyncio.sleep(0.01)

    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"]["toolsListChanged"] is True
    assert acknowledged["params"]["notifications"].get("resourceSubscriptions", []) in ([], ["note://today"])
    for message in (acknowledged, first, second):
        assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "mine"
    assert first["method"] == second["method"] == "notifications/tools/list_changed"


def quiet_server() -> Any:
    """A server that knows no `subscriptions/listen`."""
    from mcp.server.lowlevel.server import Server

    return Server("old")


def changing_stdio() -> Any:
    return stdio("changing", "-S", str(HERE / "unruly_server.py"), "changed")


async def test_subscription_names_a_server_that_does_not_acknowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a subscription that covers less than was asked must not look like one that covers all."""
    monkeypatch.setattr(listens, "_ACK_S", 0.5)
    mute = stdio("mute", "-S", "-c", "import sys; sys.stdin.read()")
    router = Router([InProcessUpstream("full", full_server.server), mute], max_bytes=LIMIT)
    async with serving(router) as bridge, bridge.channel() as channel:
        message = request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        call = channel.unary_stream(f"{calls.TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)(
            message
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "the MCP server mute did not acknowledge the subscription"


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ('{"a": {"command": ["x"], "prefix": "a_"}, "b": {"command": ["x"], "prefix": "a_b_"}}', "also begins a_b_"),
        ('{"a": {"command": ["x"], "prefix": "a_"}, "b": {"command": ["x"], "prefix": "a_"}}', "also begins a_"),
        ('{"a": {"command": ["x"], "prefix": "a b"}}', "should match pattern"),
    ],
)
def test_prefixes_that_overlap_stop_the_start(upstreams: str, said: str) -> None:
    """Ours: a server must not be able to offer names of another."""
    with pytest.raises(UserError, match=said):
        BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": upstreams})


def test_names_are_prefixed_by_setting() -> None:
    """Ours: `names: prefixed` names each server's tools after it, an own `prefix` wins."""
    upstreams = '{"git": {"command": ["x"]}, "time": {"command": ["x"], "prefix": "t."}}'
    settings = BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": upstreams, "MCP_BRIDGE_NAMES": "prefixed"})
    assert (settings.prefix_of("git"), settings.prefix_of("time")) == ("git_", "t.")


async def test_subscribed_resource_is_its_servers_affair_in_the_handshake_era() -> None:
    """MCP 2025-11-25, "Subscriptions": `resources/subscribe` goes to the server of the URI, its updates come back."""
    from mcp.server.lowlevel.server import Server
    from mcp_types import EmptyResult, ListResourcesResult, Resource

    asked: list[tuple[str, str]] = []

    def server(name: str) -> Any:
        async def resources(_context: Any, _params: Any) -> ListResourcesResult:
            return ListResourcesResult(resources=[Resource(name=name, uri=f"{name}://x")])

        async def subscribe(context: Any, params: Any) -> EmptyResult:
            asked.append((name, str(params.uri)))
            await context.session.send_resource_updated(params.uri)
            return EmptyResult()

        return Server(name, on_list_resources=resources, on_subscribe_resource=subscribe)

    updated: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/resources/updated":
            updated.put_nowait(str(message.params.uri))

    upstreams = [InProcessUpstream(name, server(name)) for name in ("one", "two")]
    async with (
        serving(Router(upstreams, max_bytes=LIMIT, prefixes=PREFIXES)) as bridge,
        mcp.Client(bridge.transport(), mode="legacy", message_handler=note) as client,
        asyncio.timeout(10),
    ):
        await client.subscribe_resource("two://x")
        assert await updated.get() == "two://x"
        with pytest.raises(mcp.MCPError, match="no MCP server here offers three://x"):
            await client.subscribe_resource("three://x")

    assert asked == [("two", "two://x")]
