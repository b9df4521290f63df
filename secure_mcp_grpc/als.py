"""Sending our own records to trace_sink over Envoy's gRPC access log service (ALS).

Envoy sends its entries on one endless stream and never waits. We open one
stream per batch, close our side, and take the response as the acknowledgement:
the sink answers only once the batch is durable. What is not acknowledged is
sent again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from itertools import islice

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from secure_mcp_grpc import headers, lifecycle, logs

__all__ = ["METHOD", "AlsSender", "Record", "message", "send_batch", "send_messages", "sink_channel"]

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
logger = logging.getLogger(__name__)

Record = tuple[int, bytes]
"""Start time in nanoseconds since the epoch, and the record's JSON."""

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0


def sink_channel(address: str) -> grpc.aio.Channel:
    """A channel that notices within a second or two that the sink is back."""
    return grpc.aio.insecure_channel(
        address,
        options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)],
    )


def message(log_name: str, node_id: str, records: Iterable[Record]) -> als_pb2.StreamAccessLogsMessage:
    """One ALS message with an entry for each record."""
    batch = als_pb2.StreamAccessLogsMessage(
        identifier=als_pb2.StreamAccessLogsMessage.Identifier(
            log_name=log_name, node=base_pb2.Node(id=node_id, cluster="secure-mcp-grpc")
        )
    )
    for time_ns, record in records:
        entry: accesslog_pb2.HTTPAccessLogEntry = batch.http_logs.log_entry.add()
        entry.common_properties.start_time.FromNanoseconds(time_ns)
        entry.common_properties.custom_tags[headers.RECORD_TAG] = record.decode()
    return batch


async def send_batch(
    channel: grpc.aio.Channel, log_name: str, node_id: str, records: Sequence[Record], *, timeout_s: float = 10.0
) -> None:
    """Send `records` and wait until the sink has made them durable; raises `grpc.aio.AioRpcError` otherwise."""

    async def only() -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
        yield message(log_name, node_id, records)

    await send_messages(channel, only(), timeout_s=timeout_s)


async def send_messages(
    channel: grpc.aio.Channel, messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], *, timeout_s: float = 10.0
) -> None:
    """Send `messages` on one stream and wait until the sink has made them durable.

    Raises `grpc.aio.AioRpcError` otherwise, and whatever `messages` raises.
    """
    method = channel.stream_unary(
        METHOD,
        request_serializer=als_pb2.StreamAccessLogsMessage.SerializeToString,
        response_deserializer=als_pb2.StreamAccessLogsResponse.FromString,
    )
    call = method(None, timeout=timeout_s)
    try:
        with suppress(asyncio.InvalidStateError):  # it ended before its time: the answer says why
            async for each in messages:
                await call.write(each)
            await call.done_writing()
        await call
    finally:
        call.cancel()


class AlsSender:
    """Holds records in memory and sends them in acknowledged batches, in order.

    At most `max_pending` records of `max_pending_bytes` are held; further ones
    are refused by `offer` and counted in `refused`, so that a sink that stays
    away costs bounded memory and the loss is known.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        log_name: str,
        node_id: str,
        *,
        max_pending: int = 100_000,
        max_pending_bytes: int = 128 << 20,
        max_batch: int = 1_000,
        max_batch_bytes: int = 8 << 20,
        max_delay_s: float = 0.5,
    ) -> None:
        self._channel = channel
        self._log_name = log_name
        self._node_id = node_id
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._max_delay_s = max_delay_s
        self._pending: deque[Record] = deque()
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self.acknowledged = 0
        self.refused = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    def offer(self, time_ns: int, record: bytes) -> bool:
        """Take a record for sending; False when there is no room for it."""
        if len(self._pending) >= self._max_pending or self._pending_bytes + len(record) > self._max_pending_bytes:
            self.refused += 1
            return False
        self._pending.append((time_ns, record))
        self._pending_bytes += len(record)
        self._arrived.set()
        return True

    async def run(self) -> None:
        """Send until `close`; ends when everything held is acknowledged."""
        retry_s = _FIRST_RETRY_S
        while True:
            if not self._pending:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                if not self._closing:
                    await asyncio.sleep(self._max_delay_s)
                continue
            batch = self._next_batch()
            try:
                await send_batch(self._channel, self._log_name, self._node_id, batch)
            except grpc.aio.AioRpcError as error:
                logs.event(logger, logging.WARNING, "sink_away", code=error.code().name, pending=len(self._pending))
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
                continue
            for _ in batch:
                self._pending_bytes -= len(self._pending.popleft()[1])
            self.acknowledged += len(batch)
            retry_s = _FIRST_RETRY_S

    def _next_batch(self) -> list[Record]:
        """The oldest records, as many as one message may hold; at least one."""
        room = self._max_batch_bytes
        batch: list[Record] = []
        for record in islice(self._pending, self._max_batch):
            room -= len(record[1])
            if room < 0 and batch:
                break
            batch.append(record)
        return batch

    async def close(self, task: asyncio.Task[None], *, timeout_s: float) -> int:
        """Flush what is held within `timeout_s` seconds, end `task` (which runs `run`); returns how many were lost."""
        self._closing = True
        self._arrived.set()
        await lifecycle.finish(task, timeout_s=timeout_s)
        return len(self._pending)
