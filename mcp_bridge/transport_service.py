"""The gRPC service `secure_mcp_grpc.v1.McpTransport`: full-fidelity MCP, from Envoy to the executor."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.message import DecodeError

from mcp_bridge import wire
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Exchange, Session
from mcp_bridge.execute import Executor
from mcp_bridge.serving import Context, Routes
from secure_mcp_grpc.calls import (
    TRANSPORT,
    Malformed,
    McpCall,
    read_notification,
    read_request,
    read_transport_call,
)
from secure_mcp_grpc.http2.rpc import closing
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["TransportService"]

_ACK: Final = pb.Ack().SerializeToString()
_LAST_WORDS_S: Final = 0.1


class TransportService:
    """Its methods take and give the bytes of gRPC messages: what cannot be read is refused and recorded here, too."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def routes(self) -> Routes:
        return Routes(
            calls={
                f"{TRANSPORT}Call": self.Call,
                f"{TRANSPORT}Notify": self.Notify,
                f"{TRANSPORT}Reply": self.Reply,
                f"{TRANSPORT}EndSession": self.EndSession,
            },
            streams={f"{TRANSPORT}Stream": self.Stream, f"{TRANSPORT}Listen": self.Listen},
        )

    async def Call(self, message: bytes, context: Context) -> bytes:
        answer, visit, opened = await self._executor.request(
            "Call", context.metadata, len(message), lambda: _exchange(message)
        )
        if isinstance(answer, HopError):
            raise answer
        context.name_server(visit.server)
        return _response(answer, opened)

    async def Stream(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        """Notifications as they come, the response last. The last word is the outbox's end."""
        outbox = self._executor.outbox()
        exchange: list[Exchange] = []

        def read() -> Exchange:
            exchange.append(_exchange(message))
            return exchange[0]

        # No TaskGroup: it cannot be left by closing a generator (python/cpython#103847 and PEP 789).
        asking = asyncio.create_task(
            self._executor.request("Stream", context.metadata, len(message), read, outbox), name="Stream"
        )
        asking.add_done_callback(lambda _: outbox.close())
        try:
            while (notification := await outbox.get()) is not None:
                context.name_server(exchange[0].server)
                yield _response(notification, None)
            await asyncio.wait([asking], timeout=_LAST_WORDS_S)
            if not asking.done():
                raise unavailable("the sidecar is stopping")
            answer, visit, opened = asking.result()
            if isinstance(answer, HopError):
                raise answer
            context.name_server(visit.server)
            yield _response(answer, opened)
        finally:
            await _cancelled(asking)

    async def Notify(self, message: bytes, context: Context) -> bytes:
        def read() -> tuple[McpCall, bytes]:
            try:
                notification = pb.Notification.FromString(message)
            except DecodeError:
                raise Malformed("the gRPC message does not parse") from None
            return read_notification(notification), notification.params_json

        return _ack(await self._executor.notify(context.metadata, len(message), read))

    async def Reply(self, message: bytes, context: Context) -> bytes:
        def read() -> tuple[McpCall, bytes]:
            call = read_transport_call("Reply", message)
            return call, pb.ReplyRequest.FromString(message).message_json

        return _ack(await self._executor.reply(context.metadata, len(message), read))

    async def EndSession(self, message: bytes, context: Context) -> bytes:
        done = self._executor.end_session(
            context.metadata, len(message), lambda: read_transport_call("EndSession", message)
        )
        return _ack(await done)

    async def Listen(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        """What the session's server says outside of requests, as the peer takes it."""
        said = self._executor.listen(context.metadata, len(message), lambda: read_transport_call("Listen", message))
        async with closing(said):
            async for one in said:
                yield _response(one, None)


async def _cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel, and see it through: a request leaves its record."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])


def _exchange(message: bytes) -> Exchange:
    try:
        request = pb.Request.FromString(message)
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None
    call = read_request(request)
    return Exchange(call, request.id_json, request.params_json, wire.read_meta(request.params_json))


def _response(message: bytes, opened: Session | None) -> bytes:
    return pb.Response(message_json=message, session_id=opened.id if opened else "").SerializeToString()


def _ack(refusal: HopError | None) -> bytes:
    if refusal is not None:
        raise refusal
    return _ACK
