"""gRPC server reflection, for development: lets grpcurl and the like list the bridge's services and their messages.

It answers on the bridge's private socket alone; Envoy has no route to it, and
authz_service refuses paths it does not know. `grpc.reflection.v1` and
`v1alpha` have the same messages (grpc/doc/server-reflection.md).
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final

from google.protobuf.message import DecodeError

from mcp_bridge.errors import malformed
from mcp_bridge.serving import Context, Routes
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.settings import CommonSettings

__all__ = ["ReflectionSettings", "reflection_routes"]

_VERSIONS: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class ReflectionSettings(CommonSettings):
    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    reflection: bool = False
    """Describe the bridge's gRPC services to tools such as grpcurl, on its private socket only. For development; needs
    the extra `reflection`."""


def reflection_routes(services: Sequence[Routes]) -> Routes:
    """Reflection of `services` and of itself; raises `UserError` where grpcio-reflection is not installed."""
    try:
        from grpc_reflection.v1alpha import reflection_pb2
        from grpc_reflection.v1alpha.reflection import aio  # type: ignore[attr-defined]  # missing in the stubs
    except ImportError:
        raise UserError("reflection needs grpcio-reflection: pip install 'secure-mcp-grpc[reflection]'") from None
    from mcp_grpc_transport_proto import mcp_pb2  # noqa: F401  # its services are known once it is imported

    from secure_mcp_grpc.v1 import mcp_transport_pb2  # noqa: F401  # as above

    paths = [path for one in services for path in (*one.calls, *one.streams, *one.sessions)]
    names = {path[1:].rpartition("/")[0] for path in paths}
    servicer: Any = aio.ReflectionServicer(names | set(_VERSIONS))  # type: ignore[attr-defined]  # as above

    async def parsed(questions: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for message in questions:
            try:
                yield reflection_pb2.ServerReflectionRequest.FromString(message)
            except DecodeError:
                raise malformed("this is no reflection request") from None

    async def info(questions: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for answer in servicer.ServerReflectionInfo(parsed(questions), context):
            yield answer.SerializeToString()

    return Routes(sessions={f"/{version}/ServerReflectionInfo": info for version in _VERSIONS})
