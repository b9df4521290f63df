"""Rows on their way into the store: bounded memory, one batch at a time, durable exactly once.

The servicer puts rows in and gets a future that ends when they are durable.
One task takes them out in batches, writes them, and repeats a batch until the
store has it; before each repetition it asks whether the store has it already.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from secure_mcp_grpc import lifecycle, logs
from trace_sink.clickhouse import Refused, StoreAway
from trace_sink.metrics import SinkMetrics, log_label
from trace_sink.tables import COLUMNS, KEYS, Row, TableRow

__all__ = ["BatchWriter", "Durable", "Limits", "Store"]

logger = logging.getLogger(__name__)
T = TypeVar("T")
Durable = asyncio.Future[None]

_PATIENCE_S = 3.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0
_REMEMBERED_RECORDS = 200_000
_DAY_US = 86_400 * 1_000_000


class Store(Protocol):
    """What a batch is written to; `clickhouse.ClickHouse`, or a stand-in that fails on purpose."""

    def connect(self) -> None: ...
    def insert(self, table: str, rows: Sequence[Row], batch_id: uuid.UUID) -> None: ...
    def count(self, table: str, batch_id: uuid.UUID) -> int: ...
    def stored_keys(self, table: str, rows: Sequence[Row]) -> set[Row]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is written and how much may wait; see `settings.SinkSettings`."""

    batch_rows: int = 10_000
    batch_bytes: int = 8 << 20
    batch_delay_s: float = 0.5
    urged_delay_s: float = 0.1
    pending_rows: int = 100_000
    pending_bytes: int = 64 << 20


@dataclass(slots=True)
class _Batch:
    durable: Durable
    rows: list[TableRow] = field(default_factory=list)
    size_bytes: int = 0
    began: float = 0.0
    urged: bool = False


