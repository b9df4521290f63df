"""grpc.health.v1 of a part."""

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secure_mcp_grpc.health import Health, serve_health


async def status(socket: Path) -> str:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_a_part_does_not_serve_until_it_says_so(tmp_path: Path) -> None:
    """Ours: nothing starts out well; and a part that stops stays stopped."""
    socket = tmp_path / "part.sock"
    async with serve_health(socket) as health:
        assert isinstance(health, Health)
        before = await status(socket)
        await health.serving()
        during = await status(socket)
        await health.stopping()
        await health.serving()
        after = await status(socket)

    assert (before, during, after) == ("NOT_SERVING", "SERVING", "NOT_SERVING")
    assert not socket.exists()
