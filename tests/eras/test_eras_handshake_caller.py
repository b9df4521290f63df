"""Handshake clients at 2026-07-28 servers: the session that they expect, kept in the bridge."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import mcp
import mcp_types as types
import msgspec
import pytest
from bridge_harness import Bridge, request, send, serving, stdio
from era_bridge import Answers, bridge_to, state
from mcp_types import ErrorData

from mcp_bridge.eras.bridged import Bridged
from secure_mcp_grpc import calls
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

OLD = str(Path(__file__).parent / "old_server.py")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with bridge_to("modern") as one:
        yield one


async def opened(
    channel: Any, version: str = "2025-11-25", capabilities: dict[str, Any] | None = None
) -> tuple[str, Any]:
    """A session: its id, and the InitializeResult."""
    params = {
        "protocolVersion": version,
        "capabilities": capabilities or {},
        "clientInfo": {"name": "c", "version": "1"},
    }
    call = channel.unary_unary(f"{calls.TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
    response = await call(request("initialize", params), timeout=20)
    return response.session_id, msgspec.json.decode(response.message_json)


async def ask(
    channel: Any, session: str, method: str, params: dict[str, Any] | None = None, id_json: bytes = b"2"
) -> Any:
    return await send(channel, "Call", request(method, params, id_json=id_json, session_id=session))


async def tool_of(channel: Any, session: str, name: str, **arguments: Any) -> Any:
    return await ask(channel, session, "tools/call", {"name": name, "arguments": arguments})


async def tell(channel: Any, session: str, method: str, params: dict[str, Any]) -> None:
    note = pb.Notification(method=method, session_id=session, params_json=msgspec.json.encode(params))
    await send(channel, "Notify", note, pb.Ack)


@contextlib.asynccontextmanager
async def listening(channel: Any, session: str) -> AsyncIterator[asyncio.Queue[Any]]:
    """What the session says outside of requests."""
    heard: asyncio.Queue[Any] = asyncio.Queue()
    call = channel.unary_stream(f"{calls.TRANSPORT}Listen", pb.ListenRequest.SerializeToString, pb.Response.FromString)
    stream = call(pb.ListenRequest(session_id=session))

    async def read() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for one in stream:
                heard.put_nowait(msgspec.json.decode(one.message_json))

    reading = asyncio.create_task(read())
    try:
        yield heard
    finally:
        stream.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ],
)
async def test_version_is_the_one_asked_for_or_the_newest(bridge: Bridge, asked: str, agreed: str) -> None:
    """Spec 2025-11-25, "Version Negotiation"; handshake versions down to 2024-11-05."""
    async with bridge.channel() as channel:
        session, answer = await opened(channel, asked)
        result = answer["result"]
        assert (await tool_of(channel, session, "echo", value="x"))["result"]["content"][0]["text"] == "x"
    assert result["protocolVersion"] == agreed
    assert result["serverInfo"]["name"] == "era"
    assert result["capabilities"]["resources"]["subscribe"] is True
    assert "supportedVersions" not in result


async def test_requests_declare_their_client(bridge: Bridge) -> None:
    """Issue 4: per-request metadata ↔ session."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel, capabilities={"roots": {"listChanged": True}})
        params = {"name": "state", "arguments": {}, "_meta": {"own/key": 3}}
        result = (await ask(channel, session, "tools/call", params))["result"]
    meta = result["structuredContent"]["meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientInfo"] == {"name": "c", "version": "1"}
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {"roots": {"listChanged": True}}
    assert meta["own/key"] == 3
    assert "resultType" not in result
    assert bridge.records[-1].server == "era"


