"""Keeps the policy in force in step with its files: edited, renamed over, or swapped by a ConfigMap's symlink.

The files are looked at several times a second, by content, because no
notification covers all three ways on all systems. A content counts once two
looks agree, so that a file caught in the middle of being written is not
loaded in half.

A policy is read beside the requests: the thread that reads it rests after each
millisecond of work, so that no request waits long for the interpreter.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from authz_service.policy import Checks, Policy, PolicyError, load_policy, read_catalog
from authz_service.policy.settings import PolicySettings
from secure_mcp_grpc import logs

__all__ = ["PolicyFiles", "PolicyWatcher"]

logger = logging.getLogger(__name__)

_SETTLED_S = 3.0
"""Age from which a file with unchanged status has unchanged content (the clocks of file systems are coarse)."""

_AGAIN_S = 0.02
"""After an announcement: from the first look to the second."""
_WORK_S = 0.001
_REST_S = 0.0002
_MAX_WARNINGS_LOGGED = 20

Contents = tuple[bytes, ...]
"""Model, policy, and the tools where there is a file of them."""
Status = tuple[tuple[int, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """Model and policy on disk, and perhaps the tools that exist."""

    model: Path
    policy: Path
    cached: int
    tools: Path | None = None
    checks: Checks = Checks()  # noqa: RUF009 # frozen

    @classmethod
    def of(cls, settings: PolicySettings, *, token_roles: bool = False) -> "PolicyFiles":
        """`token_roles`: tokens bring roles, whatever the setting of that name says."""
        checks = Checks(token_roles=token_roles or settings.token_roles, methods=frozenset(settings.extra_methods))
        return cls(settings.model_file, settings.policy_file, settings.decision_cache, settings.tools_file, checks)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.model, self.policy, self.tools) if self.tools is not None else (self.model, self.policy)

    def read(self) -> Contents:
        """Raises `PolicyError` naming the file that cannot be read."""
        return tuple(map(_read, self.paths))

    def status(self) -> Status:
        """What changes when a file does; raises `PolicyError`."""
        return tuple(map(_status, self.paths))

    def load(self, contents: Contents, pause: Callable[[], None] = lambda: None) -> Policy:
        """Raises `PolicyError`; logs what is odd."""
        with _no_collection():
            return self._load(contents, pause)

    def load_beside(self, contents: Contents) -> Policy:
        """`load` for a thread beside others that must not wait; raises `PolicyError`."""
        return self.load(contents, _Rests())

    def _load(self, contents: Contents, pause: Callable[[], None]) -> Policy:
        model, policy, *tools = contents
        checks = self.checks
        if self.tools is not None:
            checks = replace(checks, catalog=read_catalog(tools[0], self.tools.name))
        loaded = load_policy(
            model,
            policy,
            model_name=self.model.name,
            policy_name=self.policy.name,
            cached=self.cached,
            checks=checks,
            pause=pause,
        )
        for warning in loaded.warnings[:_MAX_WARNINGS_LOGGED]:
            logs.event(logger, logging.WARNING, "policy_odd", problem=str(warning))
        return loaded


class PolicyWatcher:
    """Loads changes and hands them on.

    `loaded` receives a new policy; `refused` receives the sentence that says
    what is wrong, once for each content. `problem` is that sentence for as
    long as the files hold something that is not in force; `judged` is set
    whenever it may have changed. `on_loaded` are called after `loaded` with
    each new policy: to announce it to others.
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
        self._announced = asyncio.Event()
        self.problem = ""
        self.judged = asyncio.Event()
        self.on_loaded: list[Callable[[Policy], None]] = []

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._announced.wait()
            except TimeoutError:
                await self.look()
            else:
                self._announced.clear()
                await self.look()
                await asyncio.sleep(_AGAIN_S)
                await self.look()

    def announced(self) -> None:
        """Somebody says that the policy has changed: look now. To be called in the event loop's thread."""
        self._announced.set()

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
            policy = await asyncio.to_thread(self._files.load_beside, seen)
        except PolicyError as error:
            self.problem = str(error)
            self.judged.set()
            logs.event(logger, logging.WARNING, "policy_refused", problem=self.problem)
            self._refused(self.problem)
            return
        self.problem = ""
        self.judged.set()
        logs.event(logger, logging.INFO, "policy_loaded", version=policy.version, rules=policy.size)
        self._loaded(policy)
        for announce in self.on_loaded:
            announce(policy)


class _Rests:
    """Sleeps a moment after each millisecond of work: only that makes a thread leave the interpreter to others."""

    def __init__(self) -> None:
        self._calls = 0
        self._since_s = time.perf_counter()

    def __call__(self) -> None:
        self._calls += 1
        if self._calls % 16 == 0 and time.perf_counter() - self._since_s > _WORK_S:
            time.sleep(_REST_S)
            self._since_s = time.perf_counter()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rules are many objects that live long, and none is in a cycle: the collector would only stop everybody to read
    them, now and at each of its later rounds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


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
