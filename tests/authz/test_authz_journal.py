"""The journal: chained, repaired, rotated, and never a reason to allow."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from authz_requests import POLICY, answered, check_request, records

from authz_service import journal_files
from authz_service.checker import Checker
from authz_service.journal import Journal, JournalUnavailableError, verify_line
from authz_service.journal_files import Position
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import DecisionRecord


def record(name: str = "x") -> DecisionRecord:
    return DecisionRecord(chain="", seq=0, ts="2026-11-20T21:40:00.000000Z", decision="allow", tool=name)


class Disk:
    """`os.write` of a disk that can fill up after `room` bytes."""

    def __init__(self) -> None:
        self.room: int | None = None

    def write(self, descriptor: int, content: bytes) -> int:
        if self.room is None:
            return os.write(descriptor, content)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(descriptor, content[: self.room])
        self.room -= written
        return written


def lines(directory: Path) -> list[bytes]:
    return [line for path in sorted(directory.glob("journal-*")) for line in path.read_bytes().splitlines()]


def check_chains(directory: Path) -> None:
    """Everything in the journal hangs together."""
    previous = ""
    seq: dict[str, int] = {}
    for line in lines(directory):
        entry = json.loads(line)
        assert entry["prev"] == previous
        previous = verify_line(line) or pytest.fail(f"does not verify: {line!r}")
        assert entry["hash"] == previous
        assert entry["seq"] == seq.get(entry["chain"], 0) + 1
        assert (entry["seq"] == 1) == (entry["kind"] == "start")
        seq[entry["chain"]] = entry["seq"]


async def test_hash_is_over_the_line_without_its_hash_field(tmp_path: Path) -> None:
    """Ours: how anybody can verify a journal with sha256sum."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
    journal.append(record())
    await journal.close()

    for line in lines(tmp_path / "j"):
        entry = json.loads(line)
        stripped = line.replace(b',"hash":"%s"' % entry["hash"].encode(), b"")
        assert hashlib.sha256(stripped).hexdigest() == entry["hash"]


async def test_chains_of_several_starts_hang_together(tmp_path: Path) -> None:
    """Ours: a start record names the last hash of the chain before."""
    for _ in range(3):
        journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
        for _ in range(3):
            journal.append(record())
        await journal.close()

    check_chains(tmp_path / "j")
    entries = records(tmp_path / "j")
    assert len(entries) == 12
    assert len({entry["chain"] for entry in entries}) == 3


@pytest.mark.parametrize("change", [b"deny", b"allov"])
async def test_changed_record_does_not_verify(tmp_path: Path, change: bytes) -> None:
    """Ours: any change shows."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
    journal.append(record())
    await journal.close()

    assert verify_line(lines(tmp_path / "j")[-1].replace(b"allow", change)) is None


async def test_record_that_a_crash_cut_off_is_removed_and_no_other(tmp_path: Path) -> None:
    """Issue 3: a crash in the middle of a write is repaired without losing a complete record."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
    journal.append(record())
    await journal.close()
    path = tmp_path / "j" / "journal-00000001.jsonl"
    whole = path.read_bytes()
    for cut in (1, 5, 200):
        torn = whole + whole.splitlines()[-1][:-cut]
        path.write_bytes(torn)

        await Journal(tmp_path / "j", "node", rotate_bytes=1_000_000).close()

        assert path.read_bytes().startswith(whole)
        check_chains(tmp_path / "j")


