"""One part of the stack as a process: started, watched, restarted with back-off, stopped.

The supervisor (`secure_mcp_grpc.stack.supervisor`) decides the order; a
`RunningPart` owns one process at a time and tells every change of state.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TextIO

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import EXIT_USER_ERROR

__all__ = ["PartSpec", "PartState", "RunningPart", "State"]

State = Literal["starting", "ready", "restarting", "stopping", "stopped"]

_FIRST_BACKOFF_S = 0.2
_LAST_BACKOFF_S = 5.0
_STEADY_S = 30.0
"""A part that was up this long starts its next back-off from the beginning."""
_PROBE_EVERY_S = 0.05
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class PartSpec:
    """How to run one part.

    `prepare` runs before each start and returns the command; `probe` answers,
    for the process id given, whether the part is ready. `inherited` maps an
    environment variable to a listening socket whose descriptor number it will
    hold. `drain` runs before SIGTERM.
    """

    name: str
    prepare: Callable[[], Sequence[str]]
    probe: Callable[[int], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, socket.socket] = field(default_factory=dict)
    drain: Callable[[], Awaitable[None]] | None = None
    stop_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class PartState:
    """What a part is doing, since when (Unix time) and, if it is not ready, why not."""

    name: str
    state: State
    since: float
    why: str = ""
    pid: int = 0
    restarts: int = 0


class RunningPart:
    """The process of one part, over all its lives.

    `start` returns when the part is ready for the first time and raises
    `UserError` where it cannot come up; after that `watch` keeps it alive.
    """

    def __init__(self, spec: PartSpec, on_change: Callable[[PartState], None], output: TextIO) -> None:
        self.spec = spec
        self.state = PartState(spec.name, "stopped", time.time())
        self._on_change = on_change
        self._output = output
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=20)
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start and wait until ready; raises `UserError` with the part's last words if it ends or takes too long."""
        self._set("starting")
        process = await self._spawn()
        if await self._wait_ready(process):
            self._set("ready", pid=process.pid)
            return
        code = process.returncode
        if code is None:
            await self.stop()
            raise UserError(f"{self.spec.name} was not ready within {_START_TIMEOUT_S:.0f} s: {self._last_words()}")
        await self._finish_output()
        self._set("stopped", why=f"exit code {code}")
        words = self._last_words()
        if code == EXIT_USER_ERROR:
            raise UserError(words.removeprefix(f"{self.spec.name}: "))
        raise UserError(f"{self.spec.name} ended while starting (exit code {code}): {words}")

    async def watch(self) -> None:
        """Restart the process whenever it ends, with back-off; returns once `stop` was called."""
        backoff_s = _FIRST_BACKOFF_S
        while (process := self._process) is not None and not self._stopping.is_set():
            up_since = time.monotonic()
            code = await process.wait()
            if self._stopping.is_set():
                return
            await self._finish_output()
            if time.monotonic() - up_since > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            why = f"ended with {_exit_reason(code)}; {self._last_words()}"
            while why:
                self._set("restarting", why=why, restarts=self.state.restarts + 1)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
                why = await self._start_again()

    async def _start_again(self) -> str:
        """Start the process anew and see it become ready; why it could not be started, or ""."""
        async with self._starting:  # `stop` must not look away while a process comes into being
            if self._stopping.is_set():
                return ""
            try:
                process = await self._spawn()
            except (UserError, OSError) as error:
                return str(error)
        if await self._wait_ready(process):
            self._set("ready", pid=process.pid)
        elif process.returncode is None:
            process.kill()
        return ""

    async def stop(self) -> None:
        """Drain, SIGTERM, and SIGKILL after `stop_timeout_s`; nothing of the part is left afterwards."""
        self._stopping.set()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            await self._finish_output()
            if self.state.state != "stopped":
                self._set("stopped")
            return
        self._set("stopping", pid=process.pid)
        if self.spec.drain:
            await self.spec.drain()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.spec.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            _kill_group(process.pid)
            await process.wait()
        await self._finish_output()
        self._set("stopped")

    def kill(self) -> None:
        """SIGKILL to the process and its children, for the last resort."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            _kill_group(self._process.pid)

    async def _spawn(self) -> asyncio.subprocess.Process:
        env = {**os.environ, **self.spec.env}
        for variable, listener in self.spec.inherited.items():
            env[variable] = str(listener.fileno())
        command = self.spec.prepare()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[listener.fileno() for listener in self.spec.inherited.values()],
                # Ctrl-C in a terminal goes to the whole group: only the supervisor may act on it, in order.
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise UserError(f"{self.spec.name}: {command[0]} cannot be started: {error.strerror}") from None
        self._process = process
        self._tail.clear()
        self._copying = asyncio.create_task(self._copy_output(process.stdout), name=f"{self.spec.name}-output")
        return process

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.returncode is None and time.monotonic() < deadline and not self._stopping.is_set():
            if await self.spec.probe(process.pid):
                return True
            await asyncio.sleep(_PROBE_EVERY_S)
        return False

    async def _copy_output(self, stdout: asyncio.StreamReader | None) -> None:
        while stdout is not None and (chunk := await _read_line(stdout)):
            line = chunk.decode("utf-8", "replace").rstrip("\n")
            if line.strip():
                self._tail.append(line)
            self._output.write(line + "\n")
            self._output.flush()

    async def _finish_output(self) -> None:
        """Take in what the ended process wrote last. A grandchild may hold the pipe open: do not wait for it."""
        if self._copying is not None:
            await asyncio.wait([self._copying], timeout=0.5)
            self._copying.cancel()

    def _last_words(self) -> str:
        return self._tail[-1] if self._tail else "it said nothing"

    def _set(self, state: State, *, why: str = "", pid: int = 0, restarts: int | None = None) -> None:
        count = self.state.restarts if restarts is None else restarts
        self.state = PartState(self.spec.name, state, time.time(), why, pid, count)
        self._on_change(self.state)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """A line, or a piece of one that is longer than the reader's limit; b"" at the end."""
    try:
        return await stream.readline()
    except ValueError:
        return await stream.read(65536)


def _exit_reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """In the child, before exec: SIGKILL when the supervisor dies, so that even kill -9 of it leaves nothing behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
