"""Wires the sink: store, batch writer, gRPC server, health, metrics; and stops them in order."""

import asyncio
import logging
import time

import grpc

from secure_mcp_grpc import lifecycle, logs, metrics
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.health import Health
from trace_sink.batches import BatchWriter, Limits
from trace_sink.clickhouse import ClickHouse, Target, keep_lean, read_target
from trace_sink.metrics import SinkMetrics
from trace_sink.servicer import AccessLogServicer
from trace_sink.settings import SinkSettings

__all__ = ["PART", "run"]

PART = "sink"
logger = logging.getLogger(__name__)

_DRAIN_S = 0.8
_FLUSH_S = 1.5
_MAX_MESSAGE_BYTES = 64 << 20


async def run(settings: SinkSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and flush within three seconds."""
    started_us = time.time_ns() // 1000
    stop = lifecycle.stop_event()
    run_dir = lifecycle.private_directory(settings.run_dir)
    socket_path = lifecycle.socket_path(run_dir, PART)
    url = _url(settings)
    read_target(url, None)  # a URL that cannot be read stops the start
    keep_lean()
    registry = metrics.new_registry(PART)
    sink_metrics = SinkMetrics(registry)
    store = ClickHouse(lambda: _target(url, settings))
    limits = Limits(
        batch_rows=settings.batch_rows,
        batch_delay_s=settings.batch_delay_s,
        urged_delay_s=settings.urged_delay_s,
        pending_rows=settings.max_pending_rows,
        pending_bytes=settings.max_pending_mib << 20,
    )
    writer = BatchWriter(store, sink_metrics, limits, started_us=started_us)
    health = Health()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)])
    AccessLogServicer(writer, sink_metrics, settings.trust_domains[0]).add_to(server)
    health.add_to(server)
    with metrics.serve_metrics(registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address:
        socket_path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{socket_path.absolute()}")
        await server.start()
        writing = asyncio.create_task(writer.run())
        watching = asyncio.create_task(_watch(writer, health))
        lifecycle.announce(run_dir, PART, {"grpc": f"unix:{socket_path.absolute()}", "metrics": metrics_address})
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, writing], return_when=asyncio.FIRST_COMPLETED)

        lifecycle.withdraw(run_dir, PART)
        watching.cancel()
        stopping.cancel()
        await asyncio.wait([watching, stopping])
        await health.stopping()
        await server.stop(grace=_DRAIN_S)
        socket_path.unlink(missing_ok=True)
        lost = await writer.close(writing, timeout_s=_FLUSH_S)
        if lost:
            logs.event(logger, logging.WARNING, "rows_lost", rows=lost)
        await asyncio.to_thread(store.close)
    if not writing.cancelled() and (error := writing.exception()):
        raise error


async def _watch(writer: BatchWriter, health: Health) -> None:
    """SERVING while the sink takes entries: the store is there, or there is room to hold them."""
    serving = None
    while True:
        able = writer.store_up or writer.has_room()
        if able != serving:
            await (health.serving() if able else health.not_serving())
            serving = able
        await asyncio.sleep(0.2)


def _url(settings: SinkSettings) -> str:
    if settings.clickhouse_url_file is None:
        return settings.clickhouse_url.get_secret_value()
    try:
        return settings.clickhouse_url_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"clickhouse_url_file {settings.clickhouse_url_file} cannot be read") from None


def _target(url: str, settings: SinkSettings) -> Target:
    return read_target(url, settings.clickhouse_password_file)
