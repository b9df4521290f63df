"""`secure-mcp-grpc connect --http`: the SDK's clients of both eras through a process of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import full_server
import mcp
import mcp_types
import pytest
from bridge_harness import serving
from connect_kit import Connected, Sidecar, connected, sidecar

from mcp_bridge.upstreams.inprocess import InProcessUpstream

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with serving(InProcessUpstream("full", full_server.server)) as bridge, sidecar(bridge, tmp_path) as one:
        yield one


@pytest.fixture
async def local(side: Sidecar) -> AsyncIterator[Connected]:
    async with connected(side.address) as one:
        yield one


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_client_of_either_era_lists_calls_and_sees_progress(local: Connected, mode: Any) -> None:
    """Issue 4: `connect --http` serves both eras; the SDK's own client does not notice."""
    seen = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with mcp.Client(local.url, mode=mode) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        added = await client.call_tool("add", {"a": 2, "b": 3})
        counted = await client.call_tool("count", {"to": 3}, progress_callback=note)
        read = await client.read_resource("note://today")

    assert {"add", "echo"} <= tools
    assert added.content[0].text == "5"
    assert counted.content[0].text == "3"
    assert seen == ["at 0", "at 1", "at 2"]
    assert read.contents[0].text == "sunny"


async def test_server_asks_the_client_of_a_session(local: Connected) -> None:
    """Issue 4: a handshake client with sampling works through `connect`."""

    async def sample(*_: Any) -> mcp_types.CreateMessageResult:
        return mcp_types.CreateMessageResult(
            role="assistant", content=mcp_types.TextContent(type="text", text="42"), model="test"
        )

    async with mcp.Client(local.url, mode="legacy", sampling_callback=sample) as client:
        answer = await client.call_tool("ask", {"question": "what?"})
    assert answer.content[0].text == "42"
