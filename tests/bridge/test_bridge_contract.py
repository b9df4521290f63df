"""One contract, run over every way to reach an MCP server and over both protocol eras."""

import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import full_server
import mcp
import pytest
import uvicorn
from bridge_harness import HERE, Bridge, serving, stdio, tool
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CreateMessageResult, TextContent

from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.upstreams.inprocess import InProcessUpstream

# Sampling belongs to the handshake era; the SDK says so by a warning.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

KINDS = ["inprocess", "stdio", "http"]


@contextlib.asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    """The SDK's own streamable-HTTP server on a port that the system chose."""
    app = full_server.server.streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving_task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await serving_task


@contextlib.asynccontextmanager
async def bridge_to(kind: str) -> AsyncIterator[Bridge]:
    async with contextlib.AsyncExitStack() as stack:
        upstream: Any
        if kind == "inprocess":
            upstream = InProcessUpstream("full", full_server.server)
        elif kind == "stdio":
            upstream = stdio("full", str(HERE / "full_server.py"))
        else:
            url = await stack.enter_async_context(http_server())
            upstream = HttpUpstream("full", url, max_message_bytes=4 * 1024 * 1024)
        yield await stack.enter_async_context(serving(upstream))


@pytest.fixture(params=KINDS)
async def bridge(request: pytest.FixtureRequest) -> AsyncIterator[Bridge]:
    full_server.server._session_manager = None  # a session manager runs once; each test has its own
    async with bridge_to(request.param) as one:
        yield one


directly: dict[str, list[Any]] = {}
"""What the server answers without a bridge, by mode; asked once."""


async def everything(client: mcp.Client) -> list[Any]:
    answers = [
        await client.list_tools(),
        await client.list_resources(),
        await client.list_resource_templates(),
        await client.list_prompts(),
        await client.call_tool("add", {"a": 2**60, "b": 1}),
        await client.call_tool("echo", {"value": 'ä\u2028\u2029 "\\ \n\r 🎉'}),
        await client.call_tool("fail", {}),
        await client.read_resource("note://today"),
        await client.read_resource("note://day/monday"),
        await client.get_prompt("greet", {"name": "Ada"}),
    ]
    with pytest.raises(mcp.MCPError) as unknown:
        await client.get_prompt("nothing", {})
    return [*(answer.model_dump(mode="json", by_alias=True) for answer in answers), unknown.value.error]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_answers_equal_those_of_the_server_itself(bridge: Bridge, mode: Any) -> None:
    """Ours: through the bridge or directly, an application sees the same."""
    if mode not in directly:
        command = StdioServerParameters(command=sys.executable, args=[str(HERE / "full_server.py")])
        async with mcp.Client(stdio_client(command), mode=mode) as direct:
            directly[mode] = await everything(direct)
    async with mcp.Client(bridge.transport(), mode=mode, cache=None) as client:
        assert await everything(client) == directly[mode]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_arrives_in_order_before_the_result(bridge: Bridge, mode: Any) -> None:
    """Spec, "Progress": notifications carry the caller's own token and end with the response."""
    seen: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))

    async with mcp.Client(bridge.transport(), mode=mode) as client:
        result = await client.call_tool("count", {"to": 5}, progress_callback=note)

    assert result.structured_content == {"result": 5}
    assert seen == [(float(n), f"at {n}") for n in range(5)]


