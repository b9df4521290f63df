"""The shipper: every record reaches the sink, whatever dies in between."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2
from prometheus_client import CollectorRegistry

from authz_service import shipper
from authz_service.journal import Journal
from authz_service.journal_files import read_cursor
from authz_service.metrics import Metrics
from authz_service.shipper import Shipper, _entry
from secure_mcp_grpc import als
from secure_mcp_grpc.records import DecisionRecord


class Sink:
    """A real ALS server that keeps what it acknowledges."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.batches: list[int] = []
        self.streams = 0
        self.log_names: set[str] = set()
        self.starts_ns: list[int] = []
        self.refuse = False
        self.arrived = asyncio.Condition()

    async def stream(self, messages: AsyncIterable[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        received = [als_pb2.StreamAccessLogsMessage.FromString(message) async for message in messages]
        if self.refuse:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not durable")
        self.streams += 1
        for message in received:
            self.log_names.add(message.identifier.log_name)
            self.batches.append(len(message.http_logs.log_entry))
            for entry in message.http_logs.log_entry:
                self.lines.append(entry.common_properties.custom_tags["record"])
                self.starts_ns.append(entry.common_properties.start_time.ToNanoseconds())
        async with self.arrived:
            self.arrived.notify_all()
        return als_pb2.StreamAccessLogsResponse().SerializeToString()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.lines) >= count)


