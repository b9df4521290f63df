"""Octets of HTTP/2 (RFC 9113): frame headers, settings, padding. Pure."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

__all__ = [
    "FLAG_ACK",
    "FLAG_END_HEADERS",
    "FLAG_END_STREAM",
    "FLAG_PADDED",
    "FLAG_PRIORITY",
    "FRAME_HEADER",
    "MAX_FRAME_SIZE",
    "MAX_WINDOW",
    "PREFACE",
    "ConnectionFault",
    "ErrorCode",
    "FrameType",
    "Setting",
    "StreamFault",
    "frame",
    "goaway",
    "reset",
    "settings",
    "settings_in",
    "unpadded",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER: Final = struct.Struct(">BHBBI")
"""Length (8 and 16 bits), type, flags, reserved bit and stream."""
MAX_WINDOW: Final = 2**31 - 1
MAX_FRAME_SIZE: Final = 2**14
"""Payload that every endpoint takes; we announce no more."""

FLAG_END_STREAM: Final = 0x1
FLAG_ACK: Final = 0x1
FLAG_END_HEADERS: Final = 0x4
FLAG_PADDED: Final = 0x8
FLAG_PRIORITY: Final = 0x20

_SETTING: Final = struct.Struct(">HI")
_PAIR: Final = struct.Struct(">II")
_WORD: Final = struct.Struct(">I")


class FrameType(IntEnum):
    """RFC 9113, 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """RFC 9113, 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer broke the protocol: GOAWAY with `code` and `what`, then the connection ends (RFC 9113, 5.4.1)."""

    def __init__(self, code: ErrorCode, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


class StreamFault(Exception):
    """One stream is broken: RST_STREAM with `code`, the others go on (RFC 9113, 5.4.2)."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


def settings_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """Identifier and value of each parameter; raises `ConnectionFault` for a payload that is no list of them."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
    return _SETTING.iter_unpack(payload)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def reset(stream_id: int, code: ErrorCode) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(last_stream_id: int, code: ErrorCode, what: str = "") -> bytes:
    return frame(FrameType.GOAWAY, 0, 0, _PAIR.pack(last_stream_id, code) + what.encode())


def unpadded(payload: bytes) -> bytes:
    """The content of a padded payload; raises `ConnectionFault` for padding longer than the frame (6.1, 6.2)."""
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    if payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]
