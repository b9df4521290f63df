"""How a part starts, says that it is ready, and stops.

`main` is the frame of every part's `__main__.py`: settings, logs, exit codes.
A part that is up writes `<run_dir>/<part>.json` (an announcement) by rename;
the supervisor and `secure-mcp-grpc health` read it. Stopping reads top to
bottom in each part: stop listening, drain, flush, close.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.settings import CommonSettings

__all__ = [
    "EXIT_USER_ERROR",
    "announce",
    "announcement_path",
    "finish",
    "inherited_socket",
    "main",
    "private_directory",
    "socket_path",
    "stop_event",
    "withdraw",
    "write_by_rename",
]

EXIT_USER_ERROR = 2
_MAX_SOCKET_PATH_BYTES = 100
"""sun_path is 104 bytes on macOS and 108 on Linux, its end included."""

S = TypeVar("S", bound=CommonSettings)


def main(part: str, settings_class: type[S], run: Callable[[S], Awaitable[None]]) -> None:
    """Load settings, configure logs, run the part until it ends; does not return.

    Exit codes: 0 after a clean stop, 2 for something the person who started it
    can mend (one line on stderr), 1 for a bug.
    """
    try:
        settings = settings_class.load()
        logs.configure(part, level=settings.log_level, form=settings.log_format)
        asyncio.run(_run(run, settings))
    except UserError as error:
        sys.stderr.write(f"{part}: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    sys.exit(0)


async def _run(run: Callable[[S], Awaitable[None]], settings: S) -> None:
    await run(settings)


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. Call it from the running loop, before anything starts listening."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


async def finish(task: asyncio.Task[None], *, timeout_s: float) -> None:
    """Let `task` come to its end within `timeout_s` seconds, then cancel it. What it raised stays with the task."""
    _, running = await asyncio.wait([task], timeout=timeout_s)
    if running:
        task.cancel()
        await asyncio.wait([task])


def private_directory(path: Path) -> Path:
    """`path`, made if missing, with mode 0700 and owned by us; raises `UserError` otherwise."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise UserError(f"directory {path} cannot be made: {error.strerror}") from None
    if status.st_uid != os.geteuid():
        raise UserError(f"directory {path} belongs to another user; remove it or name another one")
    if status.st_mode & 0o077:
        raise UserError(f"directory {path} is open to other users; run: chmod 700 {path}")
    return path


def socket_path(run_dir: Path, part: str) -> Path:
    """The Unix socket of `part`. Raises `UserError` where the system could not bind it."""
    path = run_dir / f"{part}.sock"
    if len(os.fsencode(path.absolute())) > _MAX_SOCKET_PATH_BYTES:
        raise UserError(f"run_dir {run_dir} is too long for a Unix socket; choose a path under 80 characters")
    return path


def announcement_path(run_dir: Path, part: str) -> Path:
    return run_dir / f"{part}.json"


def announce(
    run_dir: Path, part: str, endpoints: Mapping[str, str], components: Mapping[str, str] | None = None
) -> None:
    """Say that `part` is up and where: `endpoints` maps a name (`metrics`, `http`, `grpc`, `health`) to an address.

    `components` maps further names that its grpc.health.v1 knows to the sentence that is true while one is unwell.
    """
    document = {
        "part": part,
        "pid": os.getpid(),
        "since": time.time(),
        "endpoints": dict(endpoints),
        "components": dict(components or {}),
    }
    write_by_rename(announcement_path(run_dir, part), json.dumps(document).encode(), mode=0o600)


def withdraw(run_dir: Path, part: str) -> None:
    """Take the announcement back, before the part stops listening."""
    announcement_path(run_dir, part).unlink(missing_ok=True)


def write_by_rename(path: Path, content: bytes, *, mode: int) -> None:
    """Replace `path` atomically: readers see the old content or the new, never a part; it survives a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def inherited_socket(descriptor: int | None, host: str, port: int, part: str) -> Iterator[socket.socket]:
    """A listening TCP socket: the one inherited as `descriptor`, or a new one on `host:port`.

    The supervisor binds sockets itself and hands them down, so that a part
    that dies comes back at the same address and nobody can take it meanwhile.
    """
    if descriptor is not None:
        listener = socket.socket(fileno=descriptor)
    else:
        try:
            listener = socket.create_server((host, port), reuse_port=False)
        except OSError as error:
            raise UserError(f"{part} cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    with listener:
        listener.setblocking(False)
        yield listener
