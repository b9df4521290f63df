"""Nothing is executed but what was authorized."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from bridge_harness import Bridge, request, send, serving, tool

from mcp_bridge.exchange import Exchange, Note, Session
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb


class Spy:
    """An upstream that writes down what reaches it."""

    name = "spy"

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.notes: list[str] = []
        self.replies: list[bytes] = []
        self.ended: list[str] = []
        self.answer: Any = b'{"jsonrpc":"2.0","id":1,"result":{}}'

    async def start(self) -> None: ...

    async def request(self, exchange: Exchange) -> bytes:
        self.requests.append(exchange.call.target)
        exchange.server = self.name
        if isinstance(self.answer, Exception):
            raise self.answer
        if exchange.call.method == "subscriptions/listen":
            await asyncio.Event().wait()
        return bytes(self.answer)

    async def notify(self, note: Note) -> None:
        self.notes.append(note.method)

    async def reply(self, session: Session, message: bytes) -> None:
        self.replies.append(message)

    async def end_session(self, session: Session) -> None:
        self.ended.append(session.id)

    async def reap(self, idle_s: float) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with serving(Spy()) as one:
        yield one


GOOD = (headers.TARGET, "tools/call shell")
SUBJECT = (headers.SUBJECT, "model-a")


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param([SUBJECT], id="missing"),
        pytest.param([SUBJECT, (headers.TARGET, "tools/call echo")], id="another tool"),
        pytest.param([SUBJECT, (headers.TARGET, "tools/list shell")], id="another method"),
        pytest.param([SUBJECT, GOOD, GOOD], id="twice"),
        pytest.param([SUBJECT, GOOD, (headers.TARGET, "tools/call echo")], id="twice, different"),
        pytest.param([SUBJECT, (headers.TARGET, "tools/call  shell")], id="almost"),
        pytest.param([SUBJECT, (headers.TARGET, "")], id="empty"),
    ],
)
@pytest.mark.parametrize("rpc", ["Call", "Stream"])
async def test_request_that_was_not_authorized_is_refused(bridge: Bridge, rpc: str, metadata: list[Any]) -> None:
    """Design: the bridge refuses to execute anything else than x-mcp-target; the refusal is on record."""
    async with bridge.channel(trusted=False) as channel:
        kind = channel.unary_unary if rpc == "Call" else channel.unary_stream
        call = kind(f"{TRANSPORT}{rpc}", pb.Request.SerializeToString)(tool("shell"), metadata=tuple(metadata))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call if rpc == "Call" else call.read())

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == "this is not what was authorized"
    assert bridge.upstream.requests == []
    assert [(record.outcome, record.tool) for record in bridge.records] == [("refused", "shell")]


async def test_notification_that_was_not_authorized_is_refused(bridge: Bridge) -> None:
    """Ours: the same for notifications, replies and the end of a session."""
    async with bridge.channel(trusted=False) as channel:
        for rpc, message in (
            ("Notify", pb.Notification(method="notifications/initialized", session_id="s")),
            ("Reply", pb.ReplyRequest(session_id="s", message_json=b"{}")),
            ("EndSession", pb.EndSessionRequest(session_id="s")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send(channel, rpc, message, pb.Ack, [SUBJECT, GOOD])
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert bridge.upstream.notes == bridge.upstream.replies == bridge.upstream.ended == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"id_json": b"{}"},
        {"params_json": b'{"name":"shell","name":"echo"}'},
        {"params_json": b'{"name":"shell","Name":"echo"}'},
        {"params_json": b"[1]"},
        {"params_json": b"{"},
        {"protocol_version": "2025-11-25"},
        {"method": "tools/call\n"},
    ],
)
async def test_message_that_contradicts_itself_is_invalid(bridge: Bridge, change: dict[str, Any]) -> None:
    """Ours: what two readers could read differently is executed by none."""
    message = tool("shell")
    for key, value in change.items():
        setattr(message, key, value)
    async with bridge.channel(trusted=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(channel, "Call", message, metadata=[SUBJECT, GOOD])

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bridge.upstream.requests == []
    assert [record.outcome for record in bridge.records] == ["refused"]


async def test_bytes_that_are_no_message_are_invalid(bridge: Bridge) -> None:
    """Ours: and recorded, like every refusal."""
    async with bridge.channel(trusted=False) as channel:
        call = channel.unary_unary(f"{TRANSPORT}Call")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"\xff\xff\xff", metadata=(SUBJECT, GOOD))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record.outcome for record in bridge.records] == ["refused"]


async def open_session(bridge: Bridge, channel: grpc.aio.Channel) -> str:
    call = channel.unary_unary(f"{TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
    return str((await call(request("initialize", {}))).session_id)


async def test_session_belongs_to_who_opened_it(bridge: Bridge) -> None:
    """Ours: knowing an id is not enough; another identity hears that there is no such session."""
    async with bridge.channel("model-a") as mine, bridge.channel("model-b") as theirs:
        session_id = await open_session(bridge, mine)
        assert len(session_id) > 20
        await send(mine, "Call", request("tools/list", session_id=session_id))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(theirs, "Call", request("tools/list", session_id=session_id))
        await send(mine, "EndSession", pb.EndSessionRequest(session_id=session_id), pb.Ack)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await send(mine, "Call", request("tools/list", session_id=session_id))

    assert refused.value.code() is ended.value.code() is grpc.StatusCode.NOT_FOUND
    assert bridge.upstream.ended == [session_id]
    assert bridge.upstream.requests == ["initialize", "tools/list"]


async def test_session_that_was_not_opened_by_the_server_ends(bridge: Bridge) -> None:
    """Ours: an error answers initialize, so there is no session to keep."""
    bridge.upstream.answer = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}'
    async with bridge.channel() as channel:
        assert await open_session(bridge, channel) == ""
    assert len(bridge.upstream.ended) == 1


async def test_reply_can_only_be_a_response(bridge: Bridge) -> None:
    """Ours: `grpc:reply` is authorized without looking inside, so nothing else may travel in it."""
    smuggled = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"shell"}}'
    both = b'{"jsonrpc":"2.0","id":1,"result":{},"method":"tools/call","params":{"name":"shell"}}'
    twice = b'{"id":1,"result":{"a":1},"jsonrpc":"2.0","method":"x","method":""}'
    async with bridge.channel() as channel:
        session_id = await open_session(bridge, channel)
        for message in (smuggled, both, b"[]", b"{}", b"no"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send(channel, "Reply", pb.ReplyRequest(session_id=session_id, message_json=message), pb.Ack)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await send(channel, "Reply", pb.ReplyRequest(session_id=session_id, message_json=twice), pb.Ack)

    assert bridge.upstream.replies == [b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}']


async def test_bug_in_an_upstream_is_internal_and_says_nothing(bridge: Bridge) -> None:
    """Style: a peer gets a stable code and a sentence, never str(error)."""
    bridge.upstream.answer = RuntimeError("password=hunter2")
    async with bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(channel, "Call", tool("shell"))

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert failed.value.details() == "the bridge failed; its log says more"
    assert [record.outcome for record in bridge.records] == ["failed"]


async def test_stopping_ends_subscriptions(bridge: Bridge) -> None:
    """Ours: a subscription would outlast every drain; it ends with UNAVAILABLE when the bridge stops."""
    async with bridge.channel() as channel:
        call = channel.unary_stream(f"{TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)
        stream = call(request("subscriptions/listen", {"notifications": {}}))
        reading = asyncio.create_task(stream.read())
        while not bridge.upstream.requests:
            await asyncio.sleep(0.01)
        bridge.executor.stop_streams()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await reading

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
