"""The gRPC server around the check: bytes in, bytes out, so that gRPC adds no message objects of its own."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from secure_mcp_grpc.health import Health

__all__ = ["METHOD", "PartHealth", "new_server"]

_SERVICE: Final = "envoy.service.auth.v3.Authorization"
METHOD: Final = f"/{_SERVICE}/Check"
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""A request body, its headers and a certificate."""


class PartHealth(Health):
    """Also tells of `policy` (the files are in force) and `journal` (decisions can be recorded) as services."""

    async def component(self, name: str, *, well: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._servicer.set(name, status)


Handler = Callable[[bytes], bytes | Awaitable[bytes]]


def new_server(routes: Mapping[str, Handler], health: Health, socket: Path) -> grpc.aio.Server:
    """A server for `routes` (gRPC path → handler of one message) and `health` on a Unix socket, not yet started.

    A stale socket file is removed.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ]
    )
    server.add_generic_rpc_handlers((_Routes(routes),))
    health.add_to(server)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket.absolute()}")
    return server


class _Routes(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._handlers = {path: grpc.unary_unary_rpc_method_handler(_unary(handle)) for path, handle in routes.items()}

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handlers.get(call.method)


def _unary(handle: Handler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(body: bytes, _context: Any) -> bytes:
        answered = handle(body)
        return answered if isinstance(answered, bytes) else await answered

    return answer
