"""`secure-mcp-grpc connect` on stdio: one line in a desktop client's configuration."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import full_server
import mcp
import mcp_types
import pytest
from bridge_harness import Bridge, serving
from connect_kit import INITIALIZE, Connected, Sidecar, command, connected, legacy, modern, sidecar
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client

from mcp_bridge.upstreams.inprocess import InProcessUpstream

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with serving(InProcessUpstream("full", full_server.server)) as one:
        yield one


@pytest.fixture
async def side(bridge: Bridge, tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with sidecar(bridge, tmp_path) as one:
        yield one


def desktop(side: Sidecar) -> StdioServerParameters:
    """As a desktop client starts it."""
    program, *arguments = command(side.address)
    return StdioServerParameters(command=program, args=list(arguments), cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_client_of_either_era_lists_calls_and_sees_progress(side: Sidecar, mode: Any) -> None:
    """Issue 4: stdio by default, in both eras; the SDK's own client does not notice."""
    seen = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with mcp.Client(stdio_client(desktop(side)), mode=mode) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        added = await asyncio.gather(*(client.call_tool("add", {"a": number, "b": 1}) for number in range(20)))
        counted = await client.call_tool("count", {"to": 3}, progress_callback=note)

    assert {"add", "echo"} <= tools
    assert [one.content[0].text for one in added] == [str(number + 1) for number in range(20)]
    assert counted.content[0].text == "3"
    assert seen == ["at 0", "at 1", "at 2"]


async def test_server_asks_the_client_and_the_session_ends_with_it(side: Sidecar, bridge: Bridge) -> None:
    """Issue 4: a handshake client with sampling works; ours: nothing of it stays at the sidecar."""

    async def sample(*_: Any) -> mcp_types.CreateMessageResult:
        return mcp_types.CreateMessageResult(
            role="assistant", content=mcp_types.TextContent(type="text", text="42"), model="test"
        )

    async with mcp.Client(stdio_client(desktop(side)), mode="legacy", sampling_callback=sample) as client:
        answer = await client.call_tool("ask", {"question": "what?"})
        assert len(bridge.executor._sessions) == 1
    assert answer.content[0].text == "42"
    assert len(bridge.executor._sessions) == 0


class Lines:
    """A raw client."""

    def __init__(self, one: Connected) -> None:
        self._one = one

    def send(self, message: Any) -> None:
        assert self._one.process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self._one.process.stdin.write(line + b"\n")

    async def get(self) -> Any:
        assert self._one.process.stdout is not None
        async with asyncio.timeout(10):
            return json.loads(await self._one.process.stdout.readline())

    async def until(self, request_id: Any) -> Any:
        while (message := await self.get()).get("id") != request_id:
            pass
        return message

    async def initialize(self) -> None:
        self.send(legacy("initialize", INITIALIZE, "init"))
        assert "result" in await self.until("init")
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


@pytest.fixture
async def lines(side: Sidecar) -> AsyncIterator[Lines]:
    async with connected(side.address, http=None) as one:
        yield Lines(one)


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"garbage", -32700, None),
        (b"\xff\xfe", -32700, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","name":"echo"}}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"a","Method":"b"}', -32600, 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"\\ud800"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":NaN}}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"x","params":{"a":"' + b"x" * 70_000 + b'"}}', -32600, 7),
        (b'{"method":"x","params":{"a":"' + b"x" * 70_000 + b'"},"jsonrpc":"2.0","id":"q"}', -32600, "q"),
    ],
)
async def test_what_is_no_message_is_answered_and_survived(
    side: Sidecar, line: bytes, code: int, request_id: Any
) -> None:
    """JSON-RPC 2.0, 5.1, and ours: garbage, batches, doubled keys and over-long lines harm nobody."""
    async with connected(side.address, "--max-request-bytes", "65536", http=None) as one:
        lines = Lines(one)
        lines.send(line)
        refused = await lines.get()
        assert (refused["error"]["code"], refused["id"]) == (code, request_id)
        lines.send(modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 1}}, 9))
        assert (await lines.until(9))["result"]["content"][0]["text"] == "2"