async def test_ping_is_answered_here_and_new_methods_do_not_exist(bridge: Bridge) -> None:
    """Issue 4: what only sessions have is answered in the bridge, what they never had is METHOD_NOT_FOUND."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        assert (await ask(channel, session, "ping"))["result"] == {}
        for method in ("server/discover", "subscriptions/listen", "tasks/list"):
            assert (await ask(channel, session, method))["error"]["code"] == -32601
        # This server does not declare logging.
        assert (await ask(channel, session, "logging/setLevel", {"level": "info"}))["error"]["code"] == -32601


async def test_changes_arrive_on_the_session(bridge: Bridge) -> None:
    """Issue 4: resources/subscribe and list_changed ↔ one subscriptions/listen stream."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        async with listening(channel, session) as heard, asyncio.timeout(30):
            await tell(channel, session, "notifications/initialized", {})
            while heard.empty():  # the stream stands once the server acknowledged it
                await tool_of(channel, session, "change")
                await asyncio.sleep(0.05)
            assert {heard.get_nowait()["method"] for _ in range(heard.qsize())} == {"notifications/tools/list_changed"}
            assert (await ask(channel, session, "resources/subscribe", {"uri": "note://today"}))["result"] == {}
            await tool_of(channel, session, "change")
            while (message := await heard.get())["method"] != "notifications/resources/updated":
                assert message["method"] == "notifications/tools/list_changed"
                assert "_meta" not in message.get("params", {})
            assert message["params"] == {"uri": "note://today"}
            assert (await ask(channel, session, "resources/unsubscribe", {"uri": "note://today"}))["result"] == {}
            while not heard.empty():
                heard.get_nowait()
            await tool_of(channel, session, "change")
            assert (await heard.get())["method"] == "notifications/tools/list_changed"
            await asyncio.sleep(0.1)
            assert heard.empty()


async def test_subscription_is_renewed_after_a_crash(bridge: Bridge) -> None:
    """Ours: the session outlives the server's process; what may have changed meanwhile is said to have."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        async with listening(channel, session) as heard, asyncio.timeout(30):
            await ask(channel, session, "resources/subscribe", {"uri": "note://today"})
            with pytest.raises(grpc.aio.AioRpcError):
                await tool_of(channel, session, "crash")
            methods = set()
            while "notifications/resources/updated" not in methods:
                methods.add((await heard.get())["method"])


async def test_waiting_and_asking_again_is_bounded(bridge: Bridge) -> None:
    """Spec 2026-07-28, "Client Requirements": without input requests ask again; ours: not for ever."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        assert (await tool_of(channel, session, "later"))["result"]["content"][0]["text"] == "done"
        async with asyncio.timeout(30):
            endless = await tool_of(channel, session, "endless")
    assert endless["error"]["code"] == -32603


async def test_client_that_refuses_ends_its_call(bridge: Bridge) -> None:
    """Ours: the client's own error is the call's, since 2026-07-28 has no place for it."""

    async def refuse(_context: Any, _params: Any) -> ErrorData:
        return ErrorData(code=-1, message="User rejected sampling request")

    async with Answers().client(bridge, "legacy", sampling_callback=refuse) as client:
        with pytest.raises(mcp.MCPError) as refused:
            await client.call_tool("ask", {"question": "x"})
    assert refused.value.error.code == -1
    assert refused.value.error.message == "User rejected sampling request"


async def test_url_elicitation_gets_the_id_that_was_required(bridge: Bridge) -> None:
    """2025-11-25 requires an elicitationId; 2026-07-28 has none."""
    ids: list[str] = []

    async def elicit(_context: Any, params: Any) -> types.ElicitResult:
        ids.append(params.elicitation_id)
        return types.ElicitResult(action="decline")

    async with Answers().client(bridge, "legacy", elicitation_callback=elicit) as client:
        assert (await client.call_tool("visit", {})).content[0].text == "decline"
    assert ids[0]


async def test_cancel_reaches_server_and_client_while_it_is_asked(bridge: Bridge) -> None:
    """Spec 2025-11-25, "Cancellation", both ways: the question is withdrawn, the call ends."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel, capabilities={"sampling": {}})
        async with listening(channel, session) as heard, asyncio.timeout(30):
            calling = asyncio.create_task(tool_of(channel, session, "ask", question="x"))
            asked = await heard.get()
            assert asked["method"] == "sampling/createMessage"
            await tell(channel, session, "notifications/cancelled", {"requestId": 2})
            with pytest.raises(grpc.aio.AioRpcError) as cancelled:
                await calling
            withdrawn = await heard.get()
    assert cancelled.value.code() is grpc.StatusCode.CANCELLED
    assert withdrawn["method"] == "notifications/cancelled"
    assert withdrawn["params"] == {"requestId": asked["id"]}


async def test_unanswered_question_ends_in_time() -> None:
    """Issue 4: replies are collected in bounded time."""
    async with bridge_to("modern", input_wait_s=0.3) as bridge, bridge.channel() as channel:
        session, _ = await opened(channel, capabilities={"sampling": {}})
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await tool_of(channel, session, "ask", question="x")
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_reply_to_nothing_is_dropped(bridge: Bridge) -> None:
    """Ours: a client cannot answer what nobody asked."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        message = b'{"jsonrpc":"2.0","id":"era-1","result":{}}'
        await send(channel, "Reply", pb.ReplyRequest(session_id=session, message_json=message), pb.Ack)
        assert (await ask(channel, session, "ping"))["result"] == {}


