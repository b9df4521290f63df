"""The streams of one connection: requests as they come in, answers as they go out (RFC 9113, 5.1 and 8.1). Pure."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.heads import Head
from secure_mcp_grpc.http2.messages import (
    RpcError,
    Status,
    http_refusal,
    message_in,
    prefix_fault,
    trailers,
    trailers_only,
)
from secure_mcp_grpc.http2.sending import Outlet, Sender
from secure_mcp_grpc.http2.wire import MAX_WINDOW, ConnectionFault, ErrorCode, StreamFault

__all__ = ["Call", "Cancelled", "Event", "Limits", "Streams"]

_REMEMBERED_RESETS: Final = 1024
_TOO_MUCH: Final = RpcError(Status.RESOURCE_EXHAUSTED, "too many requests are incomplete")
_UNKNOWN: Final = RpcError(Status.UNIMPLEMENTED, "there is no such method here")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of us."""

    max_message_bytes: int = 4 * 1024 * 1024
    max_streams: int = 1024
    """At one time; more are refused, to be tried again."""
    max_header_bytes: int = 16 * 1024
    """Of one request, as octets and decoded (RFC 9113, 6.5.2)."""
    max_buffered_bytes: int = 64 * 1024 * 1024
    """Of all requests that are incomplete, and likewise of all answers that wait for the peer."""
    nuisances: int = 10_000
    """Pings, settings, resets, empty frames and faults at once, …"""
    nuisances_per_s: float = 1000
    """… and lastingly. Envoy resets a check when its client goes away, so not every reset is a fault."""


class Call(NamedTuple):
    """A complete request: answer it with `answer`, or with `send` and `end`."""

    stream_id: int
    head: Head
    message: bytes


class Cancelled(NamedTuple):
    """Nobody waits for the answer to an earlier `Call` any more."""

    stream_id: int


Event = Call | Cancelled


@dataclass(slots=True)
class _Stream:
    head: Head
    outlet: Outlet
    credit: int
    """Octets of DATA that the peer may still send."""
    complete: bool
    """The peer has sent END_STREAM (half-closed, 5.1)."""
    called: bool = False
    """There was a `Call` for it."""
    body: bytearray = field(default_factory=bytearray)


