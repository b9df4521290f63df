"""Reads a journal as it stands at one moment, block by block, while its service may be writing on.

Every file is opened at once, so that pruning cannot take one away in between.
"""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from authz_service import journal_files
from authz_service.audit import anchors
from authz_service.audit.anchors import AnchorBook
from authz_service.audit.findings import Finding, Report
from authz_service.audit.verify import Keys
from authz_service.journal_files import Position
from secure_mcp_grpc.errors import UserError

__all__ = ["Block", "JournalReader", "read_anchors"]

_BLOCK_BYTES: Final = 1 << 20
_LONGEST_LINE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines in a row of one file, without newlines."""

    path: Path
    first_line: int
    lines: list[bytes]
    size_bytes: int
    shipped: bool
    """All lines stand before the shipper's cursor; otherwise none does."""

    def place(self, index: int) -> str:
        return f"{self.path.name}:{self.first_line + index}"


class JournalReader:
    """The journal in `directory`, up to where it reaches now. `cursor`: what stands before it is acknowledged."""

    def __init__(self, directory: Path, cursor: Position = Position()) -> None:  # noqa: B008 - frozen
        """Raises `UserError`."""
        self._cursor = cursor
        self._closing = contextlib.ExitStack()
        try:
            paths = journal_files.files(directory)
            self._files = [(number, path, self._open(path)) for number, path in paths.items()]
            self._sizes = [os.fstat(descriptor).st_size for _, _, descriptor in self._files]
        except OSError as error:
            self._closing.close()
            raise UserError(f"the journal in {directory} cannot be read: {error.strerror}") from None
        if not self._files:
            raise UserError(f"there is no journal in {directory}")
        self.size_bytes = sum(self._sizes)

    def _open(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._closing.callback(os.close, descriptor)
        return descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def blocks(self, report: Report) -> Iterator[Block]:
        """All lines in order. What is cut off at the end of a file goes to `report`: at the very end it is no finding,
        since a crash leaves it, and the next start of the service removes it."""
        for index, (number, path, descriptor) in enumerate(self._files):
            end = yield from self._read(number, path, descriptor, self._sizes[index])
            if left := self._sizes[index] - end:
                if index == len(self._files) - 1:
                    report.notice(f"{path.name} ends with {left} bytes of an unfinished record")
                else:
                    text = f"the file ends with {left} bytes of an unfinished record"
                    report.add(Finding("journal", "unreadable", "", 0, 0, text, path.name))

    def _read(self, number: int, path: Path, descriptor: int, size: int) -> Generator[Block, None, int]:
        offset, line = 0, 1
        while offset < size:
            shipped = Position(number, offset) < self._cursor
            limit = self._cursor.offset if shipped and number == self._cursor.file else size
            text = self._whole_lines(descriptor, offset, limit)
            if not text:
                if limit == size:
                    break
                text = self._whole_lines(descriptor, offset, size)  # a cursor within a line
            lines = text.split(b"\n")[:-1]
            yield Block(path, line, lines, len(text), shipped)
            line += len(lines)
            offset += len(text)
        return offset

    @staticmethod
    def _whole_lines(descriptor: int, offset: int, limit: int) -> bytes:
        wanted = _BLOCK_BYTES
        while True:
            block = os.pread(descriptor, min(wanted, limit - offset), offset)
            end = block.rfind(b"\n") + 1
            if end or len(block) < wanted or wanted > _LONGEST_LINE_BYTES:
                return block[:end]
            wanted *= 4


def read_anchors(path: Path, keys: Keys, book: AnchorBook, report: Report) -> None:
    """Take the anchors in a file; one that is unreadable, badly signed or contradicts another is a finding.

    Raises `UserError` where the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"anchors file {path} cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            place = f"{path.name}:{number}"
            if not line.endswith(b"\n"):
                report.notice(f"{path.name} ends with {len(line)} bytes of an unfinished anchor")
                return
            anchor = anchors.parse(line)
            if anchor is None:
                report.add(Finding("anchors", "unreadable", "", 0, 0, "no anchor can be read here", place))
                continue
            report.counts["anchors"] += 1
            wrong = ""
            if keys.anchor_keys and not anchors.verify(anchor, keys.anchor_keys):
                wrong = "the anchor is not signed with a given key"
            elif not book.add(anchor, place):
                wrong = "the anchor contradicts another one of the same record"
            if wrong:
                report.add(Finding("anchors", "anchor", anchor.chain, anchor.seq, anchor.seq, wrong, place))