async def test_session_of_another_is_unknown(bridge: Bridge) -> None:
    """Ours: nobody else uses, or answers for, my session."""
    async with bridge.channel() as mine, bridge.channel("model-b") as other:
        session, _ = await opened(mine)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(other, session, "ping")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_ended_session_leaves_nothing(bridge: Bridge) -> None:
    """Issue 4: sessions are reaped with all they hold."""
    async with bridge.channel() as channel:
        session, _ = await opened(channel)
        await ask(channel, session, "resources/subscribe", {"uri": "note://today"})
        calling = asyncio.create_task(tool_of(channel, session, "wait", label="w"))
        await asyncio.sleep(0.3)
        await send(channel, "EndSession", pb.EndSessionRequest(session_id=session), pb.Ack)
        with pytest.raises(grpc.aio.AioRpcError):
            await calling
        assert not bridge.upstream._handshake_callers._callers
        async with Answers().client(bridge, "auto") as client, asyncio.timeout(30):
            while "w" not in (await state(client))["cancelled"]:
                await asyncio.sleep(0.02)
    assert not [task for task in asyncio.all_tasks() if "_Stream" in repr(task) or "_kept" in repr(task)]


async def test_what_older_schemas_forbid_is_left_out_and_nothing_else() -> None:
    """Issue 4: structured content had to be an object; unknown members and caching hints stay."""
    upstream = Bridged(stdio("old", "-S", OLD, "modern"))
    async with serving(upstream) as bridge, bridge.channel() as channel:
        session, answer = await opened(channel)
        tools = (await ask(channel, session, "tools/list"))["result"]
        call = channel.unary_unary(f"{calls.TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
        message = request("tools/call", {"name": "x", "arguments": {}}, session_id=session)
        called = bytes((await call(message, timeout=20)).message_json)
        params = b'{"name":"raw","arguments":{"b": 1.50, "a": 123456789012345678901234567890}}'
        sent = pb.Request(method="tools/call", name="raw", id_json=b"7", session_id=session, params_json=params)
        echoed = (await send(channel, "Call", sent))["result"]["content"][0]["text"]
        strange = await tool_of(channel, session, "strange")
    assert answer["result"]["serverInfo"] == {"name": "old", "version": "0"}
    assert [sorted(one) for one in tools["tools"]] == [["inputSchema", "name"], ["inputSchema", "name", "outputSchema"]]
    assert tools["ttlMs"] == 5
    assert called == b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"unknown":1e400}}'
    assert '{"b": 1.50, "a": 123456789012345678901234567890}' in echoed
    assert strange["error"]["code"] == -32603


async def test_native_era_passes_untouched(bridge: Bridge) -> None:
    """Ours: a 2026-07-28 client at a modern server talks to it directly, and its states are the server's own."""
    async with Answers().client(bridge, "auto") as client:
        assert (await client.call_tool("form", {})).content[0].text == "to first? to second?"
    assert bridge.upstream.parked == 0
    assert not len(bridge.upstream._links)


async def test_server_of_both_eras_is_left_alone() -> None:
    """Ours: where server and caller share an era nothing is translated, whichever it is."""
    upstream = Bridged(stdio("time", "-m", "mcp_server_time"))
    async with serving(upstream) as bridge:
        for mode in ("auto", "legacy"):
            async with mcp.Client(bridge.transport(), mode=mode) as client:
                assert not (await client.call_tool("get_current_time", {"timezone": "UTC"})).is_error
    assert (upstream._is_modern, upstream._shakes_hands) == (True, True)
    assert not upstream._handshake_callers._callers
