"""The server around the check, bytes in and bytes out, so that it can be exchanged: our own, or grpcio."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol

import grpc
from grpc_health.v1 import health_pb2

from secure_mcp_grpc import http2
from secure_mcp_grpc.health import Health
from secure_mcp_grpc.http2.health import health_streaming, health_unary
from secure_mcp_grpc.settings import CommonSettings

__all__ = ["METHOD", "Handler", "PartHealth", "RpcServer", "ServerKind", "ServerSettings", "new_server"]

_SERVICE: Final = "envoy.service.auth.v3.Authorization"
METHOD: Final = f"/{_SERVICE}/Check"
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""A request body, its headers and a certificate."""

ServerKind = Literal["http2", "grpc"]
Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""One message in, one out: at once, or later. Raises `RpcError` for a status other than OK."""


class ServerSettings(CommonSettings):
    """Which server Envoy and the bridge talk to."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    server: ServerKind = "http2"
    """`http2`, the project's own gRPC server for private sockets, or `grpc`, the reference: grpcio, which costs several
    times the CPU of a decision. Both answer alike."""


class PartHealth(Health):
    """Also tells of `policy` (the files are in force) and `journal` (decisions can be recorded) as services."""

    async def component(self, name: str, *, well: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.set_status(name, status.SERVING if well else status.NOT_SERVING)


class RpcServer(Protocol):
    """A server that is not yet started."""

    async def start(self) -> None:
        """Listen; a stale socket file is removed."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those under way end for `grace_s` seconds, then cancel them. May be called again."""


def new_server(kind: ServerKind, routes: Mapping[str, Handler], health: Health, socket: Path) -> RpcServer:
    """A server for `routes` (gRPC path → handler of one message) and `health` on a Unix socket."""
    return (_Http2Server if kind == "http2" else _GrpcServer)(routes, health, socket)


class _Http2Server:
    def __init__(self, routes: Mapping[str, Handler], health: Health, socket: Path) -> None:
        limits = http2.Limits(max_message_bytes=_MAX_MESSAGE_BYTES)
        self._server = http2.Server({**routes, **health_unary(health)}, health_streaming(health), limits)
        self._socket = socket

    async def start(self) -> None:
        await self._server.start(self._socket)

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)


class _GrpcServer:
    def __init__(self, routes: Mapping[str, Handler], health: Health, socket: Path) -> None:
        self._socket = socket
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ]
        )
        self._server.add_generic_rpc_handlers((_Routes(routes),))
        health.add_to(self._server)

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket.absolute()}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s or None)


class _Routes(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._handlers = {path: grpc.unary_unary_rpc_method_handler(_unary(handle)) for path, handle in routes.items()}

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handlers.get(call.method)


def _unary(handle: Handler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(body: bytes, context: Any) -> bytes:
        try:
            answered = handle(body)
            return answered if isinstance(answered, bytes) else await answered
        except http2.RpcError as error:
            code = next(code for code in grpc.StatusCode if code.value[0] == error.status)
            await context.abort(code, error.sentence)
            raise

    return answer
