"""2026-07-28 clients at handshake servers: what the new protocol promises them, kept over an old session."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import mcp
import msgspec
import pytest
from bridge_harness import ENVELOPE, Bridge, request, send, serving, stdio, tool
from era_bridge import Answers, bridge_to, state
from mcp_types.methods import validate_server_result

from mcp_bridge.eras.bridged import Bridged, Limits
from secure_mcp_grpc import calls
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

MODERN = "2026-07-28"
SAMPLING = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
LEVEL = "io.modelcontextprotocol/logLevel"
OLD = str(Path(__file__).parent / "old_server.py")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with bridge_to("handshake") as one:
        yield one


def asking(name: str, arguments: dict[str, Any] | None = None, meta: dict[str, Any] = SAMPLING, **params: Any) -> Any:
    return request("tools/call", {"name": name, "arguments": arguments or {}, "_meta": meta, **params})


def sampled(key: str, text: str = "yes") -> dict[str, Any]:
    return {key: {"role": "assistant", "content": {"type": "text", "text": text}, "model": "m"}}


async def parked(channel: Any, name: str = "ask", question: str = "q") -> tuple[str, str]:
    """A call that waits for its client: its state, and the key of what is asked."""
    arguments = {"question": question} if name == "ask" else {}
    result = (await send(channel, "Call", asking(name, arguments)))["result"]
    assert result["resultType"] == "input_required"
    validate_server_result("tools/call", MODERN, result)
    return result["requestState"], next(iter(result["inputRequests"]))


async def back(channel: Any, state_: str, responses: dict[str, Any], question: str = "q", name: str = "ask") -> Any:
    arguments = {"question": question} if name == "ask" else {}
    return await send(channel, "Call", asking(name, arguments, requestState=state_, inputResponses=responses))


async def test_results_are_of_the_new_schema(bridge: Bridge) -> None:
    """Spec 2026-07-28, schema: results carry resultType, cacheable ones ttlMs and cacheScope, all the server's name."""
    messages = [
        request("server/discover"),
        request("tools/list"),
        request("prompts/list"),
        request("resources/list"),
        request("resources/templates/list"),
        request("resources/read", {"uri": "note://today"}),
        request("prompts/get", {"name": "greet", "arguments": {"name": "x"}}),
        tool("add", {"a": 1, "b": 2}),
    ]
    async with bridge.channel() as channel:
        for message in messages:
            result = (await send(channel, "Call", message))["result"]
            validate_server_result(message.method, MODERN, result)
            assert result["resultType"] == "complete"
            assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "era"
    assert bridge.records[0].server == "era"


