"""The decision journal: each decision is written here, hash-chained, before it is answered.

A record is one JSON line (`records.DecisionRecord`) whose last field is its
`hash` over the line as it would be without that field (`{…,"prev":"…"}`); see
`audit.seals`. `prev` is the hash of the record before. A process start begins
a new chain with a `start` record, whose `prev` is the last hash of the chain
before, so that the files are one chain of chains.

Disk faults. A write that fails, or is cut short, refuses its request, and all
that follow until one succeeds; what it left is cut off. A failed fsync is not
forgotten: the kernel may drop what it could not write and report success the
next time. So everything is refused until the disk has taken a probe, then a
new file begins with a `gap` record that names the numbers that a crash of the
machine may have cost, and only when that record is on the disk is anything
decided again.
"""

import asyncio
import errno
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from authz_service import journal_files
from authz_service.audit.seals import PLAIN, Seal, split_line
from secure_mcp_grpc import lifecycle, logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["Journal", "JournalUnavailableError", "verify_line"]

logger = logging.getLogger(__name__)

_ENCODER: Final = msgspec.json.Encoder()
_EMPTY_HASH: Final = b',"hash":""}'
_MAX_NOTES: Final = 100

Write = Callable[[int, bytes], int]
Fsync = Callable[[int], None]


class JournalUnavailableError(Exception):
    """The record could not be written: nothing may be allowed."""


def verify_line(line: bytes, seal: Seal = PLAIN) -> str | None:
    """The hash of a journal line (without newline) whose content it fits; None for any other line."""
    parts = split_line(line)
    return parts[1] if parts and seal.fits(line) else None