async def test_files_rotate_and_the_chain_goes_on(tmp_path: Path) -> None:
    """Ours: journal_rotate_bytes; long records and names beyond ASCII included."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=4096)
    for number in range(30):
        journal.append(record("ä\n\u2028" * number))
    journal.append(record("x" * 6000))
    await journal.close()

    files = journal_files.files(tmp_path / "j")
    assert len(files) > 3
    assert all(path.stat().st_size <= 4096 for path in list(files.values())[:-1])
    check_chains(tmp_path / "j")
    await Journal(tmp_path / "j", "node", rotate_bytes=4096).close()
    check_chains(tmp_path / "j")


@pytest.mark.parametrize("room", [0, 17])
async def test_full_disk_refuses_and_recovers_by_itself(
    tmp_path: Path, make_checker: Callable[[bytes], Checker], room: int
) -> None:
    """Issue 3: the disk full means refuse, not allow; nothing half-written stays."""
    disk = Disk()
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000, write=disk.write)
    checker = make_checker(POLICY)
    checker._journal = journal
    request = check_request().SerializeToString()
    assert answered(checker.check(request)).code == 0

    disk.room = room
    for _ in range(3):
        refused = answered(checker.check(request))
        assert (refused.code, refused.metadata["reason"]) == (14, "journal_unavailable")
        assert refused.response.denied_response.status.code == 503
        assert refused.metadata["seq"] == "0"
    assert not journal.available
    journal.check()
    assert not journal.available

    disk.room = None
    journal.check()
    assert journal.available
    assert answered(checker.check(request)).code == 0
    await journal.close()
    check_chains(tmp_path / "j")
    gap = records(tmp_path / "j")[-2]
    assert (gap["kind"], gap["rule"]) == ("gap", "3 requests were refused without a record")


async def test_events_of_the_chain_wait_for_the_disk(tmp_path: Path) -> None:
    """Ours: start and policy records come before the decisions made under them."""
    disk = Disk()
    disk.room = 0
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000, write=disk.write)
    journal.note(DecisionRecord(kind="policy", chain="", seq=0, ts=""))
    with pytest.raises(JournalUnavailableError):
        journal.append(record())

    disk.room = None
    journal.append(record())
    await journal.close()

    assert [entry["kind"] for entry in records(tmp_path / "j")] == ["start", "policy", "gap", "decision"]
    check_chains(tmp_path / "j")


async def test_file_that_is_taken_away_is_noticed(tmp_path: Path) -> None:
    """Ours: records must not go into a file that nobody can find."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
    (tmp_path / "j" / "journal-00000001.jsonl").unlink()

    journal.check()
    journal.append(record())
    await journal.close()

    assert len(lines(tmp_path / "j")) == 1


async def test_second_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: two writers would break the chain."""
    monkeypatch.setattr(journal_files, "_LOCK_WAIT_S", 0.0)
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)

    with pytest.raises(UserError, match="another process writes the journal"):
        Journal(tmp_path / "j", "node", rotate_bytes=1_000_000)
    await journal.close()


async def test_journal_is_private(tmp_path: Path) -> None:
    """Ours: it says who did what."""
    await Journal(tmp_path / "j", "node", rotate_bytes=1_000_000).close()

    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "j" / "journal-00000001.jsonl").stat().st_mode & 0o777 == 0o600


async def test_only_shipped_files_are_pruned(tmp_path: Path) -> None:
    """Ours: journal_keep_bytes never removes what the sink has not acknowledged, nor the file in use."""
    journal = Journal(tmp_path / "j", "node", rotate_bytes=4096)
    for _ in range(40):
        journal.append(record())
    last = max(journal_files.files(tmp_path / "j"))

    assert journal.prune(Position(1, 10), 1) == 0
    assert journal.prune(Position(3, 0), 1) == 2
    assert journal.prune(Position(last + 5, 0), 1) == last - 3
    assert list(journal_files.files(tmp_path / "j")) == [last]
    await journal.close()


def test_reading_goes_on_over_missing_and_unfinished_ends(tmp_path: Path) -> None:
    """Ours: the shipper's view: complete lines only, in order, across files."""
    (tmp_path / "journal-00000001.jsonl").write_bytes(b"a\nb\n")
    (tmp_path / "journal-00000003.jsonl").write_bytes(b"c" * 100 + b"\nd\ntorn")

    seen: list[bytes] = []
    position = Position()
    while True:
        found, position = journal_files.read_lines(tmp_path, position, 8, 1)
        if not found:
            break
        seen += found

    assert seen == [b"a", b"b", b"c" * 100, b"d"]
    assert position == Position(3, 103)


