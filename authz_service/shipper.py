"""Ships the journal to trace_sink from a cursor kept on disk, in acknowledged batches; no crash loses a record.

The journal is the buffer: while the sink is away the cursor stays. A crash
between the acknowledgement and the cursor's rename sends one batch twice; its
records are the same to the byte, and (chain, seq) names them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

import grpc
from envoy.service.accesslog.v3 import als_pb2

from authz_service.journal_files import Position, read_cursor, read_lines, write_cursor
from authz_service.metrics import Metrics
from secure_mcp_grpc import als, headers, lifecycle, logs

__all__ = ["Shipper"]

logger = logging.getLogger(__name__)

_TS: Final = b'"ts":"'
_TS_LENGTH: Final = len("2026-11-20T21:40:00.123456Z")
_PIECE: Final = 200
"""Most records that are read and encoded at a time: less than a millisecond."""
_PIECE_BYTES: Final = 256 * 1024
_MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch ends behind the piece that reaches this."""
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0


class Shipper:
    """Follows the journal in `directory`."""

    def __init__(
        self,
        directory: Path,
        channel: grpc.aio.Channel,
        node_id: str,
        metrics: Metrics,
        *,
        max_batch: int,
        delay_s: float,
    ) -> None:
        self._directory = directory
        self._channel = channel
        self._node_id = node_id
        self._metrics = metrics
        self._max_batch = max_batch
        self._delay_s = delay_s
        self._written = asyncio.Event()
        self._closing = asyncio.Event()
        self.position = read_cursor(directory)
        """Everything before it is acknowledged."""
        self.unshipped = sum(1 for _ in _lines_after(directory, self.position))
        """Records that the sink has not acknowledged."""

    def written(self) -> None:
        """A record was written."""
        self.unshipped += 1
        if not self._written.is_set():
            self._written.set()

    async def run(self) -> None:
        """Ship until `close`; ends when everything written is acknowledged."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                shipped = await self._ship()
            except (grpc.aio.AioRpcError, OSError) as error:
                self._metrics.sink_failures.inc()
                cause = error.code().name if isinstance(error, grpc.aio.AioRpcError) else error.strerror
                if not self._closing.is_set():  # at the end it tries often, and the journal keeps what is left
                    logs.event(logger, logging.WARNING, "not_shipped", cause=cause, unshipped=self.unshipped)
                await self._pause(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
                continue
            retry_s = _FIRST_RETRY_S
            if not shipped:
                if self._closing.is_set():
                    return
                await self._wait()

    async def _ship(self) -> int:
        """Send the next batch and move the cursor behind it; returns how many records were in it."""
        batch = _Batch(self.position)
        if not batch.read(self._directory, self._max_batch):
            return 0
        await als.send_messages(self._channel, self._messages(batch))
        self.position = batch.position
        self.unshipped = max(0, self.unshipped - batch.records)
        self._metrics.journal_shipped.inc(batch.records)
        await asyncio.to_thread(write_cursor, self._directory, batch.position)
        return batch.records

    async def _messages(self, batch: "_Batch") -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
        """A batch in small pieces: between two of them, decisions are made."""
        while batch.lines:
            yield als.message(headers.LOG_AUTHZ, self._node_id, map(_entry, batch.lines))
            await asyncio.sleep(0)
            batch.read(self._directory, self._max_batch)

    async def close(self, task: asyncio.Task[None], *, timeout_s: float) -> None:
        """Ship what is left within `timeout_s` seconds, then end `task` (which runs `run`). The rest keeps."""
        self._closing.set()
        self._written.set()
        await lifecycle.finish(task, timeout_s=timeout_s)

    async def _wait(self) -> None:
        """Until something is written, and then a little longer so that records travel together."""
        await self._written.wait()
        await self._pause(self._delay_s)
        self._written.clear()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not while closing; then only as long as keeps this from being a busy loop."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, 0.05))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return


def _lines_after(directory: Path, position: Position) -> Iterator[bytes]:
    while True:
        lines, position = read_lines(directory, position, _MAX_BATCH_BYTES, 10_000)
        if not lines:
            return
        yield from lines


class _Batch:
    """What one stream carries: read piece by piece, and how far that went."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.records = 0
        self.lines: list[bytes] = []
        self._size_bytes = 0

    def read(self, directory: Path, most: int) -> bool:
        """The next piece into `lines`; False when there is no more, or enough."""
        self.lines = []
        left = min(_PIECE, most - self.records)
        if left > 0 and self._size_bytes < _MAX_BATCH_BYTES:
            self.lines, self.position = read_lines(directory, self.position, _PIECE_BYTES, left)
        self.records += len(self.lines)
        self._size_bytes += sum(map(len, self.lines))
        return bool(self.lines)


def _entry(line: bytes) -> als.Record:
    """The line and its time; a damaged line is shipped as it is, made text, for the sink to set aside."""
    try:
        line.decode()
        return _time_ns(line), line
    except ValueError:
        return 0, line.decode(errors="backslashreplace").encode()


def _time_ns(line: bytes) -> int:
    """The time in a record, 0 without one. Raises `ValueError`."""
    start = line.find(_TS) + len(_TS)
    text = line[start : start + _TS_LENGTH]
    if start < len(_TS) or text[-1:] != b"Z" or text[19:20] != b".":
        return 0
    return (_seconds(text[:19]) * 1_000_000 + int(text[20:26])) * 1000


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int:
    return int(datetime.fromisoformat(f"{text.decode()}+00:00").timestamp())