class Streams:
    """`paths` are the methods that have a handler. `nuisance` is told what costs work and leads to no answer."""

    def __init__(
        self, paths: Container[str], limits: Limits, sender: Sender, nuisance: Callable[[], None], window: int
    ) -> None:
        self.events: list[Event] = []
        """What has happened; whoever reads it empties it."""
        self.last_id = 0
        """The highest stream that the peer has opened."""
        self.final_id = MAX_WINDOW
        """The highest that it may open."""
        self._paths = paths
        self._limits = limits
        self._sender = sender
        self._nuisance = nuisance
        self._window = window
        self._live: dict[int, _Stream] = {}
        self._resets: dict[int, None] = {}
        self._buffered = 0

    def __len__(self) -> int:
        return len(self._live)

    def opened(self, stream_id: int) -> bool:
        """Whether the peer ever opened it; it may be closed by now (idle otherwise, 5.1)."""
        return stream_id <= self.last_id and stream_id % 2 == 1

    # Requests.

    def on_head(self, flags: int, stream_id: int, head: Head | None) -> None:
        """The headers of a new request; None where they are malformed."""
        self.last_id = stream_id
        if head is None:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)  # 8.1.1
        if len(self._live) >= self._limits.max_streams or stream_id > self.final_id:
            raise StreamFault(ErrorCode.REFUSED_STREAM)
        complete = bool(flags & wire.FLAG_END_STREAM)
        stream = _Stream(head, self._sender.open(stream_id), self._window, complete)
        self._live[stream_id] = stream
        if head.refusal is not None:
            self._refuse(stream, head.refusal)
        elif head.path not in self._paths:
            self._refuse(stream, _UNKNOWN)
        elif complete:
            self._complete(stream_id, stream, b"")

    def on_trailers(self, flags: int, stream_id: int, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        """A second header block: it may only end a request, and says nothing that gRPC knows."""
        stream = self._live.get(stream_id)
        if stream is None:
            if stream_id in self._resets:
                return
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "headers on a stream that is closed")
        if stream.complete:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        if not flags & wire.FLAG_END_STREAM or any(name.startswith(b":") for name, _ in fields):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)  # 8.1
        self._complete(stream_id, stream, b"")

    def on_data(self, flags: int, stream_id: int, payload: bytes, size: int) -> None:
        """A piece of a request's body; `size` is its length with padding."""
        stream = self._live.get(stream_id)
        if stream is None:
            self._on_stray(stream_id)
            return
        if stream.complete:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        if flags & wire.FLAG_END_STREAM:
            self._complete(stream_id, stream, payload)
        else:
            self._collect(stream_id, stream, payload, size)

    def _on_stray(self, stream_id: int) -> None:
        """DATA on a stream that is not open: late after our reset, or wrong (5.1)."""
        if not self.opened(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "data on a stream that was never opened")
        if stream_id not in self._resets:
            raise StreamFault(ErrorCode.STREAM_CLOSED)

    def _collect(self, stream_id: int, stream: _Stream, payload: bytes, size: int) -> None:
        """Padding is given back at once: the body alone may be as long as the stream's window."""
        if size > len(payload):
            stream.credit += size - len(payload)
            self._sender.out.append(wire.window_update(stream_id, size - len(payload)))
        if not payload:
            self._nuisance()
        stream.body += payload
        self._buffered += len(payload)
        if refusal := prefix_fault(stream.body, self._limits.max_message_bytes):
            self._refuse(stream, refusal)
        elif self._buffered > self._limits.max_buffered_bytes:
            self._refuse(stream, _TOO_MUCH)

    def _complete(self, stream_id: int, stream: _Stream, payload: bytes) -> None:
        """The end of a request: a call, unless its body is not what was announced."""
        stream.complete = True
        if stream.body:
            self._buffered -= len(stream.body)
            payload, stream.body = bytes(stream.body) + payload, bytearray()
        if stream.head.length is not None and stream.head.length != len(payload):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)  # 8.1.1
        message = message_in(payload, self._limits.max_message_bytes)
        if isinstance(message, RpcError):
            self._refuse(stream, message)
        else:
            stream.called = True
            self.events.append(Call(stream_id, stream.head, message))

    # Answers. A stream that was cancelled meanwhile is no error: its answer goes nowhere.

    def answer(self, stream_id: int, message: bytes) -> None:
        stream = self._live.get(stream_id)
        if stream is not None and self._sender.answer(stream.outlet, message):
            del self._live[stream_id]

    def send(self, stream_id: int, message: bytes) -> None:
        stream = self._live.get(stream_id)
        if stream is not None:
            self._sender.send(stream.outlet, message)

    def end(self, stream_id: int, status: Status, sentence: str) -> None:
        stream = self._live.get(stream_id)
        if stream is not None:
            make = trailers if stream.outlet.begun else trailers_only
            self._finish(stream, make(status, sentence))

    # Windows and ends.

    def widen(self, increment: int) -> None:
        """WINDOW_UPDATE for the connection."""
        self._through(self._sender.widen(increment))

    def widen_stream(self, stream_id: int, increment: int) -> None:
        """WINDOW_UPDATE for a stream that was opened."""
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)  # 6.9
        stream = self._live.get(stream_id)
        if stream is not None and self._sender.widen_stream(stream.outlet, increment):
            self._through([stream.outlet])

    def set_initial_window(self, value: int) -> None:
        outlets = [stream.outlet for stream in self._live.values()]
        self._through(self._sender.set_initial_window(value, outlets))

    def abandon(self, stream_id: int, code: ErrorCode) -> None:
        """RST_STREAM from us."""
        self.drop(stream_id)
        self._reset(stream_id, code)

    def drop(self, stream_id: int) -> None:
        """The stream is reset, by us or by the peer."""
        stream = self._forget(stream_id)
        if stream is not None:
            self._sender.drop(stream.outlet)
            if stream.called:
                self.events.append(Cancelled(stream_id))

    def drop_all(self) -> None:
        for stream_id in list(self._live):
            self.drop(stream_id)

    def _refuse(self, stream: _Stream, refusal: RpcError | int) -> None:
        block = http_refusal(refusal) if isinstance(refusal, int) else trailers_only(refusal.status, refusal.sentence)
        self._finish(stream, block)

    def _finish(self, stream: _Stream, block: bytes) -> None:
        """End our half; the rest of a request that is still coming is not wanted (8.1)."""
        if self._sender.end(stream.outlet, block):
            stream_id = stream.outlet.stream_id
            self._forget(stream_id)
            if not stream.complete:
                self._reset(stream_id, ErrorCode.NO_ERROR)

    def _through(self, outlets: list[Outlet]) -> None:
        """The ends of these answers are out; only complete requests have answers that wait."""
        for outlet in outlets:
            del self._live[outlet.stream_id]

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._sender.out.append(wire.reset(stream_id, code))
        self._resets[stream_id] = None
        if len(self._resets) > _REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]

    def _forget(self, stream_id: int) -> _Stream | None:
        stream = self._live.pop(stream_id, None)
        if stream is not None:
            self._buffered -= len(stream.body)
        return stream