class Fsync:
    """`os.fsync` of a disk that can fail."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        os.fsync(descriptor)


async def test_failed_fsync_is_not_forgotten(tmp_path: Path) -> None:
    """Ours: what a failed fsync may have lost, the next one does not bring back: refuse, and say so in the chain."""
    fsync = Fsync()
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000, fsync=fsync)
    journal.append(record())
    await journal.sync()
    journal.append(record())
    journal.append(record())

    fsync.error = errno.EIO
    await journal.sync()
    assert not journal.available
    for _ in range(2):
        with pytest.raises(JournalUnavailableError):
            journal.append(record())
    journal.check()
    await journal.sync()
    assert not journal.available
    assert len(journal_files.files(tmp_path / "j")) == 1, "a disk that stays broken fills nothing"

    fsync.error = None
    journal.check()
    assert not journal.available, "only a good fsync ends it"
    assert not journal.append_anchor(lambda *_: record())
    await journal.sync()
    assert journal.available
    journal.append(record())
    await journal.close()

    check_chains(tmp_path / "j")
    assert list(journal_files.files(tmp_path / "j")) == [1, 2]
    entries = records(tmp_path / "j")
    assert [entry["kind"] for entry in entries] == ["start", *["decision"] * 3, "gap", "gap", "decision"]
    assert entries[4]["reason"] == "journal_unsynced"
    assert entries[4]["rule"] == "records 3 to 4 could not be forced to the disk"
    assert entries[5]["rule"] == "2 requests were refused without a record"
    assert not (tmp_path / "j" / "probe").exists()


async def test_fsync_that_fails_again_keeps_refusing(tmp_path: Path) -> None:
    """Ours: the record of the doubt must itself be on the disk before anything is decided."""
    fsync = Fsync()
    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000, fsync=fsync)
    await journal.sync()
    journal.append(record())
    fsync.error = errno.EIO
    await journal.sync()

    real, fsync.error = os.fsync, None
    probes = 0

    def second_fails(descriptor: int) -> None:
        nonlocal probes
        probes += 1
        if probes > 1:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    journal._fsync = second_fails
    await journal.sync()
    assert not journal.available
    journal._fsync = real
    await journal.sync()
    assert journal.available
    await journal.close()
    check_chains(tmp_path / "j")
    assert [entry["rule"] for entry in records(tmp_path / "j") if entry["kind"] == "gap"] == [
        "records 2 to 2 could not be forced to the disk",
        "records 2 to 3 could not be forced to the disk",
    ]


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.EDQUOT])
async def test_disk_that_takes_nothing_refuses(tmp_path: Path, error: int) -> None:
    """Ours: a file system gone read-only, broken or over quota is a full disk to us."""
    broken = False

    def write(descriptor: int, content: bytes) -> int:
        if broken:
            raise OSError(error, os.strerror(error))
        return os.write(descriptor, content)

    journal = Journal(tmp_path / "j", "node", rotate_bytes=1_000_000, write=write)
    broken = True
    for _ in range(2):
        with pytest.raises(JournalUnavailableError):
            journal.append(record())
        journal.check()
    assert not journal.available
    assert not journal.append_anchor(lambda *_: record())
    broken = False
    journal.check()
    assert journal.available
    await journal.close()
    check_chains(tmp_path / "j")


async def test_new_file_is_forced_to_the_disk_by_name(tmp_path: Path) -> None:
    """POSIX, fsync: a file's name is in its directory, which needs an fsync of its own."""
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    journal = Journal(tmp_path / "j", "node", rotate_bytes=4096, fsync=fsync)
    await journal.sync()
    await journal.sync()
    assert synced == ["file", "directory"]
    for _ in range(8):
        journal.append(record("x" * 200))
    await journal.sync()
    assert synced[2:] == ["file", "file", "directory"]
    await journal.close()


async def test_damaged_end_is_named_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the chain of chains goes on behind a record that was tampered with, so that only it is a finding."""
    await Journal(tmp_path / "j", "node", rotate_bytes=1_000_000).close()
    path = tmp_path / "j" / "journal-00000001.jsonl"
    stated = records(tmp_path / "j")[0]["hash"]
    path.write_bytes(path.read_bytes().replace(b'"start"', b'"begin"'))

    await Journal(tmp_path / "j", "node", rotate_bytes=1_000_000).close()

    assert records(tmp_path / "j")[1]["prev"] == stated
    assert "journal_damaged" in caplog.text
