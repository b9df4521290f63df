"""What goes out: frames of responses, within the windows that the peer grants (RFC 9113, 5.2). Pure.

Messages are cut into frames as views: the one copy of a message is the one that goes to the socket.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from secure_mcp_grpc.http2.messages import HEADERS_OK, PREFIX_BYTES, TRAILERS_OK, prefix, prefixed
from secure_mcp_grpc.http2.wire import (
    FLAG_END_HEADERS,
    FLAG_END_STREAM,
    FRAME_HEADER,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    FrameType,
    StreamFault,
    frame,
)

__all__ = ["Outlet", "Sender"]

_DEFAULT_WINDOW: Final = 65_535
_END: Final = FLAG_END_HEADERS | FLAG_END_STREAM
_ROOM_BYTES: Final = 64 * 1024
"""A stream has room for another message while no more than this of it waits for windows."""


@dataclass(slots=True)
class Outlet:
    """Our half of one stream."""

    stream_id: int
    window: int
    """Octets of DATA that the peer still takes; negative after it has shrunk its windows (6.9.2)."""
    begun: bool = False
    """The header block is out."""
    waiting: deque[memoryview] = field(default_factory=deque)
    """DATA that waits for a window."""
    waiting_bytes: int = 0
    ending: bytes | None = None
    """The header block that ends the stream, once `waiting` is out."""
    full: bool = False
    """Whoever sends was told to wait for room."""

    @property
    def has_room(self) -> bool:
        return self.waiting_bytes <= _ROOM_BYTES


class Sender:
    """The frames of one connection, in `out` until they are taken, and DATA that waits for windows."""

    def __init__(self) -> None:
        self.out: list[bytes | memoryview] = []
        self.waiting_bytes = 0
        self.frame_size = MAX_FRAME_SIZE
        self.with_room: list[int] = []
        """Streams that were full and have room again; whoever reads it empties it."""
        self._window = _DEFAULT_WINDOW
        self._initial = _DEFAULT_WINDOW
        self._stalled: dict[int, Outlet] = {}

    def open(self, stream_id: int) -> Outlet:
        return Outlet(stream_id, self._initial)

    def answer(self, outlet: Outlet, message: bytes, fields: bytes = b"") -> bool:
        """A whole unary response, with more header `fields` as a block.

        Whether the stream is through; otherwise it ends when windows open.
        """
        size = len(message) + PREFIX_BYTES
        stream_id = outlet.stream_id
        if outlet.begun or size > outlet.window or size > self._window or size > self.frame_size:
            self.begin(outlet, fields)
            self.send(outlet, message)
            return self.end(outlet, TRAILERS_OK)
        self._window -= size
        self.out += (
            frame(FrameType.HEADERS, FLAG_END_HEADERS, stream_id, HEADERS_OK + fields),
            frame(FrameType.DATA, 0, stream_id, prefixed(message)),
            frame(FrameType.HEADERS, _END, stream_id, TRAILERS_OK),
        )
        return True

    def begin(self, outlet: Outlet, fields: bytes = b"") -> None:
        """The response's headers, unless they are out."""
        if not outlet.begun:
            outlet.begun = True
            self.out.append(frame(FrameType.HEADERS, FLAG_END_HEADERS, outlet.stream_id, HEADERS_OK + fields))

    def send(self, outlet: Outlet, message: bytes) -> None:
        """One message of a response that has begun."""
        outlet.waiting += (memoryview(prefix(len(message))), memoryview(message))
        outlet.waiting_bytes += len(message) + PREFIX_BYTES
        self.waiting_bytes += len(message) + PREFIX_BYTES
        self._flow(outlet)
        outlet.full = not outlet.has_room

    def end(self, outlet: Outlet, block: bytes) -> bool:
        """End the stream with the header block `block`, after what still waits. Whether it is through."""
        outlet.ending = block
        return self._flow(outlet)

    def drop(self, outlet: Outlet) -> None:
        """The stream is reset: what waits is not wanted."""
        self.waiting_bytes -= outlet.waiting_bytes
        outlet.waiting.clear()
        outlet.waiting_bytes = 0
        self._stalled.pop(outlet.stream_id, None)

    def longest_stalled(self) -> int:
        """The stream, of those that wait, whose peer has taken nothing for longest."""
        return next(iter(self._stalled))

    def widen(self, increment: int) -> list[Outlet]:
        """WINDOW_UPDATE for the connection; the outlets that got through with it."""
        if increment == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
        if self._window + increment > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
        self._window += increment
        return self._flow_all()

    def widen_stream(self, outlet: Outlet, increment: int) -> bool:
        """WINDOW_UPDATE for one stream; whether it got through with it."""
        if outlet.window + increment > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        outlet.window += increment
        return bool(outlet.waiting) and self._flow(outlet)

    def set_initial_window(self, value: int, live: Iterable[Outlet]) -> list[Outlet]:
        """SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of `live` too (6.9.2); those that got through."""
        difference, self._initial = value - self._initial, value
        for outlet in live:
            outlet.window += difference
            if outlet.window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
        return self._flow_all() if difference > 0 else []

    def _flow_all(self) -> list[Outlet]:
        """In turn, those first whose streams have waited longest: none starves behind another."""
        through = []
        for outlet in list(self._stalled.values()):
            if self._window <= 0:
                break
            if outlet.window > 0 and self._flow(outlet):
                through.append(outlet)
        return through

    def _flow(self, outlet: Outlet) -> bool:
        """Send what the windows allow. True when the stream's end is out."""
        moved = False
        while (size := min(outlet.waiting_bytes, outlet.window, self._window, self.frame_size)) > 0:
            self._send_data(outlet, size)
            moved = True
        if outlet.full and outlet.has_room:
            outlet.full = False
            self.with_room.append(outlet.stream_id)
        if outlet.waiting:
            if moved:
                self._stalled.pop(outlet.stream_id, None)
            self._stalled[outlet.stream_id] = outlet
            return False
        self._stalled.pop(outlet.stream_id, None)
        if outlet.ending is None:
            return False
        self.out.append(frame(FrameType.HEADERS, _END, outlet.stream_id, outlet.ending))
        return True

    def _send_data(self, outlet: Outlet, size: int) -> None:
        self.out.append(FRAME_HEADER.pack(size >> 16, size & 0xFFFF, FrameType.DATA, 0, outlet.stream_id))
        outlet.window -= size
        outlet.waiting_bytes -= size
        self._window -= size
        self.waiting_bytes -= size
        waiting = outlet.waiting
        while size:
            piece = waiting[0]
            if len(piece) <= size:
                self.out.append(waiting.popleft())
                size -= len(piece)
            else:
                self.out.append(piece[:size])
                waiting[0] = piece[size:]
                return
        while waiting and not waiting[0]:  # an empty message has no octets after its prefix
            waiting.popleft()
