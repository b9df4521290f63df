"""Plain streamable HTTP behind Envoy: the front's second `Backend`, beside that of `connect`.

Between `mcp_bridge.front`, which speaks MCP's HTTP with the client, and the
handlers of the gRPC service McpTransport, which get what they would have got
over gRPC. So the call is read from the message, compared with what
authz_service authorized, and executed and recorded in one place, and what
stays open is judged again. Identity and decision are in the request's headers,
under names that Envoy takes from clients.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import grpc

from mcp_bridge import wire
from mcp_bridge.errors import HopError, overloaded
from mcp_bridge.execute import caller_of
from mcp_bridge.front.access import Access
from mcp_bridge.front.backend import Answer, BackendError, Headers, SessionUnknown, Via
from mcp_bridge.front.messages import Notification, Request
from mcp_bridge.front.transport import notification_of, reply_of, request_of
from mcp_bridge.serving import Metadata, Routes
from mcp_bridge.status import error_of
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.http2.rpc import closing
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["AnyHost", "TransportBackend", "naming_servers"]

_HTTP_STATUS: Final = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.ALREADY_EXISTS: 409,
}
"""503 for the rest."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Any, Send], Awaitable[None]]

_server: ContextVar[list[str]] = ContextVar("server")
"""Of one HTTP request: the MCP server that answers it, once that is known."""


class AnyHost(Access):
    """Who may speak was decided before: Envoy asked for a certificate or a token, authz_service looked at Origin."""

    __slots__ = ()

    def flaw(self, headers: Headers) -> str:
        return ""


class TransportBackend:
    """`routes` are those of McpTransport, their streams guarded.

    In the handshake era a client that leaves cancels nothing (2025-11-25,
    "Streamable HTTP", "Multiple Connections"), so that requests can pile up
    that nobody waits for: each caller has room for `max_in_flight` of its own.
    """

    def __init__(self, routes: Routes, *, max_in_flight: int = 256) -> None:
        self._calls, self._streams = routes.calls, routes.streams
        self._max_in_flight = max_in_flight
        self._in_flight: Counter[str] = Counter()

    def owner(self, via: Via) -> str:
        return caller_of(via.headers).owner

    async def request(self, request: Request, via: Via, *, streams: bool) -> AsyncGenerator[Answer, None]:
        message = request_of(request, via).SerializeToString()
        context = _Context(via.headers)
        owner = self.owner(via)
        if self._in_flight[owner] >= self._max_in_flight:
            raise _failure(overloaded(f"{self._max_in_flight} requests of this client are in flight"), via)
        self._in_flight[owner] += 1
        try:
            if not streams:
                yield _answer(await self._calls[f"{TRANSPORT}Call"](message, context))
                return
            answers = self._streams[f"{TRANSPORT}Stream"](message, context)
            async with closing(answers):
                async for answer in answers:
                    yield _answer(answer)
        except HopError as error:
            raise _failure(error, via) from None
        finally:
            self._in_flight[owner] -= 1
            if not self._in_flight[owner]:
                del self._in_flight[owner]

    async def notify(self, notification: Notification, via: Via) -> None:
        await self._tell("Notify", notification_of(notification, via), via)

    async def reply(self, message: bytes, via: Via) -> None:
        await self._tell("Reply", reply_of(message, via), via)

    async def listen(self, via: Via) -> AsyncGenerator[bytes, None]:
        message = pb.ListenRequest(session_id=via.session_id).SerializeToString()
        said = self._streams[f"{TRANSPORT}Listen"](message, _Context(via.headers))
        try:
            async with closing(said):
                async for one in said:
                    yield _answer(one).message
        except HopError as error:
            raise _failure(error, via) from None

    async def end_session(self, via: Via) -> None:
        await self._tell("EndSession", pb.EndSessionRequest(session_id=via.session_id), via)

    async def _tell(self, rpc: str, message: Any, via: Via) -> None:
        try:
            await self._calls[f"{TRANSPORT}{rpc}"](message.SerializeToString(), _Context(via.headers))
        except HopError as error:
            raise _failure(error, via) from None


class _Context:
    """One HTTP request, as a handler of gRPC sees it."""

    __slots__ = ("metadata",)

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata

    def name_server(self, name: str) -> None:
        _server.get([]).append(name)


def naming_servers(app: App) -> App:
    """`app`, whose responses say in `x-mcp-server` which MCP server answered, where that is known when they begin."""

    async def named(scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        names: list[str] = []
        _server.set(names)

        async def send_named(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start" and names and names[-1]:
                event["headers"] = [*event["headers"], (headers.SERVER.encode(), names[-1].encode("latin-1"))]
            await send(event)

        await app(scope, receive, send_named)

    return named


def _answer(written: bytes) -> Answer:
    response = pb.Response.FromString(written)
    message = response.message_json
    return Answer(message, wire.is_response(wire.read_envelope(message)), response.session_id)


def _failure(error: HopError, via: Via) -> BackendError:
    if error.code is grpc.StatusCode.NOT_FOUND and via.session_id:
        return SessionUnknown()
    told = error_of(error.code, error.sentence)
    return BackendError(
        told["message"], code=told["code"], http_status=_HTTP_STATUS.get(error.code, 503), data=told["data"]
    )
