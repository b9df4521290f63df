"""The bridge as a process: wiring, start and stop."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from mcp_bridge.assemble import build_upstream, owner_in
from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.otlp import exporting
from mcp_bridge.exchange import Upstream
from mcp_bridge.execute import Executor
from mcp_bridge.guards import Guard
from mcp_bridge.listing import PolicyLists, authz_channel
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.plain_serving import serving_plain_http
from mcp_bridge.protect.build import protect_guards
from mcp_bridge.recording import Recorder
from mcp_bridge.reflection import reflection_routes
from mcp_bridge.serving import Routes, new_server
from mcp_bridge.sessions import Sessions
from mcp_bridge.settings import BridgeSettings
from mcp_bridge.streams import watching_streams
from mcp_bridge.transport_service import TransportService
from mcp_bridge.typed.service import TypedService
from secure_mcp_grpc import lifecycle, logs
from secure_mcp_grpc.als import AlsSender, sink_channel
from secure_mcp_grpc.headers import LOG_BRIDGE
from secure_mcp_grpc.health import Health
from secure_mcp_grpc.metrics import new_registry, serve_metrics

__all__ = ["routes_of", "run", "serve"]

logger = logging.getLogger(__name__)

PART = "bridge"
_DRAIN_S = 1.0
_FLUSH_S = 0.8
_CLOSE_S = 1.1


def routes_of(executor: Executor) -> list[Routes]:
    """Every gRPC service of the bridge."""
    return [TransportService(executor).routes(), TypedService(executor).routes()]


async def run(settings: BridgeSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    await serve(settings, None, lifecycle.stop_event())


async def serve(settings: BridgeSettings, given: Upstream | None, stopping: asyncio.Event) -> None:
    """Serve `given`, or the upstreams of the settings, until `stopping` is set.

    Then stop listening, drain, flush records, close upstreams.
    """
    run_dir = lifecycle.private_directory(settings.run_dir)
    socket = lifecycle.socket_path(run_dir, PART)
    registry = new_registry(PART)
    metrics = BridgeMetrics(registry)
    with serve_metrics(registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address:
        async with (
            _upstream(given or build_upstream(settings, metrics)) as upstream,
            _sender(settings) as sender,
            exporting(settings.otlp_endpoint, settings.node_id) as spans,
            _guards(settings, metrics, registry, upstream) as guards,
            AsyncExitStack() as closing,
        ):
            capture = build_capture(settings)
            sessions = Sessions(settings.max_sessions, settings.max_answer_bytes)
            executor = Executor(
                upstream,
                sessions,
                Recorder(sender.offer, metrics, capture, spans=spans, tells_upstream=settings.trace_upstream),
                guards,
                request_timeout_s=settings.request_timeout_s,
                max_answer_bytes=settings.max_answer_bytes,
            )
            metrics.watch(
                sessions=lambda: len(sessions),
                in_flight=lambda: executor.in_flight,
                pending=lambda: sender.pending,
                refused=lambda: sender.refused,
            )
            streams = await closing.enter_async_context(
                watching_streams(settings, settings.authz_address, executor, registry)
            )
            health = Health()
            routes = [*streams.over(routes_of(executor))]
            if settings.reflection:
                routes.append(reflection_routes(routes))
            server = new_server(
                routes,
                health=health,
                max_request_bytes=settings.max_request_bytes,
                max_answer_bytes=settings.max_answer_bytes,
            )
            await server.start(socket)
            stop_plain = await closing.enter_async_context(serving_plain_http(settings, routes))
            await health.serving()
            endpoints = {"grpc": f"unix:{socket.absolute()}", "metrics": metrics_address}
            if given is None:  # a process of our own
                gc.collect()
                gc.freeze()  # what is here now stays; looking through it again and again stops every call for 0.1 s
            lifecycle.announce(run_dir, PART, endpoints)
            reaping = asyncio.create_task(_reap(executor, settings.idle_s))
            await stopping.wait()
            reaping.cancel()
            lifecycle.withdraw(run_dir, PART)
            await health.stopping()
            executor.stop_streams()
            streams.stop()
            stop_plain()
            await server.stop(_DRAIN_S)
            socket.unlink(missing_ok=True)


@asynccontextmanager
async def _upstream(upstream: Upstream) -> AsyncIterator[Upstream]:
    try:
        await upstream.start()
        yield upstream
    finally:
        async with asyncio.timeout(_CLOSE_S + 1):
            await upstream.close()


@asynccontextmanager
async def _sender(settings: BridgeSettings) -> AsyncIterator[AlsSender]:
    """The way to the sink. Records that it does not confirm in time are lost, and said to be."""
    target = f"unix:{lifecycle.socket_path(settings.run_dir, 'sink').absolute()}"
    async with sink_channel(target) as channel:
        sender = AlsSender(channel, LOG_BRIDGE, settings.node_id, max_pending=settings.max_pending_records)
        sending = asyncio.create_task(sender.run(), name="records")
        try:
            yield sender
        finally:
            if lost := await sender.close(sending, timeout_s=_FLUSH_S):
                logs.event(logger, logging.WARNING, "records_lost", records=lost)


@asynccontextmanager
async def _guards(
    settings: BridgeSettings, metrics: BridgeMetrics, registry: CollectorRegistry, upstream: Upstream
) -> AsyncIterator[list[Guard]]:
    """What the settings put around each request, the outermost first."""
    protecting = protect_guards(settings, registry, max_list_bytes=settings.max_answer_bytes, owner=owner_in(upstream))
    if settings.list_filter == "off":
        logs.event(
            logger, logging.WARNING, "lists_not_filtered", setting="list_filter", effect="every caller sees every name"
        )
        yield protecting
        return
    default = f"unix:{lifecycle.socket_path(settings.run_dir, 'authz').absolute()}"
    async with authz_channel(settings.authz_address or default) as channel:
        yield [
            PolicyLists(
                channel,
                timeout_s=settings.authz_timeout_s,
                count=lambda result, items: metrics.list_items.labels(result).inc(items),
            ),
            *protecting,
        ]


async def _reap(executor: Executor, idle_s: float) -> None:
    while True:
        await asyncio.sleep(max(0.1, idle_s / 4))
        try:
            await executor.reap(idle_s)
        except Exception:  # noqa: BLE001 - the next round tries again; without it idle children would stay
            logs.event(logger, logging.ERROR, "reap_failed")