@pytest.mark.parametrize("rpc", ["Call", "Stream"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_cancelled_call_is_cancelled_at_the_server(bridge: Bridge, mode: Any, rpc: str) -> None:
    """Ours: a caller that gives up stops the work, in both eras and over every upstream."""
    name = f"{mode}-{rpc}-{id(bridge)}"

    async def note(*_: Any) -> None: ...

    async with mcp.Client(bridge.transport(), mode=mode) as client:
        progress = note if rpc == "Stream" else None
        waiting = asyncio.create_task(client.call_tool("wait", {"name": name}, progress_callback=progress))
        await asyncio.sleep(0.3)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            while name not in (await client.call_tool("state", {})).structured_content["result"]:
                await asyncio.sleep(0.02)
            while not (ended := [(one.outcome, one.rpc) for one in bridge.records if one.tool == "wait"]):
                await asyncio.sleep(0.02)
        assert ended == [("cancelled", rpc)]


async def test_subscription_delivers_changes(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Subscriptions": events arrive on the listen stream that asked, under the client's own id."""
    async with (
        mcp.Client(bridge.transport()) as client,
        asyncio.timeout(10),
        client.listen(tools_list_changed=True) as one,
        client.listen(tools_list_changed=True) as other,
    ):
        await client.call_tool("change", {})
        for subscription in (one, other):
            async for event in subscription:
                assert type(event).__name__ == "ToolsListChanged"
                break


async def test_server_asks_the_clients_model_in_the_handshake_era(bridge: Bridge) -> None:
    """Spec 2025-11-25, "Sampling": a server's request reaches the client, whose answer reaches the server."""

    async def answer(_context: Any, params: Any) -> CreateMessageResult:
        text = params.messages[0].content.text.upper()
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=text), model="test")

    async with mcp.Client(bridge.transport(), mode="legacy", sampling_callback=answer) as client:
        result = await client.call_tool("ask", {"question": "why"})

    assert result.structured_content == {"result": "WHY"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_concurrent_clients_of_one_identity_get_their_own_answers(bridge: Bridge, mode: Any) -> None:
    """Ours: clients that choose the same ids share an upstream without seeing each other."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(mcp.Client(bridge.transport(), mode=mode)) for _ in range(3)]
        calls = [client.call_tool("echo", {"value": f"{n}-{i}"}) for n, client in enumerate(clients) for i in range(20)]
        results = await asyncio.gather(*calls)

    expected = [{"result": f"{n}-{i}"} for n in range(3) for i in range(20)]
    assert [result.structured_content for result in results] == expected


async def test_records_tell_who_did_what_and_how_it_ended(bridge: Bridge) -> None:
    """Ours: one record for each message, with the decision it ran under and without secrets."""
    async with mcp.Client(bridge.transport("model-b")) as client:
        await client.call_tool("echo", {"value": "x", "token": "s3cr3t"})
        await client.call_tool("fail", {})

    echo = next(record for record in bridge.records if record.tool == "echo")
    assert (echo.identity, echo.server, echo.rpc, echo.outcome) == ("model-b", "full", "Call", "ok")
    assert (echo.request_id, echo.chain, echo.seq) == ("request-1", "chain-1", 7)
    assert echo.upstream_us > 0
    assert echo.request_bytes > 0
    assert echo.response_bytes > 0
    assert re.fullmatch(r'{"value":"x","token":"\[redacted:[0-9a-f]{8}\]"}', echo.arguments)
    assert next(record for record in bridge.records if record.tool == "fail").outcome == "tool_error"


async def test_many_calls_half_of_them_cancelled_leave_nothing_behind(bridge: Bridge) -> None:
    """Issue 4: no leak of tasks or requests in flight."""
    prefix = f"many-{id(bridge)}"

    async def note(*_: Any) -> None: ...

    async with mcp.Client(bridge.transport()) as client:
        waiting = [asyncio.create_task(client.call_tool("wait", {"name": f"{prefix}-{n}"})) for n in range(30)]
        counting = [client.call_tool("count", {"to": 3}, progress_callback=note) for _ in range(30)]
        results = await asyncio.gather(*counting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            while bridge.executor.in_flight:
                await asyncio.sleep(0.02)
        await client.call_tool("add", {"a": 1, "b": 1})
    assert all(result.structured_content == {"result": 3} for result in results)
    assert bridge.executor.in_flight == 0


async def test_mcp_server_time_answers_as_it_does_directly() -> None:
    """Issue 4: PyPI servers: list and call work, results equal direct ones."""
    command = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server_time"])
    arguments = {"source_timezone": "Europe/Berlin", "time": "12:30", "target_timezone": "Asia/Tokyo"}

    async def ask(client: mcp.Client) -> list[Any]:
        return [await client.list_tools(), await client.call_tool("convert_time", arguments)]

    async with mcp.Client(stdio_client(command), cache=None) as direct:
        expected = await ask(direct)
    async with (
        serving(stdio("time", "-m", "mcp_server_time")) as bridge,
        mcp.Client(bridge.transport(), cache=None) as client,
    ):
        assert await ask(client) == expected


async def test_answer_names_its_server(bridge: Bridge) -> None:
    """Ours: `x-mcp-server` in the response header, for Envoy's access log."""
    from mcp_bridge.client.channel import Stubs

    async with bridge.channel() as channel:
        stubs = Stubs(channel)
        call = stubs.call(tool("add", {"a": 1, "b": 1}))
        await call
        assert ("x-mcp-server", "full") in tuple(await call.initial_metadata())
