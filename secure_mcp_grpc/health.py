"""grpc.health.v1 of a part, on its Unix socket or beside its own services."""

import asyncio
from collections.abc import AsyncIterator, Mapping
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
        self._statuses: dict[str, int] = {"": health_pb2.HealthCheckResponse.NOT_SERVING}
        self._changed = asyncio.Event()
        self._stopping = False
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing from the stubs
        # grpcio's servicer says SERVING from the start, before anything could be served.
        self._servicer._server_status[""] = health_pb2.HealthCheckResponse.NOT_SERVING

    def status(self, service: str) -> int | None:
        """ServingStatus of `service`; None for one that nothing is known of."""
        return self._statuses.get(service)

    async def watch(self, service: str) -> AsyncIterator[int | None]:
        """`status` now, and whenever it changes, until the part stops."""
        told: int | None = -1
        while True:
            changed = self._changed
            status = self.status(service)
            if status != told:
                told = status
                yield status
            elif self._stopping:
                return
            else:
                await changed.wait()

    async def set_status(self, service: str, status: int) -> None:
        """`status` for `service`, unless the part is stopping."""
        if not self._stopping:
            self._tell({service: status})
            await self._servicer.set(service, status)

    def _tell(self, statuses: Mapping[str, int]) -> None:
        self._statuses |= statuses
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        await self.set_status("", health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        await self.set_status("", health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stopping(self) -> None:
        """NOT_SERVING from now on, whatever is set later."""
        self._stopping = True
        self._tell(dict.fromkeys(self._statuses, health_pb2.HealthCheckResponse.NOT_SERVING))
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
