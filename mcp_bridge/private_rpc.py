"""Small unary calls over one private Unix socket, in a fraction of what a general gRPC client costs.

For questions that every frame waits for. What does not fit into the peer's
windows, and what comes while there is no connection, is for a gRPC channel:
`call` says so by returning None.
"""

import asyncio
import contextlib
import logging
from typing import Final, cast

from hpack import Decoder, HPACKError

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.wire import FrameType, Setting

__all__ = ["PrivateRpc"]

logging.getLogger("hpack").setLevel(logging.INFO)  # it formats a debug line for every header otherwise

_NO_TABLE: Final = b"\x20"
"""A dynamic table of size 0 (RFC 7541, 6.3): the same octets then always mean the same headers."""
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_WINDOW: Final = 16 * 1024 * 1024
_DEFAULT_WINDOW: Final = 65_535
_PREFIX_BYTES: Final = 5
_RETRY_S: Final = 0.25
_MAX_STREAM_ID: Final = 2**30


class PrivateRpc:
    """Calls `method` of the service at the socket `path`; connects when first asked, and again after losses."""

    def __init__(self, path: str, method: str) -> None:
        self._path = path
        self._headers = _NO_TABLE + b"".join(
            _literal(name, value)
            for name, value in (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            )
        )
        self._connection: _Connection | None = None
        self._not_before = 0.0

    async def call(self, message: bytes) -> "bytes | None":
        """The answer, None where this cannot ask. Raises `ConnectionError` where an answer did not come."""
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._connect()
        if connection is None or not connection.has_room(len(message)):
            return None
        return await connection.ask(self._headers, message)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def _connect(self) -> "_Connection | None":
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return None
        self._not_before = loop.time() + _RETRY_S
        with contextlib.suppress(OSError):
            _, self._connection = await loop.create_unix_connection(lambda: _Connection(loop), self._path)
            return self._connection
        return None


class _Call:
    __slots__ = ("answer", "body", "status")

    def __init__(self, answer: "asyncio.Future[bytes]") -> None:
        self.answer = answer
        self.body = bytearray()
        self.status = b""


class _Connection(asyncio.Protocol):
    """What is not understood ends it, and fails whatever waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._calls: dict[int, _Call] = {}
        self._last_id = -1
        self._received = bytearray()
        self._stream_window = _DEFAULT_WINDOW
        self._window = _DEFAULT_WINDOW
        self._unread = 0
        self.lost = False

    def has_room(self, size: int) -> bool:
        size += _PREFIX_BYTES
        return size <= min(self._stream_window, self._window, wire.MAX_FRAME_SIZE)

    async def ask(self, headers: bytes, message: bytes) -> bytes:
        transport = self._transport
        if self.lost or transport is None:
            raise ConnectionError("the connection is lost")
        self._last_id += 2
        stream_id = self._last_id
        call = self._calls[stream_id] = _Call(self._loop.create_future())
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._window -= len(body)
        transport.write(
            wire.frame(FrameType.HEADERS, wire.FLAG_END_HEADERS, stream_id, headers)
            + wire.frame(FrameType.DATA, wire.FLAG_END_STREAM, stream_id, body)
        )
        if stream_id > _MAX_STREAM_ID:
            self.lost = True  # the next call connects anew
        try:
            return await call.answer
        finally:
            if self._calls.pop(stream_id, None) is not None and not transport.is_closing():
                transport.write(wire.reset(stream_id, wire.ErrorCode.CANCEL))

    def abort(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base
        settings = {Setting.ENABLE_PUSH: 0, Setting.HEADER_TABLE_SIZE: 0, Setting.INITIAL_WINDOW_SIZE: _WINDOW}
        self._transport.write(wire.PREFACE + wire.settings(settings) + wire.window_update(0, _WINDOW - _DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            self._take()
        except (wire.ConnectionFault, HPACKError, ValueError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _fail(call, "the connection was lost")

    def _take(self) -> None:
        """Every whole frame that is there."""
        received, at = self._received, 0
        while len(received) - at >= wire.FRAME_HEADER.size:
            high, low, kind, flags, stream_id = wire.FRAME_HEADER.unpack_from(received, at)
            size, start = high << 16 | low, at + wire.FRAME_HEADER.size
            if size > wire.MAX_FRAME_SIZE:
                raise ValueError("a frame that is too large")
            if len(received) - start < size:
                break
            at = start + size
            self._on_frame(kind, flags, stream_id & wire.MAX_WINDOW, bytes(received[start:at]))
        del received[:at]

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == FrameType.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == FrameType.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == FrameType.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == FrameType.WINDOW_UPDATE and stream_id == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == FrameType.PING and not flags & wire.FLAG_ACK:
            self._write(wire.frame(FrameType.PING, wire.FLAG_ACK, 0, payload))
        else:
            self._on_end(kind, stream_id)

    def _on_end(self, kind: int, stream_id: int) -> None:
        if kind == FrameType.RST_STREAM:
            if (call := self._calls.pop(stream_id, None)) is not None:
                _fail(call, "the call was reset")
        elif kind == FrameType.GOAWAY:
            self.lost = True  # what was asked may still be answered
            if not self._calls:
                self.abort()
        elif kind in (FrameType.CONTINUATION, FrameType.PUSH_PROMISE):
            raise ValueError("headers of an answer that are larger than ours ever are")

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._unread += len(payload)
        if self._unread > _WINDOW // 2:
            self._write(wire.window_update(0, self._unread))
            self._unread = 0
        if flags & wire.FLAG_PADDED:
            payload = wire.unpadded(payload)
        call = self._calls.get(stream_id)
        if call is None:
            return
        call.body += payload
        if len(call.body) > _MAX_ANSWER_BYTES:
            raise ValueError("an answer that is too large")
        if flags & wire.FLAG_END_STREAM:
            self._end(stream_id)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & wire.FLAG_PADDED:
            payload = wire.unpadded(payload)
        if flags & wire.FLAG_PRIORITY:
            payload = payload[5:]
        if not flags & wire.FLAG_END_HEADERS:
            raise ValueError("headers in pieces")
        fields = self._decoder.decode(payload, raw=True)  # also for a call that is gone: the table is shared
        call = self._calls.get(stream_id)
        if call is None:
            return
        for field in fields:
            if field[0] == b"grpc-status":
                call.status = bytes(field[1])
        if flags & wire.FLAG_END_STREAM:
            self._end(stream_id)

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & wire.FLAG_ACK:
            return
        for key, value in wire.settings_in(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._stream_window = value
        self._write(wire.frame(FrameType.SETTINGS, wire.FLAG_ACK, 0))

    def _end(self, stream_id: int) -> None:
        call = self._calls.pop(stream_id)
        body = call.body
        whole = len(body) >= _PREFIX_BYTES and not body[0] and int.from_bytes(body[1:5], "big") == len(body) - 5
        if call.status != b"0" or not whole:
            _fail(call, "the call was not answered")
        elif not call.answer.done():
            call.answer.set_result(bytes(body[_PREFIX_BYTES:]))
        if self.lost and not self._calls:
            self.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _fail(call: _Call, what: str) -> None:
    if not call.answer.done():
        call.answer.set_exception(ConnectionError(what))


def _literal(name: str, value: str) -> bytes:
    """A field that is not remembered (RFC 7541, 6.2.2); lengths under 127 are one octet."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
