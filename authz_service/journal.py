"""The decision journal: each decision is written here, hash-chained, before it is answered.

A record is one JSON line (`records.DecisionRecord`) whose last field is its
`hash`: SHA-256, hex, over the line as it would be without that field
(`{…,"prev":"…"}`). `prev` is the hash of the record before. A process start
begins a new chain with a `start` record, whose `prev` is the last hash of the
chain before, so that the files are one chain of chains.
"""

import asyncio
import hashlib
import logging
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from authz_service import journal_files
from secure_mcp_grpc import lifecycle, logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["Journal", "JournalUnavailableError", "seal", "verify_line"]

logger = logging.getLogger(__name__)

_ENCODER: Final = msgspec.json.Encoder()
_EMPTY_HASH: Final = b',"hash":""}'
_HASH_FIELD: Final = re.compile(rb'(.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)
_MAX_NOTES: Final = 100

Write = Callable[[int, bytes], int]


class JournalUnavailableError(Exception):
    """The record could not be written: nothing may be allowed."""


def seal(record: DecisionRecord) -> tuple[bytes, str]:
    """The line (with its newline) of a record whose `hash` is empty, and its hash."""
    text = _ENCODER.encode(record)
    digest = hashlib.sha256(text[: -len(_EMPTY_HASH)] + b"}").hexdigest()
    return b'%s"%s"}\n' % (text[:-3], digest.encode()), digest


def verify_line(line: bytes) -> str | None:
    """The hash of a journal line (without newline) whose content it fits; None for any other line."""
    found = _HASH_FIELD.fullmatch(line)
    if found is None or hashlib.sha256(found[1] + b"}").hexdigest().encode() != found[2]:
        return None
    return found[2].decode()


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
        clock: Callable[[], float] = time.time,
        write: Write = os.write,
    ) -> None:
        self._directory = lifecycle.private_directory(directory)
        self._rotate_bytes = rotate_bytes
        self._clock = clock
        self._write = write
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
        try:
            self._lock = journal_files.lock(directory)
            self._number, self._end, self._last_hash = self._resume()
            self._open()
        except OSError as error:
            raise UserError(f"journal_dir {directory} cannot be written: {error.strerror}") from None
        self._notes: deque[DecisionRecord] = deque()
        self.note(DecisionRecord(kind="start", chain="", seq=0, ts=timestamp(round(clock() * 1e6))))

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

    async def sync(self) -> None:
        """Force what is written to the disk, in a thread. Never raises."""
        retired, self._retired = self._retired, []
        try:
            if self._dirty:
                self._dirty = False
                retired.append(os.dup(self._descriptor))  # a rotation may close the original meanwhile
            for descriptor in retired:
                await asyncio.to_thread(os.fsync, descriptor)
        except OSError as error:
            self._fail(error)
        finally:
            for descriptor in retired:
                os.close(descriptor)

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
                digest = verify_line(line)
                if digest is None:
                    logs.event(logger, logging.ERROR, "journal_damaged", file=path.name)
                return digest or ""
        return ""

    def _open(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        path = self._directory / journal_files.file_name(self._number)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _append(self, record: DecisionRecord) -> int:
        numbered = msgspec.structs.replace(record, chain=self.chain, seq=self.seq + 1, prev=self._last_hash)
        line, digest = seal(numbered)
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
        self._number += 1
        self._end = 0
        self._open()

    def _fail(self, error: OSError) -> None:
        if self.available:
            self.available = False
            logs.event(logger, logging.ERROR, "journal_unavailable", error=error.strerror or str(error))

    def _recover(self) -> None:
        """Cut what a failed write may have left, then write what waits. Raises `JournalUnavailableError`."""
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
            self._append(self._gap())
            self._unrecorded = 0
        if not self.available:
            self.available = True
            logs.event(logger, logging.INFO, "journal_available", chain=self.chain)

    def _gap(self) -> DecisionRecord:
        """Says that requests were refused without a record."""
        return DecisionRecord(
            kind="gap",
            chain="",
            seq=0,
            ts=timestamp(round(self._clock() * 1e6)),
            reason="journal_unavailable",
            rule=f"{self._unrecorded} requests were refused without a record",
        )

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
        self._number += 1
        self._end = 0
        self._open()


def _nobody() -> None:
    """Nobody listens."""
