"""What goes out: frames of responses, within the windows that the peer grants (RFC 9113, 5.2). Pure."""

from dataclasses import dataclass, field
from typing import Final

from secure_mcp_grpc.http2.messages import HEADERS_OK, TRAILERS_OK, prefixed
from secure_mcp_grpc.http2.wire import (
    FLAG_END_HEADERS,
    FLAG_END_STREAM,
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


@dataclass(slots=True)
class Outlet:
    """Our half of one stream."""

    stream_id: int
    window: int
    """Octets of DATA that the peer still takes; negative after it has shrunk its windows (6.9.2)."""
    begun: bool = False
    """The header block is out."""
    waiting: bytearray = field(default_factory=bytearray)
    """DATA that waits for a window."""
    ending: bytes | None = None
    """The header block that ends the stream, once `waiting` is out."""


class Sender:
    """The frames of one connection, in `out` until they are taken, and DATA that waits for windows."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.waiting_bytes = 0
        self.frame_size = MAX_FRAME_SIZE
        self._window = _DEFAULT_WINDOW
        self._initial = _DEFAULT_WINDOW
        self._stalled: dict[int, Outlet] = {}

    def open(self, stream_id: int) -> Outlet:
        return Outlet(stream_id, self._initial)

    def answer(self, outlet: Outlet, message: bytes) -> bool:
        """A whole unary response. Whether the stream is through; otherwise it ends when windows open."""
        size = len(message) + 5
        stream_id = outlet.stream_id
        if outlet.begun or size > outlet.window or size > self._window or size > self.frame_size:
            return self._answer_in_parts(outlet, message)
        self._window -= size
        self.out += (
            frame(FrameType.HEADERS, FLAG_END_HEADERS, stream_id, HEADERS_OK),
            frame(FrameType.DATA, 0, stream_id, prefixed(message)),
            frame(FrameType.HEADERS, _END, stream_id, TRAILERS_OK),
        )
        return True

    def _answer_in_parts(self, outlet: Outlet, message: bytes) -> bool:
        self.send(outlet, message)
        return self.end(outlet, TRAILERS_OK)

    def send(self, outlet: Outlet, message: bytes) -> None:
        """One message of a response."""
        if not outlet.begun:
            outlet.begun = True
            self.out.append(frame(FrameType.HEADERS, FLAG_END_HEADERS, outlet.stream_id, HEADERS_OK))
        outlet.waiting += prefixed(message)
        self.waiting_bytes += len(message) + 5
        self._flow(outlet)

    def end(self, outlet: Outlet, block: bytes) -> bool:
        """End the stream with the header block `block`, after what still waits. Whether it is through."""
        outlet.ending = block
        return self._flow(outlet)

    def drop(self, outlet: Outlet) -> None:
        """The stream is reset: what waits is not wanted."""
        self.waiting_bytes -= len(outlet.waiting)
        self._stalled.pop(outlet.stream_id, None)

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
        return self._flow(outlet)

    def set_initial_window(self, value: int, live: list[Outlet]) -> list[Outlet]:
        """SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of `live` too (6.9.2); those that got through."""
        difference, self._initial = value - self._initial, value
        for outlet in live:
            outlet.window += difference
            if outlet.window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
        return self._flow_all() if difference > 0 else []

    def _flow_all(self) -> list[Outlet]:
        return [outlet for outlet in list(self._stalled.values()) if self._flow(outlet)]

    def _flow(self, outlet: Outlet) -> bool:
        """Send what the windows allow. True when the stream's end is out."""
        waiting = outlet.waiting
        while waiting and (size := min(len(waiting), outlet.window, self._window, self.frame_size)) > 0:
            self.out.append(frame(FrameType.DATA, 0, outlet.stream_id, bytes(waiting[:size])))
            del waiting[:size]
            outlet.window -= size
            self._window -= size
            self.waiting_bytes -= size
        if waiting:
            self._stalled[outlet.stream_id] = outlet
            return False
        self._stalled.pop(outlet.stream_id, None)
        if outlet.ending is None:
            return False
        self.out.append(frame(FrameType.HEADERS, _END, outlet.stream_id, outlet.ending))
        return True
