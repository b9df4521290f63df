"""What every pairing of eras owes its caller: one contract, over a server of one era and a client of the other."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import mcp
import pytest
from bridge_harness import Bridge
from era_bridge import Answers, bridge_to, state

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

PAIRS = [("handshake", "auto"), ("modern", "legacy")]


@pytest.fixture(params=PAIRS, ids=["modern-client", "handshake-client"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bridge, str]]:
    era, mode = request.param
    async with bridge_to(era) as bridge:
        yield bridge, mode


async def test_everything_plain_is_answered(pair: tuple[Bridge, Any]) -> None:
    """Issue 4: tools, resources, templates, prompts and completion reach a server of the other era."""
    bridge, mode = pair
    async with Answers().client(bridge, mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "era"
        assert client.server_info.version == "7"
        assert client.instructions == "One era."
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        assert "add" in [tool.name for tool in (await client.list_tools()).tools]
        assert (await client.call_tool("add", {"a": 2**60, "b": 1})).structured_content == {"total": 2**60 + 1}
        text = 'ä\u2028"\\ \n 🎉'
        assert (await client.call_tool("echo", {"value": text})).content[0].text == text
        assert (await client.call_tool("fail", {})).is_error
        assert [one.uri for one in (await client.list_resources()).resources] == ["note://today"]
        assert len((await client.list_resource_templates()).resource_templates) == 1
        assert (await client.read_resource("note://day/monday")).contents[0].text == "rain on monday"
        assert (await client.list_prompts()).prompts[0].name == "greet"
        assert "Ada" in (await client.get_prompt("greet", {"name": "Ada"})).messages[0].content.text
        reference: Any = mcp.types.PromptReference(type="ref/prompt", name="greet")
        completed = await client.complete(reference, {"name": "name", "value": "A"})
        assert completed.completion.values == ["A!"]


async def test_errors_keep_code_message_and_data(pair: tuple[Bridge, Any]) -> None:
    """Ours: a server's own error passes, big integers too. A missing resource is -32602 since 2026-07-28."""
    bridge, mode = pair
    async with Answers().client(bridge, mode) as client:
        with pytest.raises(mcp.MCPError) as own:
            await client.call_tool("nowhere", {})
        with pytest.raises(mcp.MCPError) as unknown:
            await client.read_resource("note://nothing")
    assert own.value.error.code == -32050
    assert own.value.error.data == {"big": 2**70}
    assert unknown.value.error.code == -32602


async def test_progress_and_logs_belong_to_their_call(pair: tuple[Bridge, Any]) -> None:
    """Spec, "Progress": the caller's own token, in order, before the result; logs at the level asked for."""
    bridge, mode = pair
    seen: list[str | None] = []

    async def note(_progress: float, _total: float | None, message: str | None) -> None:
        seen.append(message)

    answers = Answers()
    async with answers.client(bridge, mode, log_level="warning") as client:
        if mode == "legacy":
            await asyncio.sleep(0.1)
        result = await client.call_tool("count", {"to": 4}, progress_callback=note)
        async with asyncio.timeout(30):
            while not answers.logs:
                await asyncio.sleep(0.01)

    assert result.content[0].text == "4"
    assert seen == [f"at {number}" for number in range(4)]
    assert answers.logs == ["warning careful"]


async def test_server_gets_its_questions_answered(pair: tuple[Bridge, Any]) -> None:
    """Issue 4: input-required ↔ server requests, for sampling, elicitation over several rounds, and roots."""
    bridge, mode = pair
    answers = Answers()
    async with answers.client(bridge, mode) as client:
        assert (await client.call_tool("ask", {"question": "why"})).content[0].text == "re why"
        assert (await client.call_tool("form", {})).content[0].text == "to first? to second?"
        assert (await client.call_tool("roots", {})).content[0].text == "file:///here"
        assert (await client.call_tool("visit", {})).content[0].text in ("accept", "visited")

    assert answers.asked == ["why", "first?", "second?", "roots", "go", "https://x.test/"]
    assert bridge.upstream.parked == 0


async def test_client_without_the_capability_is_not_asked(pair: tuple[Bridge, Any]) -> None:
    """Spec 2026-07-28, "MissingRequiredClientCapability": the code and the capability; nobody waits."""
    bridge, mode = pair
    async with mcp.Client(bridge.transport(), mode=mode) as client, asyncio.timeout(30):
        for name in ("ask", "form", "roots"):
            with pytest.raises(mcp.MCPError) as refused:
                await client.call_tool(name, {"question": "x"} if name == "ask" else {})
            assert refused.value.error.code == -32021
            needed = {"ask": "sampling", "form": "elicitation", "roots": "roots"}[name]
            assert list(refused.value.error.data["requiredCapabilities"]) == [needed]


async def test_cancelled_call_is_cancelled_at_the_server(pair: tuple[Bridge, Any]) -> None:
    """Issue 4: cancel reaches the server as notifications/cancelled."""
    bridge, mode = pair
    async with Answers().client(bridge, mode) as client:
        waiting = asyncio.create_task(client.call_tool("wait", {"label": "w"}))
        await asyncio.sleep(0.4)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(30):
            while "w" not in (await state(client))["cancelled"]:
                await asyncio.sleep(0.02)


async def test_calls_run_side_by_side(pair: tuple[Bridge, Any]) -> None:
    """Ours: answers of concurrent calls, some of which ask their client, do not mix."""
    bridge, mode = pair
    async with Answers().client(bridge, mode) as client, asyncio.timeout(30):
        texts = [client.call_tool("echo", {"value": str(number)}) for number in range(20)]
        asked = [client.call_tool("ask", {"question": f"q{number}"}) for number in range(10)]
        results = await asyncio.gather(*texts, *asked)
    assert [one.content[0].text for one in results[:20]] == [str(number) for number in range(20)]
    assert [one.content[0].text for one in results[20:]] == [f"re q{number}" for number in range(10)]


async def test_crash_fails_its_call_and_the_next_one_works(pair: tuple[Bridge, Any]) -> None:
    """Issue 4: upstream crashes mid-call: a clear error to that caller only."""
    bridge, mode = pair
    async with Answers().client(bridge, mode) as client:
        before = await state(client)
        with pytest.raises(mcp.MCPError) as crashed:
            await client.call_tool("crash", {})
        assert crashed.value.error.data["grpcStatus"] == "UNAVAILABLE"
        async with asyncio.timeout(30):
            while True:
                try:
                    after = await state(client)
                    break
                except mcp.MCPError:
                    await asyncio.sleep(0.1)
    assert after["pid"] != before["pid"]


async def test_owners_have_processes_of_their_own(pair: tuple[Bridge, Any]) -> None:
    """Ours: workloads never share a session or child."""
    bridge, mode = pair
    async with (
        Answers().client(bridge, mode, "model-a") as one,
        Answers().client(bridge, mode, "model-b") as other,
    ):
        assert (await state(one))["pid"] != (await state(other))["pid"]
