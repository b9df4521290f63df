"""One HTTP/2 connection, the server's side of gRPC: octets in, events and octets out. No sockets, no tasks.

Clauses in brackets are of RFC 9113. A peer that breaks the protocol gets
GOAWAY or RST_STREAM and never an answer to what was broken.
"""

from collections.abc import Callable, Container
from typing import Final

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.events import Event, Limits
from secure_mcp_grpc.http2.heads import HeadReader
from secure_mcp_grpc.http2.messages import PREFIX_BYTES, Status
from secure_mcp_grpc.http2.nuisance import Patience
from secure_mcp_grpc.http2.sending import Sender
from secure_mcp_grpc.http2.streams import Streams
from secure_mcp_grpc.http2.wire import (
    FRAME_HEADER,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    FrameType,
    Setting,
    StreamFault,
)

__all__ = ["Connection"]

_WINDOW: Final = 16 * 1024 * 1024
"""Of the connection. It is refilled as octets come in, so that no stream waits for another; what is held of requests is
bounded by the windows of their streams and by `Limits.max_buffered_bytes`."""
_DEFAULT_WINDOW: Final = 65_535
_HEADER_BYTES: Final = FRAME_HEADER.size
_SHUTDOWN_PING: Final = b"shutdown"


class Connection:
    """`paths` are the methods that have a handler; `clock` gives seconds, monotonic.

    `sessions` are those of `paths` whose requests are streams.
    """

    def __init__(
        self, paths: Container[str], clock: Callable[[], float], limits: Limits, sessions: Container[str] = ()
    ) -> None:
        self.closed = False
        """Nothing more will be read: write what `take` gives, then close."""
        self.fault = ""
        """What the peer did to be cut off."""
        self.greeted = False
        """The peer has sent its preface and settings."""
        self._limits = limits
        self._nuisance = Patience(limits.nuisances, limits.nuisances_per_s, clock).spend
        self._heads = HeadReader(limits.max_header_bytes)
        self._sender = Sender()
        stream_window = max(_DEFAULT_WINDOW, limits.max_message_bytes + PREFIX_BYTES)
        self._streams = Streams(paths, sessions, limits, self._sender, self._nuisance, stream_window)
        self._input = b""
        self._prefaced = self._acknowledged = self._leaving = False
        self._credit = _WINDOW
        self._block: tuple[int, int, bytearray] | None = None
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push_promise,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }
        ours = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        self._sender.out += (wire.settings(ours), wire.window_update(0, _WINDOW - _DEFAULT_WINDOW))

    @property
    def waiting_bytes(self) -> int:
        """Of answers, until the peer opens its windows."""
        return self._sender.waiting_bytes

    @property
    def buffered_bytes(self) -> int:
        """Of requests, until they are complete, or taken."""
        return self._streams.buffered_bytes

    @property
    def drained(self) -> bool:
        """After `shut_down`: the peer knows, and every call that it could make is answered."""
        return self.closed or (self._streams.final_id < MAX_WINDOW and not self._streams)

    def take(self) -> bytes:
        """Octets to write, in order."""
        out = self._sender.out
        data = b"".join(out)
        out.clear()
        return data

    def take_events(self) -> list[Event]:
        """What has happened since the last `receive`: only that streams were dropped."""
        return self._streams.take_events() if self._streams.events else []

    def answer(self, stream_id: int, message: bytes, fields: bytes = b"") -> None:
        """The whole answer to a unary call. `fields` are more headers of it (see `messages.header`)."""
        self._streams.answer(stream_id, message, fields)
        self._check_waiting()

    def begin(self, stream_id: int, fields: bytes = b"") -> None:
        """The headers of an answer, before its first message; has no effect once they are out."""
        self._streams.begin(stream_id, fields)

    def send(self, stream_id: int, message: bytes) -> bool:
        """One message of several. False: the stream is full; wait for its `Room`."""
        has_room = self._streams.send(stream_id, message)
        self._check_waiting()
        return has_room

    def end(self, stream_id: int, status: Status, sentence: str = "", details: bytes = b"") -> None:
        """The end of an answer, or all of it. `sentence` goes to the peer, and `details`, a `google.rpc.Status`."""
        self._streams.end(stream_id, status, sentence, details)

    def taken(self, stream_id: int, size: int) -> bool:
        """The handler has taken a `Message` of `size` octets. Whether there is something to write now."""
        self._streams.taken(stream_id, size)
        return bool(self._sender.out)

    def shut_down(self) -> None:
        """Take no new calls. Those under way to us while the peer learns of it still count (6.8)."""
        if not self.closed and not self._leaving and self._streams.final_id == MAX_WINDOW:
            self._leaving = True
            self._sender.out += (
                wire.goaway(MAX_WINDOW, ErrorCode.NO_ERROR),
                wire.frame(FrameType.PING, 0, 0, _SHUTDOWN_PING),
            )

    def receive(self, data: bytes) -> list[Event]:
        """What `data`, any piece of the peer's octets, completes. Never raises."""
        if self.closed:
            return []
        try:
            self._read(self._input + data if self._input else data)
        except ConnectionFault as fault:
            self._cut_off(fault)
        return self._streams.take_events()

    def _read(self, data: bytes) -> None:
        position = 0
        if not self._prefaced:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(data) < len(PREFACE):
                self._input = data
                return
            self._prefaced = True
            position = len(PREFACE)
        end = len(data)
        while end - position >= _HEADER_BYTES:
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, position)
            size = high << 16 | low
            if size > MAX_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is too long")
            start = position + _HEADER_BYTES
            if start + size > end:
                break
            position = start + size
            self._on_frame(kind, flags, stream_id & MAX_WINDOW, data[start:position])
        self._input = data[position:]

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.greeted and (kind != FrameType.SETTINGS or flags & wire.FLAG_ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")  # 3.4
        if self._block is not None and kind != FrameType.CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")  # 6.2
        handler = self._handlers.get(kind)
        if handler is None:  # 5.5: extensions are ignored
            self._nuisance()
            return
        try:
            handler(flags, stream_id, payload)
        except StreamFault as fault:
            self._nuisance()
            self._streams.abandon(stream_id, fault.code)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._credit -= size
        if self._credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._credit < _WINDOW // 2:
            self._sender.out.append(wire.window_update(0, _WINDOW - self._credit))
            self._credit = _WINDOW
        if flags & wire.FLAG_PADDED:
            payload = wire.unpadded(payload)
        self._streams.on_data(flags, stream_id, payload, size)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")  # 5.1.1
        if flags & wire.FLAG_PADDED:
            payload = wire.unpadded(payload)
        if flags & wire.FLAG_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without the priority that is flagged")
            payload = payload[5:]
        if flags & wire.FLAG_END_HEADERS:
            self._on_block(flags, stream_id, payload)
        else:
            self._block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")  # 6.10
        _, first_flags, block = self._block
        block += payload
        self._nuisance()
        if len(block) > self._limits.max_header_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & wire.FLAG_END_HEADERS:
            self._block = None
            self._on_block(first_flags, stream_id, bytes(block))

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if stream_id > self._streams.last_id:
            self._streams.on_head(flags, stream_id, self._heads.read(block))
        else:
            self._streams.on_trailers(flags, stream_id, self._heads.decode(block))

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated (5.3.2), and ignored."""
        _on_a_stream(stream_id)
        if len(payload) != 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY of the wrong length")

    def _on_reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _on_a_stream(stream_id)
        _of_size(payload, 4)
        if not self._streams.opened(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM for a stream that was never opened")  # 6.4
        self._nuisance()
        self._streams.drop(stream_id)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _on_the_connection(stream_id)
        if flags & wire.FLAG_ACK:
            _of_size(payload, 0)
            if not self._acknowledged:
                self._acknowledged = True
                self._heads.table_size_acknowledged()
            return
        self._nuisance()
        self.greeted = True
        for name, value in wire.settings_in(payload):
            self._set(name, value)
        self._sender.out.append(wire.frame(FrameType.SETTINGS, wire.FLAG_ACK, 0))

    def _set(self, name: int, value: int) -> None:
        """6.5.2. What only limits us where we never go, or is unknown, is ignored."""
        if name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1")
        if name == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME_SIZE <= value < 2**24:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range")
            self._sender.frame_size = value
        elif name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of range")
            self._streams.set_initial_window(value)

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients do not push")  # 8.4

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _on_the_connection(stream_id)
        _of_size(payload, 8)
        if not flags & wire.FLAG_ACK:
            self._nuisance()
            self._sender.out.append(wire.frame(FrameType.PING, wire.FLAG_ACK, 0, payload))
        elif payload == _SHUTDOWN_PING and self._leaving:
            self._leaving = False
            self._streams.final_id = self._streams.last_id
            self._sender.out.append(wire.goaway(self._streams.last_id, ErrorCode.NO_ERROR))

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The peer opens no more streams; it closes the connection when it has its answers."""
        _on_the_connection(stream_id)
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY of the wrong length")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _of_size(payload, 4)
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream_id == 0:
            self._streams.widen(increment)
        elif self._streams.opened(stream_id):
            self._streams.widen_stream(stream_id, increment)
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window for a stream that was never opened")

    def _check_waiting(self) -> None:
        if self._sender.waiting_bytes > self._limits.max_buffered_bytes:
            try:
                self._streams.relieve()
            except ConnectionFault as fault:
                self._cut_off(fault)

    def _cut_off(self, fault: ConnectionFault) -> None:
        self.closed = True
        self.fault = fault.what
        self._input = b""
        self._streams.drop_all()
        self._sender.out.append(wire.goaway(self._streams.last_id, fault.code, fault.what))


def _on_a_stream(stream_id: int) -> None:
    if stream_id == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame that belongs to a stream names none")


def _on_the_connection(stream_id: int) -> None:
    if stream_id != 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame that belongs to the connection names a stream")


def _of_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame of the wrong length")