class Journal:
    """Appends records to the files in `directory`; one process at a time.

    After a failed write every `append` tries again; `check`, called at an
    interval, also does, so that the journal recovers without traffic. Not
    thread-safe. Raises `UserError` where the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        node_id: str,
        *,
        rotate_bytes: int,
        seal: Seal = PLAIN,
        clock: Callable[[], float] = time.time,
        write: Write = os.write,
        fsync: Fsync = os.fsync,
    ) -> None:
        self._directory = lifecycle.private_directory(directory)
        self._rotate_bytes = rotate_bytes
        self._clock = clock
        self._write = write
        self._fsync = fsync
        self._seal = seal
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock()))
        self.chain = f"{node_id}-{started}-{secrets.token_hex(4)}"
        """Identifier of this process's chain."""
        self.seq = 0
        """Number of the last record written."""
        self.available = False
        self.on_append: Callable[[], None] = _nobody
        """Called after each record."""
        self._unrecorded = 0
        self._dirty = False
        self._descriptor = -1
        self._retired: list[int] = []
        self._synced = 0
        self._synced_number = 0
        self._doubtful = ""
        self._doubted_number = 0
        self._syncing = asyncio.Lock()
        try:
            self._lock = journal_files.lock(directory)
            self._number, self._end, self._last_hash = self._resume()
            self._open()
        except OSError as error:
            raise UserError(f"journal_dir {directory} cannot be written: {error.strerror}") from None
        self._notes: deque[DecisionRecord] = deque()
        self.note(
            DecisionRecord(kind="start", chain="", seq=0, ts=timestamp(round(clock() * 1e6)), rule=self._seal.statement)
        )

    def append(self, record: DecisionRecord) -> int:
        """Write `record` with the next number, which is returned; raises `JournalUnavailableError`."""
        try:
            if not self.available or self._notes:
                self._recover()
            return self._append(record)
        except JournalUnavailableError:
            self._unrecorded += 1
            raise

    def note(self, record: DecisionRecord) -> None:
        """Write an event of the chain itself; kept for later where the journal is unavailable."""
        if len(self._notes) < _MAX_NOTES:
            self._notes.append(record)
        with suppress(JournalUnavailableError):
            self._recover()

    def check(self) -> None:
        """See that the file is still in its place, and try to recover if need be. Never raises."""
        try:
            self._check_in_place()
            if not self.available or self._notes:
                self._recover()
        except OSError as error:
            self._fail(error)
        except JournalUnavailableError:
            return

    def append_anchor(self, make: Callable[[str, int, str], DecisionRecord]) -> bool:
        """Write what `make` says of chain, last number and its hash right behind that record; False if impossible."""
        if not self.available or self._notes:
            return False
        try:
            self._append(make(self.chain, self.seq, self._last_hash))
        except JournalUnavailableError:
            return False
        return True

    async def sync(self) -> None:
        """Force what is written to the disk, in a thread. Never raises."""
        async with self._syncing:
            await self._sync()

    async def _sync(self) -> None:
        if self._doubtful and not await self._regain():
            return
        last, number = self.seq, self._number
        retired, self._retired = self._retired, []
        try:
            if self._dirty:
                self._dirty = False
                retired.append(os.dup(self._descriptor))  # a rotation may close the original meanwhile
            for descriptor in retired:
                await asyncio.to_thread(self._fsync, descriptor)
            if self._synced_number != number:
                await asyncio.to_thread(self._sync_directory)
        except OSError as error:
            self._doubt(error, last)
        else:
            self._synced, self._synced_number = last, number
            if self._doubtful:
                self._doubtful = ""
                with suppress(JournalUnavailableError):
                    self._recover()
        finally:
            for descriptor in retired:
                os.close(descriptor)

    def _sync_directory(self) -> None:
        """The name of a new file is in the directory, not in the file."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such thing
                raise
        finally:
            os.close(descriptor)

    def _doubt(self, error: OSError, last: int) -> None:
        """Records since the last good fsync, up to `last`, may be lost if the machine fails: refuse, and say so."""
        self._fail(error)
        self._doubtful = f"records {self._synced + 1} to {last} could not be forced to the disk"
        self._doubted_number = self._number

    async def _regain(self) -> bool:
        """Once the disk takes data again, begin a new file with a record of the doubt; whether that was written."""
        try:
            await asyncio.to_thread(self._probe)
            if self._number == self._doubted_number:
                if self._descriptor >= 0:
                    os.close(self._descriptor)  # another fsync of it might succeed without having saved anything
                    self._descriptor = -1
                self._next_file()
            os.ftruncate(self._descriptor, self._end)
            self._append(self._gap("journal_unsynced", self._doubtful))
        except OSError as error:
            self._fail(error)
            return False
        except JournalUnavailableError:
            return False
        return True

    def _probe(self) -> None:
        path = self._directory / "probe"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._write(descriptor, bytes(4096))
            self._fsync(descriptor)
        finally:
            os.close(descriptor)
            path.unlink()

    async def close(self) -> None:
        await self.sync()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        os.close(self._lock)

    def prune(self, shipped: journal_files.Position, keep_bytes: int) -> int:
        """Remove shipped files, oldest first, while all are larger than `keep_bytes`; returns how many."""
        existing = journal_files.files(self._directory)
        total = sum(path.stat().st_size for path in existing.values())
        removed = 0
        for number, path in existing.items():
            if total <= keep_bytes or number >= min(shipped.file, self._number):
                break
            total -= path.stat().st_size
            path.unlink()
            removed += 1
        return removed

    def _resume(self) -> tuple[int, int, str]:
        """Cut a record that a crash left unfinished; returns file number, its length, and the last hash."""
        existing = journal_files.files(self._directory)
        if not existing:
            return 1, 0, ""
        number, path = max(existing.items())
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            end = journal_files.end_of_lines(descriptor)
            if torn := os.fstat(descriptor).st_size - end:
                os.ftruncate(descriptor, end)
                logs.event(logger, logging.WARNING, "journal_repaired", file=path.name, removed_bytes=torn)
        finally:
            os.close(descriptor)
        return number, end, self._find_last_hash(list(existing.values()))

    def _find_last_hash(self, paths: list[Path]) -> str:
        for path in reversed(paths):
            if line := journal_files.last_line(path):
                parts = split_line(line)
                if parts is None or not (self._seal.fits(line) or PLAIN.fits(line)):
                    logs.event(logger, logging.ERROR, "journal_damaged", file=path.name)
                return parts[1] if parts else ""
        return ""

    def _open(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        path = self._directory / journal_files.file_name(self._number)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _append(self, record: DecisionRecord) -> int:
        numbered = msgspec.structs.replace(record, chain=self.chain, seq=self.seq + 1, prev=self._last_hash)
        body = _ENCODER.encode(numbered)[: -len(_EMPTY_HASH)]
        digest = self._seal.digest(body + b"}")
        line = b'%s,"hash":"%s"}\n' % (body, digest.encode())
        try:
            if self._end and self._end + len(line) > self._rotate_bytes:
                self._rotate()
            written = self._write(self._descriptor, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            self._fail(error)
            raise JournalUnavailableError from None
        self._end += len(line)
        self._last_hash = digest
        self._dirty = True
        self.seq += 1
        self.on_append()
        return self.seq

    def _rotate(self) -> None:
        self._retired.append(self._descriptor)  # `sync` forces it to the disk and closes it
        self._descriptor = -1
        self._next_file()

    def _next_file(self) -> None:
        self._number += 1
        self._end = 0
        self._open()

    def _fail(self, error: OSError) -> None:
        if self.available:
            self.available = False
            logs.event(logger, logging.ERROR, "journal_unavailable", error=error.strerror or str(error))

    def _recover(self) -> None:
        """Cut what a failed write may have left, then write what waits. Raises `JournalUnavailableError`."""
        if self._doubtful:  # `sync` ends it
            raise JournalUnavailableError
        if not self.available:
            try:
                if self._descriptor < 0:
                    self._open()
                os.ftruncate(self._descriptor, self._end)
            except OSError:
                raise JournalUnavailableError from None
        while self._notes:
            self._append(self._notes[0])
            self._notes.popleft()
        if self._unrecorded:
            self._append(self._gap("journal_unavailable", f"{self._unrecorded} requests were refused without a record"))
            self._unrecorded = 0
        if not self.available:
            self.available = True
            logs.event(logger, logging.INFO, "journal_available", chain=self.chain)

    def _gap(self, reason: str, what: str) -> DecisionRecord:
        now = timestamp(round(self._clock() * 1e6))
        return DecisionRecord(kind="gap", chain="", seq=0, ts=now, reason=reason, rule=what)

    def _check_in_place(self) -> None:
        """A file that was removed or moved would take records that nobody can find: go on in a new one."""
        if self._descriptor < 0:  # `_recover` opens it
            return
        path = self._directory / journal_files.file_name(self._number)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(self._descriptor)):
                return
        logs.event(logger, logging.ERROR, "journal_file_gone", file=path.name)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._next_file()


def _nobody() -> None:
    """Nobody listens."""
