"""Calls that wait in the bridge for what their 2026-07-28 client was asked: whose, how long, how often."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from bridge_harness import Bridge, request, send, serving, stdio, tool
from era_bridge import bridge_to
from era_requests import OLD, asking, back, parked, sampled

from mcp_bridge.eras.bridged import Bridged

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with bridge_to("handshake") as one:
        yield one


async def test_nobody_else_can_resume_a_parked_call(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Server Requirements", 5: state presented by another principal is rejected, and stays good."""
    async with bridge.channel("model-a") as mine, bridge.channel("model-b") as other:
        state_, key = await parked(mine)
        stolen = await back(other, state_, sampled(key))
        invented = await back(other, "x" * 32, sampled(key))
        kept = await back(mine, state_, sampled(key))
    assert stolen["error"] == invented["error"]
    assert stolen["error"]["code"] == -32602
    assert kept["result"]["content"][0]["text"] == "yes"


async def test_state_is_used_once_and_for_its_own_request(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Server Requirements", 5: another request or a second use is rejected."""
    async with bridge.channel() as channel:
        state_, key = await parked(channel)
        other = await back(channel, state_, sampled(key), question="another")
        first = await back(channel, state_, sampled(key))
        second = await back(channel, state_, sampled(key))
    assert other["error"]["code"] == second["error"]["code"] == -32602
    assert "result" in first
    assert bridge.upstream.parked == 0


async def test_call_runs_once_however_often_it_asks(bridge: Bridge) -> None:
    """Issue 4: a tools/call is never repeated by us: the parked call goes on."""
    async with bridge.channel() as channel:
        for number in range(3):
            state_, key = await parked(channel, question=f"q{number}")
            await back(channel, state_, sampled(key), question=f"q{number}")
        seen = (await send(channel, "Call", asking("state")))["result"]["structuredContent"]
    assert seen["calls"] == ["q0", "q1", "q2"]


async def test_missing_responses_are_asked_for_again(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Error Handling": what is missing is requested again; what is unexpected ignored."""
    async with bridge.channel() as channel:
        state_, key = await parked(channel)
        again = (await back(channel, state_, {"unexpected": {}}))["result"]
        malformed = await back(channel, again["requestState"], {key: 1})
        done = await back(channel, again["requestState"], sampled(key))
    assert list(again["inputRequests"]) == [key]
    assert again["requestState"] != state_
    assert malformed["error"]["code"] == -32602
    assert done["result"]["content"][0]["text"] == "yes"


async def test_two_questions_at_once_find_their_answers(bridge: Bridge) -> None:
    """Ours: each response goes to the request it answers, together or one after the other."""
    async with bridge.channel() as channel:
        result = (await send(channel, "Call", asking("both")))["result"]
        asked = dict(result["inputRequests"])
        while result["resultType"] == "input_required":
            asked |= result["inputRequests"]
            responses: dict[str, Any] = {}
            for key in result["inputRequests"]:
                text = asked[key]["params"]["messages"][0]["content"]["text"]
                responses |= sampled(key, f"to {text}")
            result = (await back(channel, result["requestState"], responses, name="both"))["result"]
    assert result["structuredContent"] == {"result": ["to q1", "to q2"]}


async def test_unanswered_call_expires() -> None:
    """Issue 4: bounded time: the server is told, the state is void and nothing is left."""
    async with bridge_to("handshake", input_wait_s=0.3) as bridge, bridge.channel() as channel:
        state_, key = await parked(channel)
        async with asyncio.timeout(30):
            while bridge.upstream.parked:
                await asyncio.sleep(0.02)
        late = await back(channel, state_, sampled(key))
        assert late["error"]["code"] == -32602
        link = next(iter(bridge.upstream._links._slots.values())).link
        assert not link.calls
        assert "result" in await send(channel, "Call", asking("state"))


async def test_parked_calls_are_bounded_for_each_owner() -> None:
    """Issue 4: bounded count; one owner cannot take the others' places."""
    async with bridge_to("handshake", max_parked_calls=8) as bridge:
        async with bridge.channel("model-a") as greedy, bridge.channel("model-b") as other:
            for number in range(2):
                await parked(greedy, question=f"q{number}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await parked(greedy)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await parked(other)
        assert bridge.upstream.parked == 3


async def test_crash_while_parked_is_said_on_return(bridge: Bridge) -> None:
    """Issue 4: server crash while parked: a clear error, and the next call works."""
    async with bridge.channel() as channel:
        state_, key = await parked(channel, "ask_then_crash")
        await asyncio.sleep(0.6)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await back(channel, state_, sampled(key), name="ask_then_crash")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "result" in await send(channel, "Call", asking("state"))


async def test_url_that_has_to_be_opened_first_is_an_input(bridge: Bridge) -> None:
    """2025-11-25 "URL Elicitation Required" as what 2026-07-28 has for it; without the capability its own error."""
    url = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}}}
    async with bridge.channel() as channel:
        first = await send(channel, "Call", asking("visit", meta=url))
        asked = first["result"]["inputRequests"]
        assert asked == {
            "url-0": {
                "method": "elicitation/create",
                "params": {"mode": "url", "url": "https://x.test/", "message": "go"},
            }
        }
        state_ = first["result"]["requestState"]
        again = {"requestState": state_, "inputResponses": {"url-0": {"action": "accept"}}}
        done = await send(channel, "Call", asking("visit", meta=url, **again))
    assert done["result"]["content"][0]["text"] == "visited"
    async with bridge.channel("model-b") as channel:
        refused = (await send(channel, "Call", asking("visit")))["error"]
    assert refused["code"] == -32021
    assert refused["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


async def test_idle_sessions_are_ended_and_used_ones_kept(bridge: Bridge) -> None:
    """Issue 4: sessions are reaped; a parked call or a listener keeps its own."""
    async with bridge.channel("model-a") as idle, bridge.channel("model-b") as waiting:
        await send(idle, "Call", tool("state"))
        state_, key = await parked(waiting)
        await bridge.upstream.reap(0.0)
        assert len(bridge.upstream._links) == 1
        assert "result" in await back(waiting, state_, sampled(key))


async def test_question_outside_of_calls_travels_with_the_next_one() -> None:
    """Ours: servers ask for roots as soon as they are initialized; the first call that may ask carries it."""
    roots = {"io.modelcontextprotocol/clientCapabilities": {"roots": {}}}
    async with serving(Bridged(stdio("old", "-S", OLD, "roots"))) as bridge, bridge.channel() as channel:
        await send(channel, "Call", request("tools/list", {"_meta": roots}))
        async with asyncio.timeout(30):
            link = next(iter(bridge.upstream._links._slots.values())).link
            while not link._unasked:
                await asyncio.sleep(0.01)
        first = (await send(channel, "Call", asking("roots", meta=roots)))["result"]
        ((key, asked),) = first["inputRequests"].items()
        answer = {"requestState": first["requestState"], "inputResponses": {key: {"roots": [{"uri": "file:///a"}]}}}
        done = (await send(channel, "Call", asking("roots", meta=roots, **answer)))["result"]
        async with asyncio.timeout(30):
            refused = None
            while refused is None:
                undeclared = (await send(channel, "Call", asking("roots", meta={})))["result"]
                refused = json.loads(undeclared["content"][0]["text"])
    assert asked == {"method": "roots/list"}
    assert json.loads(done["content"][0]["text"]) == {"roots": [{"uri": "file:///a"}]}
    assert refused["code"] == -32601