class BatchWriter:
    """Takes rows from the event loop and writes them from a thread; `run` must be running."""

    def __init__(self, store: Store, metrics: SinkMetrics, limits: Limits, *, started_us: int) -> None:
        """`started_us`: when this process began; records older than that may have been stored by the one before."""
        self._store = store
        self._metrics = metrics
        self._limits = limits
        self._started_us = started_us
        self._open: _Batch | None = None
        self._closed_batches: list[_Batch] = []
        self._writing: _Batch | None = None
        self._pending_rows = 0
        self._pending_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._answered = False
        self._asked_at: float | None = None
        metrics.store_up.set_function(lambda: float(self.store_up))

    @property
    def store_up(self) -> bool:
        """Whether the store answered last, and does not keep us waiting now.

        A store that died behind a socket of the supervisor still takes connections; it only never answers.
        """
        waiting = self._asked_at is not None and time.monotonic() - self._asked_at > _PATIENCE_S
        return self._answered and not waiting

    @property
    def pending_rows(self) -> int:
        return self._pending_rows

    def has_room(self) -> bool:
        return self._pending_rows < self._limits.pending_rows and self._pending_bytes < self._limits.pending_bytes

    async def wait_for_room(self) -> None:
        """Back-pressure: returns when there is room for more."""
        while not self.has_room():
            self._room.clear()
            await self._room.wait()

    def put(self, rows: Iterable[TableRow], log_name: str) -> Durable:
        """Take rows; the future ends when they, and all taken before, are durable. Records seen before are left out."""
        batch: _Batch | None = None
        for row in rows:
            if row.digest is not None and self._seen_before(row.digest):
                self._metrics.repeated.labels(log_label(log_name)).inc()
                continue
            batch = self._batch_for(row)
            batch.rows.append(row)
            batch.size_bytes += row.size_bytes
            self._pending_rows += 1
            self._pending_bytes += row.size_bytes
        self._report()
        last = batch or self._open or (self._closed_batches[-1] if self._closed_batches else self._writing)
        return last.durable if last else _done()

    def urge(self) -> None:
        """A sender waits for its acknowledgement: write soon."""
        if self._open:
            self._open.urged = True
            self._changed.set()

    async def close(self, task: asyncio.Task[None], *, timeout_s: float) -> int:
        """Write what is held, in `timeout_s` seconds, and end `task` (of `run`); returns how many rows were lost."""
        self._closing = True
        self._changed.set()
        await lifecycle.finish(task, timeout_s=timeout_s)
        return self._pending_rows

    async def run(self) -> None:
        """Connect, then write batches until `close`; returns when nothing is held any more."""
        await self._until_done(self._store.connect)
        while (batch := await self._next_batch()) is not None:
            self._writing = batch
            for table, rows in _parts(batch.rows):
                await self._write_part(table, rows)
            self._writing = None
            self._pending_rows -= len(batch.rows)
            self._pending_bytes -= batch.size_bytes
            batch.durable.set_result(None)
            self._room.set()
            self._report()

    async def _next_batch(self) -> _Batch | None:
        """The oldest batch once it is full or has waited long enough; None when closing and nothing is left."""
        while True:
            if self._closed_batches:
                return self._closed_batches.pop(0)
            self._changed.clear()
            if self._open is None:
                if self._closing:
                    return None
                await self._changed.wait()
                continue
            delay_s = self._limits.urged_delay_s if self._open.urged else self._limits.batch_delay_s
            left_s = self._open.began + delay_s - time.monotonic()
            if left_s <= 0 or self._closing:
                batch, self._open = self._open, None
                return batch
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _batch_for(self, row: TableRow) -> _Batch:
        batch = self._open
        if batch and (
            len(batch.rows) >= self._limits.batch_rows or batch.size_bytes + row.size_bytes > self._limits.batch_bytes
        ):
            self._closed_batches.append(batch)
            self._changed.set()
            batch = None
        if batch is None:
            batch = self._open = _Batch(asyncio.get_running_loop().create_future(), began=time.monotonic())
            self._changed.set()
        return batch

    async def _write_part(self, table: str, rows: list[Row]) -> None:
        """Write rows of one table and day, which the store takes as one part, whole or not at all."""
        rows = await self._without_stored(table, rows)
        if not rows:
            return
        batch_id = uuid.uuid4()
        attempted = False

        def attempt() -> None:
            nonlocal attempted
            if attempted and self._store.count(table, batch_id):
                return
            attempted = True
            with self._metrics.insert_seconds.time():
                self._store.insert(table, rows, batch_id)

        try:
            await self._until_done(attempt)
        except Refused as error:
            await self._write_apart(table, rows, error)
        else:
            self._metrics.inserted.labels(table).inc(len(rows))

    async def _write_apart(self, table: str, rows: list[Row], error: Refused) -> None:
        """Some row is not acceptable: find it by halves, and keep it as a dead letter."""
        logs.event(logger, logging.WARNING, "rows_refused", table=table, rows=len(rows), code=error.code)
        if len(rows) > 1:
            middle = len(rows) // 2
            await self._write_part(table, rows[:middle])
            await self._write_part(table, rows[middle:])
        elif table != "dead_letters":
            raw = repr(dict(zip(COLUMNS[table], rows[0], strict=True))).encode()
            self._metrics.dead_letters.labels("refused").inc()
            await self._write_part("dead_letters", [(rows[0][0], table, "", f"refused_{error.code}", raw)])
        else:
            self._metrics.dropped.labels("other").inc()

    async def _without_stored(self, table: str, rows: list[Row]) -> list[Row]:
        """`rows` without those that a process before this one stored, and whose acknowledgement was lost."""
        if table not in KEYS:
            return rows
        old = [row for row in rows if row[0] < self._started_us]
        if not old:
            return rows
        stored = await self._until_done(lambda: self._store.stored_keys(table, old))
        at = [COLUMNS[table].index(name) for name in KEYS[table]]
        fresh = [row for row in rows if row[0] >= self._started_us or tuple(row[i] for i in at) not in stored]
        self._metrics.repeated.labels(f"mcp.{'authz' if table == 'decisions' else 'bridge'}").inc(
            len(rows) - len(fresh)
        )
        return fresh

    async def _until_done(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread until the store is there for it; waits longer each time."""
        delay_s = _FIRST_RETRY_S
        while True:
            self._asked_at = time.monotonic()
            try:
                result = await asyncio.to_thread(function)
            except StoreAway as error:
                self._answered = False
                self._metrics.insert_failures.inc()
                logs.event(logger, logging.WARNING, "store_away", reason=str(error), pending=self._pending_rows)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LAST_RETRY_S)
            else:
                self._answered = True
                return result
            finally:
                self._asked_at = None

    def _seen_before(self, digest: bytes) -> bool:
        if digest in self._seen:
            return True
        self._seen[digest] = None
        if len(self._seen) > _REMEMBERED_RECORDS:
            self._seen.popitem(last=False)
        return False

    def _report(self) -> None:
        self._metrics.pending_rows.set(self._pending_rows)
        self._metrics.pending_bytes.set(self._pending_bytes)


def _parts(rows: list[TableRow]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by table and day: tables are partitioned by day, and an insert that touches two days makes two parts."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.table, row.values[0] // _DAY_US), []).append(row.values)
    for (table, _), values in groups.items():
        yield table, values


def _done() -> Durable:
    future: Durable = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
