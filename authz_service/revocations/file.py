"""The file of revocations: what this sidecar knows, whatever happens to Redis.

Readers and writers are authz_service and the command line. It is replaced by
rename, under a lock on a file beside it, and every writer merges what it has
with what is there, so that nobody undoes another's change.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from authz_service.revocations.entry import Damaged, Entry, decode_all, encode_all, merged
from secure_mcp_grpc.lifecycle import write_by_rename

__all__ = ["RevocationFile"]

_LOCK_WAIT_S: Final = 2.0
_SETTLED_S: Final = 3.0
"""Age from which a file with unchanged status has unchanged content (the clocks of file systems are coarse)."""

Status = tuple[int, int, int, int]


class RevocationFile:
    """The entries at `path`. Methods block for as long as a local disk takes, and `OSError` is for the caller."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._status: Status | None = None
        self._text: bytes | None = None

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> dict[str, Entry]:
        """What the file holds, by id; nothing if there is none. Raises `Damaged` naming it."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o022:
                    raise Damaged(f"{self.path} can be written by other users; run: chmod 600 {self.path}")
                text = file.read()
        except FileNotFoundError:
            return {}
        return {entry.id: entry for entry in decode_all(text, str(self.path))}

    def changed(self) -> dict[str, Entry] | None:
        """What it holds if that may be something else than at the last call; None otherwise. As `read`."""
        status = self._look()
        if status == self._status and status is not None:
            return None
        self._status = None  # until what follows has succeeded
        entries = self.read()
        if status is not None and time.time() - status[3] / 1e9 > _SETTLED_S:
            self._status = status
        return entries

    def add(self, entries: Iterable[Entry], now_us: int) -> dict[str, Entry]:
        """Merge `entries` into the file and return all it holds then. Raises as `read`, leaving it as it was."""
        return self.update(lambda known: merged(known, entries).values(), now_us)

    def update(self, change: Callable[[Mapping[str, Entry]], Iterable[Entry]], now_us: int) -> dict[str, Entry]:
        """Merge what `change` makes of the file's entries into it, while nobody else writes."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            known = self.read()
            kept = {
                name: entry
                for name, entry in {**known, **merged(known, change(known))}.items()
                if not entry.over(now_us)
            }
            if kept != known or not self.exists:
                write_by_rename(self.path, encode_all(kept.values()), mode=0o600)
        return kept

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(
            self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up_at:
                        raise TimeoutError(f"{self.path} is locked by another process") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _look(self) -> Status | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
