"""2026-07-28 clients at handshake servers: what the new protocol promises them, kept over an old session."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import mcp
import msgspec
import pytest
from bridge_harness import ENVELOPE, Bridge, request, send, serving, stdio, tool
from era_bridge import Answers, bridge_to, state
from era_requests import LEVEL, MODERN, OLD, asking, listen, raw
from mcp_types.methods import validate_server_result

from mcp_bridge.eras.bridged import Bridged, Limits
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with bridge_to("handshake") as one:
        yield one


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
