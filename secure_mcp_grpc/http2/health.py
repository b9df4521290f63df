"""grpc.health.v1 for `Server`: the same truth that grpcio's servicer tells."""

from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from secure_mcp_grpc.health import Health
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.rpc import Streaming, Unary

__all__ = ["health_streaming", "health_unary"]

_SERVICE: Final = "/grpc.health.v1.Health/"


def health_unary(health: Health) -> dict[str, Unary]:
    """`Check`."""

    def check(message: bytes) -> bytes:
        status = health.status(_service_in(message))
        if status is None:
            raise RpcError(Status.NOT_FOUND, "there is no such service here")
        return _response(status)

    return {f"{_SERVICE}Check": check}


def health_streaming(health: Health) -> dict[str, Streaming]:
    """`Watch`: SERVICE_UNKNOWN is a status there, since the service may yet appear (grpc/doc/health-checking.md)."""

    async def watch(message: bytes) -> AsyncIterator[bytes]:
        async for status in health.watch(_service_in(message)):
            yield _response(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if status is None else status)

    return {f"{_SERVICE}Watch": watch}


def _service_in(message: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError:
        raise RpcError(Status.INVALID_ARGUMENT, "the request cannot be read") from None


def _response(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
