"""What a running bridge does for streams beyond single calls: pipelined sessions, and an eye on all that stay open."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from mcp_bridge.execute import Executor
from mcp_bridge.frame_settings import FrameSettings
from mcp_bridge.judging import Judge
from mcp_bridge.listing import authz_channel
from mcp_bridge.serving import Routes
from mcp_bridge.session_service import SessionService
from mcp_bridge.standing import Standing
from mcp_bridge.throttle import Throttle
from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.limit_settings import LimitSettings

__all__ = ["Streams", "watching_streams"]


class StreamMetrics:
    """Declared once, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge(
            "mcp_bridge_streams", "Streams that are open (Stream, Listen, Session) and judged again.", registry=registry
        )
        self.ended = Counter(
            "mcp_bridge_streams_ended_total",
            "Streams ended before their time: refused by authz_service, or forsaken because it did not answer.",
            ["why"],
            registry=registry,
        )


class Streams:
    """Around the routes of the bridge's services."""

    def __init__(self, service: SessionService, standing: Standing) -> None:
        self._service = service
        self._standing = standing

    def over(self, services: Sequence[Routes]) -> list[Routes]:
        """`services` with pipelined sessions, their streams ended when they are refused."""
        return [*map(self._standing.over, services), self._service.routes()]

    def stop(self) -> None:
        """End every stream, as unavailable."""
        self._standing.stop()


@asynccontextmanager
async def watching_streams(
    settings: FrameSettings, authz_address: str, executor: Executor, registry: CollectorRegistry
) -> AsyncIterator[Streams]:
    """Asks authz_service at `authz_address`, or in `run_dir` if that is empty; limits are those of section `limits`."""
    limits = LimitSettings.load()
    default = f"unix:{lifecycle.socket_path(Path(settings.run_dir), 'authz').absolute()}"
    loop = asyncio.get_running_loop()
    address = authz_address or default
    async with authz_channel(address) as channel:
        judge = Judge(channel, timeout_s=settings.frame_timeout_s, address=address)
        metrics = StreamMetrics(registry)
        standing = Standing(
            judge,
            recheck_s=settings.recheck_s,
            grace_s=settings.recheck_grace_s,
            clock=loop.time,
            ended=lambda why: metrics.ended.labels(why).inc(),
        )
        metrics.open.set_function(lambda: float(len(standing)))
        throttle = Throttle(limits, loop.time)
        service = SessionService(executor, judge, standing, throttle, max_in_flight=settings.max_frames_in_flight)
        sweeping = asyncio.create_task(standing.run(), name="recheck")
        try:
            yield Streams(service, standing)
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])
            judge.close()
