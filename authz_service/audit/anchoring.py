"""Anchors the journal at an interval: into the journal itself, which is shipped, and into `anchors.jsonl`.

The file is for being shipped elsewhere, by whatever ships files: it only
grows, a line at a time.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authz_service import journal_files
from authz_service.audit import anchors
from authz_service.audit.anchors import Anchor
from authz_service.audit.metrics import AuditMetrics
from authz_service.journal import Journal
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["ANCHORS_FILE", "Anchoring", "AnchorsFile"]

logger = logging.getLogger(__name__)

ANCHORS_FILE: Final = "anchors.jsonl"


class AnchorsFile:
    """Appends lines, each forced to the disk. What a crash or a full disk left of a line is cut off."""

    def __init__(self, path: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        """Raises `UserError` where the file cannot be written."""
        self._fsync = fsync
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"anchors file {path} cannot be written: {error.strerror}") from None

    def append(self, line: bytes) -> None:
        """Blocks. Raises `OSError`."""
        with self._lock:  # a stop does not end the thread of the append before
            end = journal_files.end_of_lines(self._descriptor)
            if os.fstat(self._descriptor).st_size != end:
                os.ftruncate(self._descriptor, end)
            written = os.write(self._descriptor, line + b"\n")
            if written != len(line) + 1:
                raise OSError(f"{written} of {len(line) + 1} bytes written")
            self._fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class Anchoring:
    """Signs where the journal's chain stands. A failure is logged and counted; decisions go on without it."""

    def __init__(
        self,
        journal: Journal,
        key: Ed25519PrivateKey,
        file: AnchorsFile,
        metrics: AuditMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._key = key
        self._file = file
        self._metrics = metrics
        self._clock = clock
        self._anchored = 0
        """Number of the last anchor's own record, after which there may be something new."""

    async def run(self, interval_s: float) -> None:
        """An anchor every `interval_s` seconds in which something was written."""
        while True:
            await asyncio.sleep(interval_s)
            await self.anchor()

    async def close(self) -> None:
        """The last anchor, before the journal ends."""
        await self.anchor()
        self._file.close()

    async def anchor(self) -> None:
        """Anchor the last record, if it is a new one. Never raises for a disk."""
        if self._journal.seq == self._anchored:
            return
        made: list[Anchor] = []

        def make(chain: str, seq: int, digest: str) -> DecisionRecord:
            now = timestamp(round(self._clock() * 1e6))
            made.append(anchors.sign(self._key, chain, seq, digest, now))
            return DecisionRecord(kind="anchor", chain="", seq=0, ts=now, rule=anchors.encode(made[0]).decode())

        if not self._journal.append_anchor(make):
            self._failed("the journal is unavailable")
            return
        number = self._journal.seq
        await self._journal.sync()  # else a crash of the machine could leave an anchor of what is lost
        if not self._journal.available:
            self._failed("the journal is not on the disk")
            return
        try:
            await asyncio.to_thread(self._file.append, anchors.encode(made[0]))
        except OSError as error:
            self._failed(error.strerror or str(error))
            return
        self._anchored = number
        self._metrics.anchors.inc()
        self._metrics.last.set(self._clock())

    def _failed(self, why: str) -> None:
        self._metrics.failures.inc()
        logs.event(logger, logging.ERROR, "not_anchored", why=why, seq=self._journal.seq)