async def test_discover_says_what_the_handshake_said(bridge: Bridge) -> None:
    """Issue 4: discover ↔ initialize."""
    async with bridge.channel() as channel:
        result = (await send(channel, "Call", request("server/discover")))["result"]
    assert result["supportedVersions"] == [MODERN, "2025-11-25"]
    assert result["instructions"] == "One era."
    assert result["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
    assert result["ttlMs"] == 0
    assert result["cacheScope"] == "private"


async def test_protocol_members_end_at_the_bridge_and_others_pass(bridge: Bridge) -> None:
    """Issue 4: `_meta` protocol keys are removed before they reach the server; the session declares them instead."""
    meta = {"own/key": 3, "io.modelcontextprotocol/clientCapabilities": {"roots": {}}}
    async with bridge.channel() as channel:
        answer = await send(channel, "Call", request("tools/call", {"name": "state", "arguments": {}, "_meta": meta}))
    seen = answer["result"]["structuredContent"]
    assert seen["meta"]["own/key"] == 3
    assert not [key for key in seen["meta"] if key.startswith("io.modelcontextprotocol/")]
    assert seen["client"] == "test"
    assert seen["capabilities"] == {"roots": {}}
    assert seen["version"] == "2025-11-25"


async def test_unknown_version_is_refused_with_those_that_are_served(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Protocol Version Negotiation": -32022 with `supported` and `requested`."""
    for version in ("2027-01-01", "2025-11-25"):
        meta = {"io.modelcontextprotocol/protocolVersion": version}
        async with bridge.channel() as channel:
            message = request("tools/list", {"_meta": meta}, protocol_version=version)
            error = (await send(channel, "Call", message))["error"]
        assert error["code"] == -32022
        assert error["data"] == {"supported": [MODERN], "requested": version}


async def test_request_without_capabilities_is_refused(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Per-request protocol fields": clientCapabilities are required, as is an object."""
    for capabilities in ({}, {"io.modelcontextprotocol/clientCapabilities": 1}):
        params = {"_meta": {"io.modelcontextprotocol/protocolVersion": MODERN, **capabilities}}
        message = pb.Request(
            method="tools/list", id_json=b"1", protocol_version=MODERN, params_json=msgspec.json.encode(params)
        )
        async with bridge.channel() as channel:
            assert (await send(channel, "Call", message))["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ping", {}),
        ("logging/setLevel", {"level": "info"}),
        ("resources/subscribe", {"uri": "note://today"}),
        ("resources/unsubscribe", {"uri": "note://today"}),
        ("tasks/list", {}),
    ],
)
async def test_methods_that_are_gone_do_not_exist(bridge: Bridge, method: str, params: dict[str, Any]) -> None:
    """Spec 2026-07-28, "Key Changes": what sessions had is METHOD_NOT_FOUND, though the server would know it."""
    async with bridge.channel() as channel:
        assert (await send(channel, "Call", request(method, params)))["error"]["code"] == -32601


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


async def test_log_level_is_set_once_and_raised_only(bridge: Bridge) -> None:
    """Issue 4: logLevel in `_meta` ↔ logging/setLevel."""
    async with bridge.channel() as channel:
        for level in ("warning", "error", "debug", "info"):
            await send(channel, "Call", request("tools/list", {"_meta": {LEVEL: level}}))
        seen = (await send(channel, "Call", asking("state", meta={})))["result"]["structuredContent"]
        wrong = await send(channel, "Call", request("tools/list", {"_meta": {LEVEL: "loud"}}))
    assert seen["levels"] == ["warning", "debug"]
    assert wrong["error"]["code"] == -32602


async def test_subscription_is_acknowledged_first_and_delivers(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Subscriptions": what is honoured, then events under the listen's own id, and no others."""
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["note://today"]}
    async with bridge.channel() as channel:
        listening = listen(channel, wanted, b'"mine"')
        first = await anext(listening)
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["note://today"]}
        await send(channel, "Call", tool("change"))
        events = [await anext(listening), await anext(listening)]
        other = listen(channel, {"resourcesListChanged": True}, b"9")
        await anext(other)
        await send(channel, "Call", tool("change"))
        seen = (await send(channel, "Call", tool("state")))["result"]["structuredContent"]
        await listening.aclose()
        async with asyncio.timeout(30):
            while (await send(channel, "Call", tool("state")))["result"]["structuredContent"]["watched"]:
                await asyncio.sleep(0.02)
        await other.aclose()
    assert {one["method"] for one in events} == {
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    }
    for one in (first, *events):
        assert one["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "mine"
    assert seen["watched"] == ["note://today"]


async def test_sdk_client_hears_changes(bridge: Bridge) -> None:
    """Issue 4: listen ↔ notifications, as an application sees it."""
    async with (
        mcp.Client(bridge.transport()) as client,
        asyncio.timeout(30),
        client.listen(tools_list_changed=True, resource_subscriptions=["note://today"]) as listening,
    ):
        await client.call_tool("change", {})
        seen = set()
        async for event in listening:
            seen.add(type(event).__name__)
            if len(seen) == 2:
                break
    assert seen == {"ToolsListChanged", "ResourceUpdated"}


async def test_subscription_ends_when_its_session_does(bridge: Bridge) -> None:
    """Ours: a listener whose server is gone is told, and does not wait for ever."""
    async with bridge.channel() as channel:
        listening = listen(channel, {"toolsListChanged": True})
        await anext(listening)
        with pytest.raises(grpc.aio.AioRpcError):
            await send(channel, "Call", tool("crash"))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await anext(listening)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stopping_ends_a_subscription_with_its_result(bridge: Bridge) -> None:
    """Spec 2026-07-28: SubscriptionsListenResult is sent when the server tears the subscription down."""
    async with bridge.channel() as channel:
        listening = listen(channel, {"toolsListChanged": True}, b"5")
        await anext(listening)
        next(iter(bridge.upstream._links._slots.values())).link.end_listeners()
        last = await anext(listening)
    validate_server_result("subscriptions/listen", MODERN, last["result"])
    assert last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 5


async def test_listening_without_a_stream_is_refused(bridge: Bridge) -> None:
    """Ours: a unary call would wait for ever."""
    async with bridge.channel() as channel:
        answer = await send(channel, "Call", request("subscriptions/listen", {"notifications": {}}))
    assert answer["error"]["code"] == -32600


async def test_one_kind_of_client_has_one_session() -> None:
    """Issue 4: a session per owner and per what `_meta` declares; more of them are bounded, the idlest goes."""
    async with bridge_to("handshake", max_sessions_per_owner=2) as bridge, bridge.channel() as channel:

        async def pid(name: str) -> int:
            info = {"io.modelcontextprotocol/clientInfo": {"name": name, "version": "1"}}
            message = request("tools/call", {"name": "state", "arguments": {}, "_meta": info})
            return int((await send(channel, "Call", message))["result"]["structuredContent"]["pid"])

        first = await pid("one")
        assert await pid("one") == first
        assert await pid("two") != first
        await pid("three")
        assert len(bridge.upstream._links) == 2
        assert await pid("one") != first


async def test_idle_sessions_are_ended_and_used_ones_kept(bridge: Bridge) -> None:
    """Issue 4: sessions are reaped; a parked call or a listener keeps its own."""
    async with bridge.channel("model-a") as idle, bridge.channel("model-b") as waiting:
        await send(idle, "Call", tool("state"))
        state_, key = await parked(waiting)
        await bridge.upstream.reap(0.0)
        assert len(bridge.upstream._links) == 1
        assert "result" in await back(waiting, state_, sampled(key))


async def test_payloads_pass_as_they_were_written() -> None:
    """Issue 4: big integers, key order, escapes and unknown fields survive."""
    upstream = Bridged(stdio("old", "-S", OLD))
    async with serving(upstream) as bridge, bridge.channel() as channel:
        arguments = b'{"b": 1.50, "a": 123456789012345678901234567890, "c": "\\u00e4\\ud83c\\udf89"}'
        params = b'{"name":"raw","arguments":' + arguments + b',"_meta":' + json.dumps(ENVELOPE).encode() + b"}"
        message = pb.Request(
            method="tools/call", name="raw", id_json=b'"a"', protocol_version=MODERN, params_json=params
        )
        sent = (await send(channel, "Call", message))["result"]["content"][0]["text"]
        answer = await raw(channel, tool("other"))
    assert arguments.decode() in sent
    assert "io.modelcontextprotocol" not in sent
    for part in (
        b'{"zeta":1.50,',
        b'{"n": 123456789012345678901234567890, "e": "\\u00e4"}',
        b'"own":1e400',
        b"[true, null]",
    ):
        assert part in answer


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


async def test_server_of_another_era_that_takes_its_place_is_noticed() -> None:
    """Spec 2026-07-28, "Backward Compatibility": probe again when the cached era no longer holds; both ways."""
    upstream = stdio("old", "-S", OLD)
    async with serving(Bridged(upstream)) as bridge, bridge.channel() as channel:
        for options in ([], ["modern"], []):
            upstream._command[3:] = options
            for key in list(upstream._places):
                await upstream._end(key)
            async with asyncio.timeout(30):
                answer: Any = {}
                while "result" not in answer or bridge.upstream._is_modern is not bool(options):
                    answer = await send(channel, "Call", request("server/discover"))
            listed = (await send(channel, "Call", request("tools/list")))["result"]
            assert len(listed["tools"]) == (2 if options else 0)


@pytest.mark.parametrize("option", ["version=2024-11-05", "version=2025-06-18", "dies"])
async def test_older_and_ruder_servers_are_reached(option: str) -> None:
    """Issue 4: handshake versions down to 2024-11-05, and servers that end on what they do not know."""
    upstream = Bridged(stdio("old", "-S", OLD, option))
    async with serving(upstream) as bridge, mcp.Client(bridge.transport()) as client:
        assert client.protocol_version == MODERN
        assert client.server_info is not None
        assert client.server_info.name == "old"
        assert client.server_capabilities.model_extra is None or "tasks" not in client.server_capabilities.model_extra
        page = await client.list_tools()
        assert page.next_cursor == "again"
        assert (await client.list_tools(cursor="again")).next_cursor is None


async def test_version_nobody_knows_is_refused() -> None:
    """Spec: a server that answers initialize with a version of its own cannot be served: -32022."""
    async with serving(Bridged(stdio("old", "-S", OLD, "version=1999-01-01"))) as bridge, bridge.channel() as channel:
        error = (await send(channel, "Call", request("tools/list")))["error"]
    assert error["code"] == -32022
    assert error["data"] == {"supported": ["1999-01-01"], "requested": MODERN}


async def test_silent_server_is_found_out_by_time() -> None:
    """Spec 2026-07-28, stdio: no response within a reasonable timeout identifies a handshake server."""
    async with bridge_to("handshake", "silent", probe_s=0.3) as bridge, mcp.Client(bridge.transport()) as client:
        assert (await client.call_tool("echo", {"value": "x"})).content[0].text == "x"


async def test_fixed_era_is_not_probed() -> None:
    """Ours: `era: handshake` sends nothing before initialize."""
    async with (
        asyncio.timeout(30),
        bridge_to("handshake", "silent", era="handshake", probe_s=60.0) as bridge,
        mcp.Client(bridge.transport()) as client,
    ):
        assert (await client.call_tool("echo", {"value": "x"})).content[0].text == "x"


async def test_native_era_passes_untouched(bridge: Bridge) -> None:
    """Ours: a handshake client at a handshake server talks to it directly."""
    async with Answers().client(bridge, "legacy") as client:
        assert (await state(client))["client"] == "mcp"
        assert (await client.call_tool("ask", {"question": "x"})).content[0].text == "re x"
    assert not len(bridge.upstream._links)


async def test_server_that_is_down_is_not_taken_for_an_old_one() -> None:
    """Ours: an outage says nothing about the era."""
    upstream = stdio("old", "-S", OLD, "modern")
    command = list(upstream._command)
    async with serving(Bridged(upstream, limits=Limits(probe_s=1.0))) as bridge, bridge.channel() as channel:
        upstream._command[:] = ["/nowhere/to/be/found"]
        with pytest.raises(grpc.aio.AioRpcError):
            await send(channel, "Call", request("tools/list"))
        upstream._command[:] = command
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await send(channel, "Call", request("tools/list"))
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
    assert answer["result"]["cacheScope"] == "public"
    assert bridge.upstream._is_modern is True


async def listen(channel: Any, notifications: dict[str, Any], id_json: bytes = b"1") -> AsyncIterator[Any]:
    call = channel.unary_stream(f"{calls.TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)
    message = request("subscriptions/listen", {"notifications": notifications}, id_json=id_json)
    stream = call(message, timeout=20)
    try:
        async for one in stream:
            yield msgspec.json.decode(one.message_json)
    finally:
        stream.cancel()


async def raw(channel: Any, message: Any) -> bytes:
    call = channel.unary_unary(f"{calls.TRANSPORT}Call", type(message).SerializeToString, pb.Response.FromString)
    return bytes((await call(message, timeout=20)).message_json)