@pytest.mark.parametrize("era", ["modern", "handshake"])
async def test_cancelled_request_is_cancelled_at_the_server_and_not_answered(lines: Lines, era: str) -> None:
    """Both specifications, "Cancellation": the work stops, and no response is sent."""
    ask = modern if era == "modern" else legacy
    if era == "handshake":
        await lines.initialize()
    lines.send(ask("tools/call", {"name": "wait", "arguments": {"name": f"stdio-{era}"}}, 5))
    async with asyncio.timeout(5):
        while f"stdio-{era}" not in full_server.running:
            await asyncio.sleep(0.01)
    lines.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
    async with asyncio.timeout(2):
        while f"stdio-{era}" in full_server.running:
            await asyncio.sleep(0.005)
    lines.send(ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 1}}, 6))
    assert (await lines.get())["id"] == 6


async def test_both_eras_on_one_connection(lines: Lines) -> None:
    """Ours: a client may ask server/discover first and then shake hands."""
    lines.send(modern("server/discover", {}, "d"))
    assert "result" in await lines.until("d")
    await lines.initialize()
    lines.send(legacy("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}, 1))
    lines.send(modern("tools/call", {"name": "add", "arguments": {"a": 3, "b": 4}}, 2))
    answers = {message["id"]: message for message in (await lines.get(), await lines.get())}
    assert [answers[number]["result"]["content"][0]["text"] for number in (1, 2)] == ["3", "7"]


async def test_closing_stdin_ends_the_process_and_its_session(side: Sidecar, bridge: Bridge) -> None:
    """2025-11-25, "Lifecycle", stdio: the client closes the input, the server exits; ours: with nothing left behind."""
    async with connected(side.address, http=None) as one:
        lines = Lines(one)
        await lines.initialize()
        lines.send(legacy("tools/call", {"name": "wait", "arguments": {"name": "eof"}}, 5))
        async with asyncio.timeout(5):
            while "eof" not in full_server.running:
                await asyncio.sleep(0.01)
        assert one.process.stdin is not None
        one.process.stdin.close()
        async with asyncio.timeout(3):
            assert await one.process.wait() == 0
        assert one.process.stdout is not None
        assert await one.process.stdout.read() == b""
    assert len(bridge.executor._sessions) == 0
    assert "eof" not in full_server.running


async def test_big_integers_and_key_order_survive(lines: Lines) -> None:
    """Issue 4: payloads pass as raw JSON."""
    text = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":%b,"name":"echo","arguments":{"value":"%b"}}}'
    )
    meta = json.dumps(modern("x")["params"]["_meta"]).encode()
    lines.send(text % (meta, "12345678901234567890 é 😀".encode()))
    answer = await lines.get()
    assert answer["result"]["content"][0]["text"] == "12345678901234567890 é 😀"


async def test_session_is_opened_again_when_the_sidecar_was_restarted(tmp_path: Path) -> None:
    """Issue 4: requests fail clearly while the sidecar is away, and the next works."""
    async with AsyncExitStack() as before, AsyncExitStack() as running:
        first = await before.enter_async_context(serving(InProcessUpstream("full", full_server.server)))
        one = await before.enter_async_context(sidecar(first, tmp_path))
        lines = Lines(await running.enter_async_context(connected(one.address, http=None)))
        await lines.initialize()
        lines.send(legacy("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}, 1))
        assert (await lines.until(1))["result"]["content"][0]["text"] == "3"
        await before.aclose()
        lines.send(legacy("tools/list", {}, 2))
        refused = await lines.until(2)
        assert refused["error"]["data"] == {"grpcStatus": "UNAVAILABLE"}

        async with serving(InProcessUpstream("full", full_server.server)) as second, sidecar(second, tmp_path):
            number = 3
            async with asyncio.timeout(10):
                while True:
                    lines.send(legacy("tools/call", {"name": "add", "arguments": {"a": 2, "b": 2}}, number))
                    answer = await lines.until(number)
                    if "result" in answer:
                        break
                    number += 1
                    await asyncio.sleep(0.05)
            assert answer["result"]["content"][0]["text"] == "4"
            assert len(second.executor._sessions) == 1
