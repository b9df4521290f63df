"""The gRPC service `secure_mcp_grpc.v1.McpTransport`: full-fidelity MCP, from Envoy to the executor."""

from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from mcp_bridge import wire
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Exchange, Outbox, Session
from mcp_bridge.execute import Executor
from mcp_bridge.recording import Visit
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import Malformed, McpCall, read_notification, read_request, read_transport_call
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["TransportService", "add_to"]

Context = grpc.aio.ServicerContext[bytes, bytes]
_ACK = pb.Ack().SerializeToString()


class TransportService:
    """Its methods take and give the bytes of gRPC messages: what cannot be read is refused and recorded here, too."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def Call(self, message: bytes, context: Context) -> bytes:
        answer, visit, opened = await self._executor.request(
            "Call", context.invocation_metadata(), len(message), lambda: _exchange(message)
        )
        if isinstance(answer, HopError):
            await _abort(context, answer)
        await _name_server(context, visit)
        return _response(answer, opened)

    async def Stream(self, message: bytes, context: Context) -> None:
        """Notifications as they come, the response last. The last word is the outbox's end."""
        import asyncio

        outbox = self._executor.outbox()
        exchange: list[Exchange] = []

        def read() -> Exchange:
            exchange.append(_exchange(message))
            return exchange[0]

        async def work() -> tuple[bytes | HopError, Visit, Session | None]:
            try:
                return await self._executor.request("Stream", context.invocation_metadata(), len(message), read, outbox)
            finally:
                outbox.close()

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(work())
            await _forward(context, outbox, exchange)
            if not asking.done():
                await asyncio.wait([asking], timeout=0.1)
            if not asking.done():
                asking.cancel()
        if asking.cancelled():
            await _abort(context, unavailable("the sidecar is stopping"))
        answer, visit, opened = asking.result()
        if isinstance(answer, HopError):
            await _abort(context, answer)
        if not outbox.taken:
            await _name_server(context, visit)
        await context.write(_response(answer, opened))
        return

    async def Notify(self, message: bytes, context: Context) -> bytes:
        def read() -> tuple[McpCall, bytes]:
            try:
                notification = pb.Notification.FromString(message)
            except DecodeError:
                raise Malformed("the gRPC message does not parse") from None
            return read_notification(notification), notification.params_json

        return await _ack(context, await self._executor.notify(context.invocation_metadata(), len(message), read))

    async def Reply(self, message: bytes, context: Context) -> bytes:
        def read() -> tuple[McpCall, bytes]:
            call = read_transport_call("Reply", message)
            return call, pb.ReplyRequest.FromString(message).message_json

        return await _ack(context, await self._executor.reply(context.invocation_metadata(), len(message), read))

    async def EndSession(self, message: bytes, context: Context) -> bytes:
        metadata = context.invocation_metadata()
        done = self._executor.end_session(metadata, len(message), lambda: read_transport_call("EndSession", message))
        return await _ack(context, await done)

    async def Listen(self, message: bytes, context: Context) -> None:
        async def write(one: bytes) -> None:
            await context.write(_response(one, None))

        metadata = context.invocation_metadata()
        refusal = await self._executor.listen(
            metadata, len(message), lambda: read_transport_call("Listen", message), write
        )
        if refusal is not None:
            await _abort(context, refusal)

    async def Session(self, requests: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Call, Stream and Notify; Session is not served yet")


def add_to(server: grpc.aio.Server, service: TransportService) -> None:
    handlers = {
        "Call": grpc.unary_unary_rpc_method_handler(service.Call),
        "Stream": grpc.unary_stream_rpc_method_handler(service.Stream),
        "Notify": grpc.unary_unary_rpc_method_handler(service.Notify),
        "Reply": grpc.unary_unary_rpc_method_handler(service.Reply),
        "EndSession": grpc.unary_unary_rpc_method_handler(service.EndSession),
        "Listen": grpc.unary_stream_rpc_method_handler(service.Listen),
        "Session": grpc.stream_stream_rpc_method_handler(service.Session),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("secure_mcp_grpc.v1.McpTransport", handlers),)
    )


def _exchange(message: bytes) -> Exchange:
    try:
        request = pb.Request.FromString(message)
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None
    call = read_request(request)
    return Exchange(call, request.id_json, request.params_json, wire.read_meta(request.params_json))


def _response(message: bytes, opened: Session | None) -> bytes:
    return pb.Response(message_json=message, session_id=opened.id if opened else "").SerializeToString()


async def _forward(context: Context, outbox: Outbox, exchange: list[Exchange]) -> None:
    named = False
    while (message := await outbox.get()) is not None:
        if not named:
            await context.send_initial_metadata(((headers.SERVER, exchange[0].server),))
            named = True
        await context.write(_response(message, None))


async def _name_server(context: Context, visit: Visit) -> None:
    if visit.server:
        await context.send_initial_metadata(((headers.SERVER, visit.server),))


async def _ack(context: Context, refusal: HopError | None) -> bytes:
    if refusal is not None:
        await _abort(context, refusal)
    return _ACK


async def _abort(context: Context, error: HopError) -> NoReturn:
    await context.abort(error.code, error.sentence)
    raise AssertionError("abort raises")
