"""The batch writer against a store that fails on purpose."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Sequence

from prometheus_client import CollectorRegistry

from trace_sink.batches import BatchWriter, Limits
from trace_sink.clickhouse import Refused, StoreAway
from trace_sink.metrics import SinkMetrics
from trace_sink.tables import COLUMNS, Row, TableRow

DAY_US = 86_400_000_000
FAST = Limits(batch_rows=100, batch_delay_s=0.02, urged_delay_s=0.0, pending_rows=50)


class FakeStore:
    """Keeps batches in memory; `fail` makes the next calls fail, before or after they took effect."""

    def __init__(self) -> None:
        self.batches: dict[uuid.UUID, tuple[str, list[Row]]] = {}
        self.fail_before = 0
        self.fail_after = 0
        self.poison: object = None
        self.open = threading.Event()
        self.open.set()
        self.stored: set[Row] = set()

    def rows(self, table: str) -> list[Row]:
        return [row for name, rows in self.batches.values() if name == table for row in rows]

    def connect(self) -> None:
        return

    def insert(self, table: str, rows: Sequence[Row], batch_id: uuid.UUID) -> None:
        if not self.open.is_set() or self.fail_before:
            self.fail_before = max(0, self.fail_before - 1)
            raise StoreAway("away")
        if any(self.poison in row for row in rows) and table != "dead_letters":
            raise Refused(6)
        assert batch_id not in self.batches, "a batch was sent twice"
        self.batches[batch_id] = (table, list(rows))
        if self.fail_after:
            self.fail_after -= 1
            raise StoreAway("the connection broke after the insert")

    def count(self, table: str, batch_id: uuid.UUID) -> int:
        return len(self.batches[batch_id][1]) if batch_id in self.batches else 0

    def stored_keys(self, table: str, rows: Sequence[Row]) -> set[Row]:
        return self.stored


@contextlib.asynccontextmanager
async def running(store: FakeStore, limits: Limits = FAST, started_us: int = 0) -> AsyncIterator[BatchWriter]:
    writer = BatchWriter(store, SinkMetrics(CollectorRegistry()), limits, started_us=started_us)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        store.open.set()
        await writer.close(task, timeout_s=5)


def row(number: int, *, day: int = 0, table: str = "handshakes") -> TableRow:
    values = (day * DAY_US + number, *[f"v{number}"] * (len(COLUMNS[table]) - 1))
    return TableRow(table, values, 10)


def record(seq: int, ts: int = 1) -> TableRow:
    values = (ts, "chain", seq, *[""] * (len(COLUMNS["decisions"]) - 3))
    return TableRow("decisions", values, 10, digest=seq.to_bytes(16, "big"))


async def test_future_ends_when_the_rows_are_stored() -> None:
    """Ours: durable before acknowledged."""
    store = FakeStore()
    async with running(store) as writer:
        durable = writer.put([row(1), row(2)], "x")
        assert not store.batches
        await asyncio.wait_for(durable, 5)
        assert len(store.rows("handshakes")) == 2
    assert writer.pending_rows == 0


async def test_failed_insert_is_repeated_until_it_is_in() -> None:
    """Ours: nothing accepted is lost."""
    store = FakeStore()
    store.fail_before = 2
    async with running(store) as writer:
        await asyncio.wait_for(writer.put([row(1)], "x"), 5)
        assert len(store.rows("handshakes")) == 1


async def test_insert_whose_answer_was_lost_is_not_doubled() -> None:
    """Ours: count() where batch_id before a retry."""
    store = FakeStore()
    store.fail_after = 1
    async with running(store) as writer:
        await asyncio.wait_for(writer.put([row(1)], "x"), 5)
        assert len(store.rows("handshakes")) == 1


async def test_record_sent_twice_is_stored_once_and_acknowledged_twice() -> None:
    """Ours: a sender resends what it has no acknowledgement for; the second must not be given early."""
    store = FakeStore()
    store.open.clear()
    async with running(store) as writer:
        first = writer.put([record(1), record(2)], "mcp.authz")
        await asyncio.sleep(0.1)
        again = writer.put([record(1), record(2), record(3)], "mcp.authz")
        repeated = writer.put([record(1)], "mcp.authz")
        await asyncio.sleep(0.1)
        assert not first.done()
        assert not again.done()
        assert not repeated.done()
        store.open.set()
        await asyncio.wait_for(asyncio.gather(first, again, repeated), 10)
        assert sorted(values[2] for values in store.rows("decisions")) == [1, 2, 3]


async def test_record_stored_by_the_process_before_is_not_stored_again() -> None:
    """Ours: the acknowledgement was lost with the process that would have sent it."""
    store = FakeStore()
    store.stored = {("chain", 1)}
    async with running(store, started_us=100) as writer:
        await asyncio.wait_for(writer.put([record(1), record(2), record(3, ts=200)], "mcp.authz"), 5)
        assert sorted(values[2] for values in store.rows("decisions")) == [2, 3]


async def test_row_that_the_store_refuses_becomes_a_dead_letter_and_costs_no_other() -> None:
    """Ours: one poisoned row must not hold up the rest for ever."""
    store = FakeStore()
    store.poison = "v3"
    async with running(store) as writer:
        await asyncio.wait_for(writer.put([row(i) for i in range(8)], "x"), 5)
        assert sorted(values[0] for values in store.rows("handshakes")) == [0, 1, 2, 4, 5, 6, 7]
        assert [values[3] for values in store.rows("dead_letters")] == ["refused_6"]


async def test_a_batch_is_one_table_and_one_day() -> None:
    """Ours: one batch = one part; an insert over two days would be two."""
    store = FakeStore()
    async with running(store) as writer:
        rows = [row(1), row(2, day=1), row(3), row(4, table="requests")]
        await asyncio.wait_for(writer.put(rows, "x"), 5)
    assert sorted(len(values) for _, values in store.batches.values()) == [1, 1, 2]


async def test_memory_is_bounded_and_room_comes_back() -> None:
    """Ours: back-pressure while the store is away."""
    store = FakeStore()
    store.open.clear()
    async with running(store) as writer:
        durable = writer.put([row(i) for i in range(60)], "x")
        assert not writer.has_room()
        waiting = asyncio.create_task(writer.wait_for_room())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.open.set()
        await asyncio.wait_for(waiting, 10)
        assert durable.done()


async def test_close_writes_what_is_held() -> None:
    """Ours: drain, then flush, then close."""
    store = FakeStore()
    slow = Limits(batch_delay_s=60)
    async with running(store, slow) as writer:
        durable = writer.put([row(1)], "x")
    assert durable.done()
    assert len(store.rows("handshakes")) == 1


async def test_close_gives_up_in_time_and_says_what_was_lost() -> None:
    """Ours: stopping takes bounded time also without a store."""
    store = FakeStore()
    store.fail_before = 1_000_000
    writer = BatchWriter(store, SinkMetrics(CollectorRegistry()), FAST, started_us=0)
    task = asyncio.create_task(writer.run())
    writer.put([row(1), row(2)], "x")

    assert await writer.close(task, timeout_s=0.3) == 2
