"""The access log service (ALS v3): streams in, rows to the batch writer, acknowledgements out.

Envoy's streams never end. Our own senders end each stream and take the
response as the acknowledgement, which is given when all its rows are durable.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import grpc
from envoy.service.accesslog.v3 import als_pb2

from secure_mcp_grpc import headers, logs
from trace_sink import rows, wire
from trace_sink.batches import BatchWriter, Durable
from trace_sink.metrics import SinkMetrics, log_label
from trace_sink.tables import TableRow

__all__ = ["AccessLogServicer"]

logger = logging.getLogger(__name__)

SERVICE = "envoy.service.accesslog.v3.AccessLogService"
_OWN_LOGS = frozenset({headers.LOG_AUTHZ, headers.LOG_BRIDGE})
_ACKNOWLEDGED: bytes = als_pb2.StreamAccessLogsResponse().SerializeToString()


class AccessLogServicer:
    """Handles bytes, so that one entry which is not UTF-8 does not cost a message."""

    def __init__(self, writer: BatchWriter, metrics: SinkMetrics, trust_domain: str) -> None:
        self._writer = writer
        self._metrics = metrics
        self._trust_domain = trust_domain
        self._stopping = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        handler = grpc.stream_unary_rpc_method_handler(self.StreamAccessLogs)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": handler})])

    async def StreamAccessLogs(
        self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        """One stream; its first message says which log of which node it is."""
        log_name = node = ""
        durable: Durable | None = None
        with self._metrics.streams.track_inprogress():
            try:
                async for raw in messages:
                    decoded = wire.decode(raw)
                    if decoded.log_name is not None:
                        log_name, node = decoded.log_name, decoded.node
                    if log_name in _OWN_LOGS:
                        await self._writer.wait_for_room()
                    durable = self._take(decoded, log_name, node) or durable
            except Exception:  # noqa: BLE001 - top of the servicer: the sender keeps what was not acknowledged
                logs.event(logger, logging.ERROR, "stream_failed", log=log_label(log_name))
                await context.abort(grpc.StatusCode.INTERNAL, "the sink failed; see its log")
            if durable is not None:
                self._writer.urge()
                await asyncio.shield(durable)
        return _ACKNOWLEDGED

    def _take(self, decoded: wire.Decoded, log_name: str, node: str) -> Durable | None:
        """Hand a message's rows to the writer; None where Envoy's are dropped for want of room, and counted."""
        label = log_label(log_name)
        number = len(decoded.entries) + len(decoded.damaged)
        self._metrics.entries.labels(label).inc(number)
        if not self._writer.has_room():
            self._metrics.dropped.labels(label).inc(number)
            return None
        source = rows.Source(log_name, node, time.time_ns() // 1000, self._trust_domain)
        made = [row for entry in decoded.entries if (row := rows.row(entry, source)) is not None]
        self._metrics.skipped.labels(label).inc(len(decoded.entries) - len(made))
        made += [rows.dead_letter(item.raw, item.reason, source) for item in decoded.damaged]
        self._count_dead(made)
        return self._writer.put(made, log_name)

    def _count_dead(self, made: list[TableRow]) -> None:
        for row in made:
            if row.table == "dead_letters":
                self._metrics.dead_letters.labels(row.values[3]).inc()
