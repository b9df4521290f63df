"""Keeps the policy in force in step with its files: edited, renamed over, or swapped by a ConfigMap's symlink.

The files are looked at several times a second, by content, because no
notification covers all three ways on all systems. A content counts once two
looks agree, so that a file caught in the middle of being written is not
loaded in half.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from authz_service.policy import Policy, PolicyError, load_policy
from secure_mcp_grpc import logs

__all__ = ["PolicyFiles", "PolicyWatcher"]

logger = logging.getLogger(__name__)

_SETTLED_S = 3.0
"""Age from which a file with unchanged status has unchanged content (the clocks of file systems are coarse)."""

Contents = tuple[bytes, bytes]
Status = tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """Model and policy on disk."""

    model: Path
    policy: Path
    cached: int

    def read(self) -> Contents:
        """Raises `PolicyError` naming the file that cannot be read."""
        return _read(self.model), _read(self.policy)

    def status(self) -> Status:
        """What changes when a file does; raises `PolicyError`."""
        return _status(self.model), _status(self.policy)

    def load(self, contents: Contents) -> Policy:
        """Raises `PolicyError`."""
        return load_policy(*contents, model_name=self.model.name, policy_name=self.policy.name, cached=self.cached)


class PolicyWatcher:
    """Loads changes and hands them on.

    `loaded` receives a new policy; `refused` receives the sentence that says
    what is wrong, once for each content. `problem` is that sentence for as
    long as the files hold something that is not in force.
    """

    def __init__(
        self,
        files: PolicyFiles,
        contents: Contents,
        loaded: Callable[[Policy], None],
        refused: Callable[[str], None],
        *,
        poll_s: float,
    ) -> None:
        self._files = files
        self._loaded = loaded
        self._refused = refused
        self._poll_s = poll_s
        self._judged: Contents | str = contents
        self._seen: Contents | str = contents
        self._status: Status | None = None
        self.problem = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def look(self) -> None:
        """Look once; act on a content that was also there the time before."""
        seen = await asyncio.to_thread(self._read)
        if seen == self._seen and seen != self._judged:
            self._judged = seen
            await self._judge(seen)
        self._seen = seen

    def _read(self) -> Contents | str:
        """The files' contents, or why they cannot be read."""
        try:
            status = self._files.status()
            newest_s = max(modified_ns for *_, modified_ns, _ in status) / 1e9
            if status == self._status and time.time() - newest_s > _SETTLED_S:
                return self._seen
            contents = self._files.read()
        except PolicyError as error:
            self._status = None
            return str(error)
        self._status = status
        return contents

    async def _judge(self, seen: Contents | str) -> None:
        try:
            if isinstance(seen, str):
                raise PolicyError(seen)
            policy = await asyncio.to_thread(self._files.load, seen)
        except PolicyError as error:
            self.problem = str(error)
            logs.event(logger, logging.WARNING, "policy_refused", problem=self.problem)
            self._refused(self.problem)
            return
        self.problem = ""
        logs.event(logger, logging.INFO, "policy_loaded", version=policy.version, rules=policy.size)
        self._loaded(policy)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path.name} cannot be read: {error.strerror}") from None


def _status(path: Path) -> tuple[int, int, int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise PolicyError(f"{path.name} cannot be read: {error.strerror}") from None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
