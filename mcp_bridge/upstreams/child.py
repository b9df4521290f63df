"""One child process that speaks MCP over its standard input and output."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mcp_bridge.capture.patterns import BUILT_IN, replaced
from mcp_bridge.errors import HopError, NotStarted, too_large, unavailable
from mcp_bridge.exchange import Session
from mcp_bridge.multiplex import Multiplex
from mcp_bridge.upstreams import launch
from mcp_bridge.upstreams.lines import LineReader, TooLong, one_line
from secure_mcp_grpc import logs

__all__ = ["Child"]

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
_LINES_AT_ONCE = 256
_STDERR_LINE_BYTES = 2048
_STDERR_LINES_PER_S = 20
_IDLE_TALK = 10_000
_IDLE_TALK_S = 10.0
"""Messages in so many seconds that a child may send while no request is in flight."""
_END_OF_INPUT_S = 0.4
_TERMINATE_S = 0.4


class Child:
    """A started child and the requests on it. Make one with `start`; `close` leaves no process of its group behind."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, session: Session | None, max_message_bytes: int
    ) -> None:
        self._name = name
        self._process = process
        self._max_message_bytes = max_message_bytes
        self.started = time.monotonic()
        self.closing = False
        self._idle_since = self.started
        self._idle_messages = 0
        self.session = session
        self.peer = Multiplex(name, self._write, session)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        session: Session | None,
        max_message_bytes: int,
        on_end: Callable[["Child"], None],
        limits: str = "",
    ) -> "Child":
        """Start `command` in a process group of its own, within `limits` (see `launch`).

        Raises `HopError` where the system refuses.
        """
        launcher = (sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), limits)
        arguments = (*launcher, *command)
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                limit=_CHUNK_BYTES,
            )
        except OSError as error:
            logs.event(logger, logging.WARNING, "upstream_not_started", server=name, reason=error.strerror)
            raise NotStarted(name) from None
        child = cls(name, process, session, max_message_bytes)
        child._tasks = [
            asyncio.create_task(child._read(on_end), name=f"{name} stdout"),
            asyncio.create_task(child._log(), name=f"{name} stderr"),
        ]
        logs.event(logger, logging.INFO, "upstream_started", server=name, pid=process.pid)
        return child

    @property
    def has_spoken(self) -> bool:
        return self.peer.has_spoken

    def deadline(self, start_timeout_s: float) -> float:
        """When it must have spoken, on the event loop's clock."""
        return asyncio.get_running_loop().time() + start_timeout_s - (time.monotonic() - self.started)

    def kill(self, error: HopError) -> None:
        """At once; all its requests fail with `error`."""
        self.peer.fail(error)
        self._signal(signal.SIGKILL)

    async def drain(self) -> None:
        """Wait until the child has room for more input."""
        if self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.drain()

    async def close(self) -> None:
        """End of input, then SIGTERM, then SIGKILL to the whole group (2025-11-25, "Shutdown", stdio)."""
        self.closing = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not await self._ended(_END_OF_INPUT_S):
            self._signal(signal.SIGTERM)
            await self._ended(_TERMINATE_S)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._empty()
        if not self.peer.has_failed:
            self.peer.fail(unavailable(f"the MCP server {self._name} was ended"), ends_session=False)

    async def _empty(self) -> None:
        """Read what a flooding child left in its pipes: they are closed at their end, and not before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TERMINATE_S):
                for pipe in (_pipe(self._process.stdout), _pipe(self._process.stderr)):
                    while await pipe.read(_CHUNK_BYTES):
                        pass

    def _count_idle_talk(self) -> None:
        """A child that floods while nobody asked it anything only costs: it is ended."""
        if self.peer.in_flight:
            self._idle_messages = 0
            return
        if (now := time.monotonic()) - self._idle_since > _IDLE_TALK_S:
            self._idle_since, self._idle_messages = now, 0
        self._idle_messages += 1
        if self._idle_messages > _IDLE_TALK and not self.peer.has_failed:
            logs.event(logger, logging.WARNING, "upstream_flooded", server=self._name, messages=self._idle_messages)
            self.kill(unavailable(f"the MCP server {self._name} ended before it answered"))

    def _write(self, message: bytes) -> None:
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(one_line(message))

    async def _ended(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        """To the group, which is also there when the child itself is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self, on_end: Callable[["Child"], None]) -> None:
        lines = LineReader(self._max_message_bytes)
        while chunk := await _pipe(self._process.stdout).read(_CHUNK_BYTES):
            for number, line in enumerate(lines.feed(chunk), 1):
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)  # a chunk may hold tens of thousands: others have their turn
                if isinstance(line, TooLong):
                    answer = f"an answer of the MCP server {self._name}"
                    self.peer.broken(line.head, line.tail, too_large(answer, self._max_message_bytes))
                elif line.strip():
                    await self.peer.received(line)
                    self._count_idle_talk()
        # Without its output the child is of no use, even if it still runs.
        if not await self._ended(_TERMINATE_S):
            self._signal(signal.SIGKILL)
            await self._process.wait()
        status = self._process.returncode
        if not self.closing:
            logs.event(logger, logging.WARNING, "upstream_ended", server=self._name, status=status)
        ended = unavailable(f"the MCP server {self._name} ended before it answered")
        failure = NotStarted(self._name) if status == launch.CANNOT_START else ended
        # A child that is ended on purpose may be so because its session goes on without it, at a server of another era.
        self.peer.fail(failure, ends_session=not self.closing)
        on_end(self)

    async def _log(self) -> None:
        """Keep what the child says on stderr, as bounded lines at a bounded rate; the rest is counted.

        Servers print what they were given: secrets are looked for as in records.
        """
        lines = LineReader(_STDERR_LINE_BYTES)
        second, written, dropped = 0, 0, 0
        while chunk := await _pipe(self._process.stderr).read(_CHUNK_BYTES):
            for line in lines.feed(chunk):
                if (now := int(time.monotonic())) != second:
                    if dropped:
                        logs.event(logger, logging.WARNING, "upstream_stderr_dropped", server=self._name, lines=dropped)
                    second, written, dropped = now, 0, 0
                if written >= _STDERR_LINES_PER_S:
                    dropped += 1
                    continue
                written += 1
                text = (line.head if isinstance(line, TooLong) else line).decode("utf-8", "replace").rstrip()
                text = replaced(text, BUILT_IN, lambda _secret: "[redacted]")
                logs.event(logger, logging.INFO, "upstream_stderr", server=self._name, line=text)


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    """asyncio types it as optional; `start` always asks for it."""
    if stream is None:
        raise RuntimeError("the child was started without a pipe")
    return stream
