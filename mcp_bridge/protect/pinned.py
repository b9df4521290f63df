"""The lock in force: read again when its file changes, the last good one kept when that cannot be relied on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_bridge.protect.lockfile import Lock, read_lock
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError

__all__ = ["PinnedLock"]

logger = logging.getLogger(__name__)

_LOOK_EACH_S: Final = 1.0


class PinnedLock:
    """Raises `UserError` when made with a file that cannot be relied on. `clock` counts seconds."""

    def __init__(self, path: Path, key: Ed25519PublicKey | None, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._key = key
        self._clock = clock
        self._looked = clock()
        self._stamp = _stamp(path)
        self._lock = read_lock(path, key)

    def current(self) -> Lock:
        """The lock; another object only where its file changed. Looks at most once a second."""
        now = self._clock()
        if now - self._looked >= _LOOK_EACH_S:
            self._looked = now
            self._look()
        return self._lock

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._lock = read_lock(self._path, self._key)
        except UserError as error:
            logs.event(logger, logging.ERROR, "tools_lock_refused", reason=str(error), effect="the last one stays")
        else:
            logs.event(logger, logging.WARNING, "tools_lock_changed", key=self._lock.key or "none")


def _stamp(path: Path) -> tuple[Any, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size, status.st_ctime_ns)
