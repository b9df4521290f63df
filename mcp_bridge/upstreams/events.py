"""Server-sent events out of a byte stream (HTML Living Standard, "Server-sent events"). Pure.

Bytes stay bytes: a decoder in between would turn what is not UTF-8 into
something that the server never sent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Event", "EventReader", "EventTooLarge", "Position"]

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_MAX_ID_BYTES = 1024
_MAX_RETRY_MS = 60_000


class EventTooLarge(ValueError):
    """An event, or a line, is longer than allowed."""


@dataclass(frozen=True, slots=True)
class Event:
    """`data` is empty for an event that only tells an id or a time to wait."""

    kind: bytes
    data: bytes


@dataclass(slots=True)
class Position:
    """Where a stream is: what a client says, and how long it waits, when it comes again."""

    last_id: bytes = b""
    message_id: bytes = b""
    """Of the last event that carried something, or else of the first event: whoever comes back to it gets nothing
    twice."""
    retry_s: float | None = None


@dataclass(slots=True)
class EventReader:
    """Feed it chunks; it yields events and keeps `position`. Holds at most `max_bytes` and one chunk."""

    max_bytes: int
    position: Position = field(default_factory=Position)
    _line: bytearray = field(default_factory=bytearray)
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0
    _kind: bytes = b""
    _started: bool = False
    _after_cr: bool = False

    @property
    def is_inside(self) -> bool:
        """An event has begun and not ended."""
        return bool(self._line or self._data)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk)
        for line in lines:
            self._line += line
            event = self._take(bytes(self._line))
            self._line.clear()
            if event is not None:
                yield event
        self._line += rest
        self._check_size(len(self._line))

    def _take(self, line: bytes) -> Event | None:
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._check_size(len(value))
                self._data.append(value)
                self._size += len(value) + 1
            case b"event":
                self._kind = value[:64]
            case b"id" if b"\0" not in value and len(value) <= _MAX_ID_BYTES:
                self.position.last_id = value
            case b"retry" if value.isdigit() and len(value) < 10:
                self.position.retry_s = min(int(value), _MAX_RETRY_MS) / 1000
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._kind or b"message", b"\n".join(self._data)) if self._data else None
        if (event is not None and event.data) or not self.position.message_id:
            self.position.message_id = self.position.last_id
        self._data, self._size, self._kind = [], 0, b""
        return event

    def _check_size(self, more: int) -> None:
        if self._size + more > self.max_bytes:
            raise EventTooLarge
