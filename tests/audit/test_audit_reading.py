"""Whole journals as the service leaves them: clean, whatever happened to the service."""

import asyncio
from pathlib import Path

from audit_journals import record, verify_directory, write

from authz_service import journal_files
from authz_service.audit.findings import Report
from authz_service.audit.reading import JournalReader
from authz_service.journal import Journal
from authz_service.journal_files import Position
from secure_mcp_grpc.records import DecisionRecord


def test_rotated_and_restarted_journal_is_clean(tmp_path: Path) -> None:
    """Ours: rotation, restarts and long lines are no tampering."""
    asyncio.run(write(tmp_path / "j", (30, 1, 0, 40)))
    assert len(journal_files.files(tmp_path / "j")) > 5

    report = verify_directory(tmp_path / "j")

    assert (report.findings, report.notices) == ([], [])
    assert (report.counts["journal_records"], report.counts["journal_chains"]) == (75, 4)


async def test_gap_and_policy_records_are_clean(tmp_path: Path) -> None:
    """Ours: events of the chain itself are records like others."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=100_000)
    for kind in ("policy", "gap", "revocation"):
        journal.note(DecisionRecord(kind=kind, chain="", seq=0, ts=""))
    journal.append(record("x" * 3_000_000))
    await journal.close()

    assert verify_directory(tmp_path / "j").clean


def test_record_cut_off_by_a_crash_is_no_finding_and_its_repair_neither(tmp_path: Path) -> None:
    """Ours: what a crash leaves at the very end was never answered."""
    asyncio.run(write(tmp_path / "j", (3,)))
    path = tmp_path / "j" / "journal-00000001.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind":"dec')

    report = verify_directory(tmp_path / "j")
    assert (report.findings, report.notices) == ([], [f"{path.name} ends with 12 bytes of an unfinished record"])
    asyncio.run(write(tmp_path / "j", (3,)))
    report = verify_directory(tmp_path / "j")
    assert (report.findings, report.notices) == ([], [])


def test_file_that_ends_within_a_record_before_another_is_a_finding(tmp_path: Path) -> None:
    """Issue 3: only the last file can have been cut off by a crash."""
    asyncio.run(write(tmp_path / "j", (30,)))
    path = tmp_path / "j" / "journal-00000001.jsonl"
    path.write_bytes(path.read_bytes()[:-20])

    report = verify_directory(tmp_path / "j")

    assert {finding.kind for finding in report.findings} == {"unreadable", "missing"}
    assert {finding.place for finding in report.findings} == {path.name, "journal-00000002.jsonl:1"}


def test_missing_and_exchanged_files_are_found(tmp_path: Path) -> None:
    """Issue 3: removed and reordered, a file at a time."""
    asyncio.run(write(tmp_path / "j", (40,)))
    files = list(journal_files.files(tmp_path / "j").values())
    second = files[1].read_bytes()
    files[1].unlink()
    assert [finding.kind for finding in verify_directory(tmp_path / "j").findings] == ["missing"]

    files[1].write_bytes(files[2].read_bytes())
    files[2].write_bytes(second)
    assert {finding.kind for finding in verify_directory(tmp_path / "j").findings} == {"order"}


def test_blocks_end_at_the_cursor(tmp_path: Path) -> None:
    """Ours: a block is acknowledged as a whole or not at all."""
    asyncio.run(write(tmp_path / "j", (40,)))
    lines, cursor = journal_files.read_lines(tmp_path / "j", Position(2, 0), 1 << 20, 3)
    assert len(lines) == 3

    with JournalReader(tmp_path / "j", cursor) as reader:
        blocks = list(reader.blocks(Report()))

    assert [(b.path.name[-7:-6], b.first_line, b.shipped) for b in blocks[:4]] == [
        ("1", 1, True),
        ("2", 1, True),
        ("2", 4, False),
        ("3", 1, False),
    ]
    assert sum(block.size_bytes for block in blocks) == reader.size_bytes
    assert len(blocks[1].lines) == 3


def test_reading_goes_on_while_files_are_pruned(tmp_path: Path) -> None:
    """Ours: files are opened before the first is read."""
    asyncio.run(write(tmp_path / "j", (40,)))
    with JournalReader(tmp_path / "j") as reader:
        for path in journal_files.files(tmp_path / "j").values():
            path.unlink()
        assert sum(len(block.lines) for block in reader.blocks(Report())) == 41
