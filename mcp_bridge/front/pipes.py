"""The process's own stdin and stdout as bytes, for MCP alone: what else is printed goes to stderr."""

import asyncio
import contextlib
import os
import stat
import threading
from asyncio.streams import FlowControlMixin
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

__all__ = ["Read", "Write", "open_stdio"]

Read = Callable[[], Awaitable[bytes]]
"""The next bytes; empty at the end."""
Write = Callable[[bytes], Awaitable[None]]
"""Waits while the reader is slow; raises `ConnectionError` when it is gone."""

_CHUNK: Final = 64 * 1024


@contextlib.asynccontextmanager
async def open_stdio() -> AsyncIterator[tuple[Read, Write]]:
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        async with _reading(os.dup(0)) as read, _writing(out) as write:
            yield read, write
    finally:
        os.dup2(out, 1)


@contextlib.asynccontextmanager
async def _reading(fd: int) -> AsyncIterator[Read]:
    if not _is_pipe(fd):
        yield _reads_of_a_thread(fd)
        return
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    with os.fdopen(fd, "rb", buffering=0) as file:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        try:
            yield lambda: reader.read(_CHUNK)
        finally:
            transport.close()


@contextlib.asynccontextmanager
async def _writing(fd: int) -> AsyncIterator[Write]:
    if not _is_pipe(fd):

        async def write(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]

        yield write
        return
    loop = asyncio.get_running_loop()
    with os.fdopen(os.dup(fd), "wb", buffering=0) as file:
        transport, protocol = await loop.connect_write_pipe(FlowControlMixin, file)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            yield send
        finally:
            transport.abort()


def _is_pipe(fd: int) -> bool:
    """What the event loop can wait for: clients start servers on pipes or socket pairs, people on terminals and
    files."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _reads_of_a_thread(fd: int) -> Read:
    """The thread may stay in its read for ever, so it must not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(4)

    def work() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while chunk := os.read(fd, _CHUNK):
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
            asyncio.run_coroutine_threadsafe(chunks.put(b""), loop)

    threading.Thread(target=work, daemon=True, name="stdin").start()
    return chunks.get
