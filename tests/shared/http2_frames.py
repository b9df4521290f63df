"""A client's octets, made by hand, and the server's, taken apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hpack

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.connection import Connection
from secure_mcp_grpc.http2.events import Call, Event, Limits, Message
from secure_mcp_grpc.http2.messages import prefixed
from secure_mcp_grpc.http2.wire import ErrorCode, FrameType

ECHO = "/test.Service/Echo"
TALK = "/test.Service/Talk"
"""Takes a stream of requests."""
ACK = wire.frame(FrameType.SETTINGS, wire.FLAG_ACK, 0)
GREETING = wire.PREFACE + wire.settings({}) + ACK
END = wire.FLAG_END_STREAM
WHOLE = wire.FLAG_END_HEADERS

Fields = Sequence[tuple[str, str]]
REQUEST: Fields = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", ECHO),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def block(fields: Fields = REQUEST, **changes: str | None) -> bytes:
    """A header block without state. `changes` replaces, adds or (None) removes; `_path` stands for `:path`."""
    changed = {name.replace("_", ":", 1) if name.startswith("_") else name.replace("_", "-"): value
               for name, value in changes.items()}  # fmt: skip
    kept = [(name, changed.pop(name, value)) for name, value in fields]
    added = [(name, value) for name, value in [*kept, *changed.items()] if value is not None]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(added, huffman=False))


def headers(stream_id: int, header_block: bytes | None = None, flags: int = WHOLE) -> bytes:
    return wire.frame(FrameType.HEADERS, flags, stream_id, block() if header_block is None else header_block)


def data(stream_id: int, body: bytes, flags: int = END) -> bytes:
    return wire.frame(FrameType.DATA, flags, stream_id, body)


def request(stream_id: int, message: bytes = b"hello", **changes: str | None) -> bytes:
    """A whole unary call."""
    return headers(stream_id, block(**changes)) + data(stream_id, prefixed(message))


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        return self.headers.get("grpc-status", "")


@dataclass
class Said:
    """What the server sent, by stream and for the connection."""

    answers: dict[int, Answer] = field(default_factory=dict)
    goaway: tuple[int, int] | None = None
    """Last stream and error code."""
    pongs: list[bytes] = field(default_factory=list)
    acks: int = 0
    windows: list[tuple[int, int]] = field(default_factory=list)


def read(octets: bytes) -> Said:
    said, decoder, position = Said(), hpack.Decoder(), 0
    while position < len(octets):
        high, low, kind, flags, stream_id = wire.FRAME_HEADER.unpack_from(octets, position)
        start = position + 9
        position = start + (high << 16 | low)
        payload = octets[start:position]
        assert position <= len(octets)
        answer = said.answers.setdefault(stream_id, Answer()) if stream_id else Answer()
        match kind:
            case FrameType.HEADERS:
                assert not answer.ended
                answer.headers |= dict(decoder.decode(payload))
            case FrameType.DATA:
                assert not answer.ended
                answer.body += payload
            case FrameType.RST_STREAM:
                answer.reset = int.from_bytes(payload, "big")
            case FrameType.GOAWAY:
                said.goaway = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            case FrameType.PING:
                said.pongs.append(payload)
            case FrameType.SETTINGS:
                said.acks += flags & wire.FLAG_ACK
            case FrameType.WINDOW_UPDATE:
                said.windows.append((stream_id, int.from_bytes(payload, "big")))
        if kind in (FrameType.HEADERS, FrameType.DATA) and flags & END:
            answer.ended = True
    return said


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Peer:
    """A connection that answers each call with its own message, and what it has said so far."""

    def __init__(self, *, greeted: bool = True, answering: bool = True, **limits: Any) -> None:
        self.clock = Clock()
        self.connection = Connection({ECHO, TALK}, self.clock, Limits(**limits), {TALK})
        self.events: list[Event] = []
        self.octets = b""
        self._answering = answering
        if greeted:
            self.send(GREETING)

    def send(self, *octets: bytes) -> Said:
        """Everything the server said, the answer to `octets` included."""
        for event in self.connection.receive(b"".join(octets)):
            self.events.append(event)
            if self._answering and isinstance(event, Call):
                self.connection.answer(event.stream_id, event.message)
        return self.said()

    def said(self) -> Said:
        self.octets += self.connection.take()
        return read(self.octets)

    @property
    def heard(self) -> list[bytes]:
        """Messages of streams of requests."""
        return [event.message for event in self.events if isinstance(event, Message)]

    @property
    def calls(self) -> list[bytes]:
        return [event.message for event in self.events if isinstance(event, Call)]


def code(said: Said) -> ErrorCode | None:
    return ErrorCode(said.goaway[1]) if said.goaway else None
