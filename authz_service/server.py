"""The gRPC server around the check: bytes in, bytes out, so that gRPC adds no message objects of its own."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

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


def new_server(check: Callable[[bytes], bytes | Awaitable[bytes]], health: Health, socket: Path) -> grpc.aio.Server:
    """A server for `check` and `health` on a Unix socket, not yet started. A stale socket file is removed."""

    async def handle(body: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        answer = check(body)
        return answer if isinstance(answer, bytes) else await answer

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ]
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(handle)}),)
    )
    health.add_to(server)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket.absolute()}")
    return server
