"""Lines of bounded length out of a byte stream, for a child's stdout and stderr. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["LineReader", "TooLong", "one_line"]

_KEPT_BYTES = 256


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line that was longer than allowed: how it started and ended."""

    head: bytes
    tail: bytes
    length: int


class LineReader:
    """Feed it chunks; it yields complete lines without their end, and `TooLong` for those over `max_bytes`.

    Holds at most `max_bytes` and one chunk.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._skipped = 0
        self._head = b""

    def feed(self, chunk: bytes) -> Iterator[bytes | TooLong]:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._buffer += chunk[start:end]
            yield self._take()
            start = end + 1
        self._buffer += chunk[start:]
        if len(self._buffer) > self._max_bytes:
            self._skip()

    def _take(self) -> bytes | TooLong:
        if self._skipped or len(self._buffer) > self._max_bytes:
            self._skip()
            line: bytes | TooLong = TooLong(self._head, bytes(self._buffer), self._skipped + len(self._buffer))
        else:
            line = bytes(self._buffer)
        self._buffer.clear()
        self._skipped = 0
        return line

    def _skip(self) -> None:
        if not self._skipped:
            self._head = bytes(self._buffer[:_KEPT_BYTES])
        surplus = max(0, len(self._buffer) - _KEPT_BYTES)
        self._skipped += surplus
        del self._buffer[:surplus]


def one_line(message: bytes) -> bytes:
    """`message` (valid JSON) as exactly one line under every reader's idea of a line.

    Between JSON tokens a line break is only space, but to a line-based reader
    it would end one message and start another, which nobody authorized. Inside
    strings raw line breaks are not JSON, except U+2028 and U+2029, which some
    readers take for line ends: they become escapes.
    """
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\n", b" ").replace(b"\r", b" ")
    if b"\xe2\x80" in message:
        message = message.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return message + b"\n"