@asynccontextmanager
async def serving(sink: Sink, socket: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    service, method = als.METHOD[1:].split("/")
    handler = grpc.stream_unary_rpc_method_handler(sink.stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)
        socket.unlink(missing_ok=True)


@asynccontextmanager
async def shipping(journal: Journal, directory: Path, socket: Path, **options: float) -> AsyncIterator[Shipper]:
    channel = als.sink_channel(f"unix:{socket}")
    settings = {"max_batch": 100, "delay_s": 0.01, **options}
    shipper = Shipper(
        directory,
        channel,
        "node",
        Metrics(CollectorRegistry()),
        max_batch=int(settings["max_batch"]),
        delay_s=settings["delay_s"],
    )
    journal.on_append = shipper.written
    task = asyncio.create_task(shipper.run())
    try:
        yield shipper
    finally:
        await shipper.close(task, timeout_s=0.3)
        await channel.close(grace=None)


def append(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.append(
            DecisionRecord(chain="", seq=0, ts="2026-11-20T21:40:00.123456Z", decision="deny", tool=f"tool-{number} ä")
        )


async def acknowledged(shipper: Shipper) -> None:
    async with asyncio.timeout(10):
        while shipper.unshipped:
            await asyncio.sleep(0.01)


def journal_lines(directory: Path) -> list[str]:
    return [line for path in sorted(directory.glob("journal-*")) for line in path.read_text().splitlines()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def test_sink_gets_the_journal_byte_for_byte(journal: Journal, directory: Path, short_dir: Path) -> None:
    """Ours: custom_tags["record"] is the journal line, and the entry starts when the decision was made."""
    sink = Sink()
    async with serving(sink, short_dir / "s"), shipping(journal, directory, short_dir / "s") as shipper:
        append(journal, 250)
        await sink.has(251)

    assert sink.lines == journal_lines(directory)
    assert sink.log_names == {"mcp.authz"}
    assert max(sink.batches) <= 100
    assert sink.starts_ns[-1] % 10**9 == 123456000
    assert shipper.unshipped == 0


async def test_records_written_while_the_sink_is_away_arrive_later(
    journal: Journal, directory: Path, short_dir: Path
) -> None:
    """Issue 2: kill -9 of the sink loses nothing."""
    sink = Sink()
    async with shipping(journal, directory, short_dir / "s") as shipper:
        append(journal, 5)
        async with serving(sink, short_dir / "s"):
            await sink.has(6)
            await acknowledged(shipper)  # what a stopping sink took but did not acknowledge would come twice
        append(journal, 5)
        assert shipper.unshipped == 5
        async with serving(sink, short_dir / "s"):
            await sink.has(11)

    assert sink.lines == journal_lines(directory)


async def test_what_is_not_acknowledged_is_sent_again(journal: Journal, directory: Path, short_dir: Path) -> None:
    """Ours: only the sink's answer moves the cursor."""
    sink = Sink()
    sink.refuse = True
    async with serving(sink, short_dir / "s"), shipping(journal, directory, short_dir / "s") as shipper:
        append(journal, 5)
        await asyncio.sleep(0.05)
        assert shipper.unshipped == 6
        assert not (directory / "cursor.json").exists()
        sink.refuse = False
        await sink.has(6)

    assert sink.lines == journal_lines(directory)


async def test_restart_goes_on_behind_the_last_acknowledgement(
    journal: Journal, directory: Path, short_dir: Path
) -> None:
    """Ours: the cursor survives the process; nothing is lost and nothing sent twice after a clean acknowledgement."""
    sink = Sink()
    async with serving(sink, short_dir / "s"):
        async with shipping(journal, directory, short_dir / "s"):
            append(journal, 5)
            await sink.has(6)
        append(journal, 5)
        async with shipping(journal, directory, short_dir / "s") as shipper:
            assert shipper.unshipped == 5
            await sink.has(11)

    assert sink.lines == journal_lines(directory)
    assert json.loads((directory / "cursor.json").read_text())["file"] == read_cursor(directory).file == 1


async def test_unreadable_cursor_starts_over(journal: Journal, directory: Path, short_dir: Path) -> None:
    """Ours: twice is better than never."""
    (directory / "cursor.json").write_text('{"file": "x"')
    sink = Sink()
    async with serving(sink, short_dir / "s"), shipping(journal, directory, short_dir / "s"):
        await sink.has(1)


async def test_damaged_line_does_not_stop_the_others(journal: Journal, directory: Path, short_dir: Path) -> None:
    """Ours: bytes that are not text are shipped escaped, for the sink to set aside."""
    sink = Sink()
    with (directory / "journal-00000001.jsonl").open("ab") as file:
        file.write(b'{"ts":"\xff"}\n')
    append(journal, 1)
    async with serving(sink, short_dir / "s"), shipping(journal, directory, short_dir / "s"):
        await sink.has(3)

    assert sink.lines[1] == '{"ts":"\\xff"}'


async def test_closing_ships_what_is_left(journal: Journal, directory: Path, short_dir: Path) -> None:
    """Ours: stop means flush; a long delay does not hold it up."""
    sink = Sink()
    async with serving(sink, short_dir / "s"):
        async with shipping(journal, directory, short_dir / "s", delay_s=5):
            append(journal, 5)
            await asyncio.sleep(0)
        assert len(sink.lines) == 6


async def test_a_backlog_travels_in_small_messages_on_one_stream(
    journal: Journal, directory: Path, short_dir: Path
) -> None:
    """Ours: decisions are made between two messages, and one acknowledgement is waited for, not many."""
    sink = Sink()
    append(journal, 1000)
    async with (
        serving(sink, short_dir / "s"),
        shipping(journal, directory, short_dir / "s", max_batch=1001) as shipper,
    ):
        await acknowledged(shipper)

    assert sink.lines == journal_lines(directory)
    assert sink.streams == 1
    assert sink.batches == [200, 200, 200, 200, 200, 1]


async def test_a_batch_is_bounded_in_bytes(
    journal: Journal, directory: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: what one acknowledgement covers is sent again whole after a failure, so it must not grow without end."""
    monkeypatch.setattr(shipper, "_MAX_BATCH_BYTES", 150_000)
    sink = Sink()
    append(journal, 999)
    async with (
        serving(sink, short_dir / "s"),
        shipping(journal, directory, short_dir / "s", max_batch=5000) as running,
    ):
        await acknowledged(running)

    assert sink.lines == journal_lines(directory)
    assert sink.streams > 2


def test_entry_starts_when_its_record_says() -> None:
    """Ours: RFC 3339 with microseconds, as `records.timestamp` writes it; 0 where there is no such time."""
    assert _entry(b'{"kind":"start","ts":"2026-11-20T21:40:00.123456Z"}')[0] == 1795210800_123456000
    for odd in (
        b"",
        b"{}",
        b'{"ts":""}',
        b'{"ts":"2026-11-20T21:40:00.123456+"}',
        b'{"ts":"2026-99-20T21:40:00.123456Z"}',
    ):
        assert _entry(odd)[0] == 0
