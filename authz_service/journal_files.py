"""The files of the decision journal: names, order, repair after a crash, reading from a position, the cursor.

A journal is a directory of `journal-00000001.jsonl`, `journal-00000002.jsonl`,
…; each line is one record and ends with a newline. Only the last file grows.
"""

import fcntl
import json
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secure_mcp_grpc import lifecycle, logs
from secure_mcp_grpc.errors import UserError

__all__ = [
    "Position",
    "end_of_lines",
    "file_name",
    "files",
    "last_line",
    "lock",
    "read_cursor",
    "read_lines",
    "write_cursor",
]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"journal-([0-9]{8,})\.jsonl")
_BLOCK_BYTES: Final = 64 * 1024
_LOCK_WAIT_S: Final = 3.0


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two records: file number and byte offset."""

    file: int = 0
    offset: int = 0


def file_name(number: int) -> str:
    return f"journal-{number:08d}.jsonl"


def files(directory: Path) -> dict[int, Path]:
    """Number → path of the journal files, in order."""
    found = {int(match[1]): path for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def lock(directory: Path) -> int:
    """Keep every other process from writing this journal until the returned descriptor is closed.

    Waits a little for a predecessor that is ending; raises `UserError` after that.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                os.close(descriptor)
                raise UserError(
                    f"another process writes the journal in {directory}; stop it or name another journal_dir"
                ) from None
            time.sleep(0.05)


def end_of_lines(descriptor: int) -> int:
    """Offset after the last newline: what follows it is a record that a crash cut off."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def last_line(path: Path) -> bytes:
    """The last complete line without its newline; empty for a file without one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = end_of_lines(descriptor)
        start, text = end, b""
        while start > 0 and b"\n" not in text[:-1]:
            start = max(0, start - _BLOCK_BYTES)
            text = os.pread(descriptor, end - start, start)
        return text.rstrip(b"\n").rpartition(b"\n")[2]
    finally:
        os.close(descriptor)


def read_lines(directory: Path, position: Position, max_bytes: int, max_lines: int) -> tuple[list[bytes], Position]:
    """Complete lines from `position` on, without newlines, and the position after them.

    At most `max_lines` and about `max_bytes`, from one file. A position in a file that is gone continues at the next
    one that exists. No lines and an unmoved position: everything is read.
    """
    existing = files(directory)
    for number in [number for number in existing if number >= position.file]:
        offset = position.offset if number == position.file else 0
        lines, offset = _read(existing[number], offset, max_bytes, max_lines)
        if lines:
            return lines, Position(number, offset)
    return [], position


def _read(path: Path, offset: int, max_bytes: int, max_lines: int) -> tuple[list[bytes], int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = os.pread(descriptor, max_bytes, offset)
        while block and b"\n" not in block and len(block) == max_bytes:  # one line longer than a block
            max_bytes *= 2
            block = os.pread(descriptor, max_bytes, offset)
    finally:
        os.close(descriptor)
    lines = block[: block.rfind(b"\n") + 1].split(b"\n")[:-1][:max_lines]
    return lines, offset + sum(len(line) + 1 for line in lines)


def read_cursor(directory: Path) -> Position:
    """The position kept in `directory`; the beginning where there is none that can be read."""
    try:
        document = json.loads(_cursor_path(directory).read_bytes())
        return Position(int(document["file"]), int(document["offset"]))
    except FileNotFoundError:
        return Position()
    except (OSError, ValueError, KeyError, TypeError) as error:
        logs.event(logger, logging.WARNING, "cursor_unreadable", error=type(error).__name__)
        return Position()


def write_cursor(directory: Path, position: Position) -> None:
    document = {"file": position.file, "offset": position.offset}
    lifecycle.write_by_rename(_cursor_path(directory), json.dumps(document).encode(), mode=0o600)


def _cursor_path(directory: Path) -> Path:
    return directory / "cursor.json"
