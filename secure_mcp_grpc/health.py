"""grpc.health.v1 of a part, on its Unix socket or beside its own services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

__all__ = ["Health", "serve_health"]


class Health:
    """The health of one part: the empty service name speaks for the whole process.

    NOT_SERVING until `serving`; `not_serving` when it could not do its work.
    """

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing from the stubs
        # grpcio's servicer says SERVING from the start, before anything could be served.
        self._servicer._server_status[""] = health_pb2.HealthCheckResponse.NOT_SERVING

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        await self._servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        await self._servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stopping(self) -> None:
        """NOT_SERVING from now on, whatever is set later."""
        await self._servicer.enter_graceful_shutdown()


@asynccontextmanager
async def serve_health(socket: Path) -> AsyncIterator[Health]:
    """A gRPC server with nothing but health on a Unix socket, for parts that serve HTTP."""
    part = Health()
    server = grpc.aio.server()
    part.add_to(server)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket.absolute()}")
    await server.start()
    try:
        yield part
    finally:
        await part.stopping()
        await server.stop(grace=None)
        socket.unlink(missing_ok=True)
