"""The streams of one connection: requests as they come in, answers as they go out (RFC 9113, 5.1 and 8.1). Pure."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.events import Call, Cancelled, Ended, Event, Limits, Message, Opened, Room
from secure_mcp_grpc.http2.heads import Head
from secure_mcp_grpc.http2.inflow import Inflow
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

__all__ = ["Streams"]

_REMEMBERED_RESETS: Final = 1024
_TOO_MUCH: Final = RpcError(Status.RESOURCE_EXHAUSTED, "too many requests are incomplete")
_UNKNOWN: Final = RpcError(Status.UNIMPLEMENTED, "there is no such method here")


@dataclass(slots=True)
class _Stream:
    head: Head
    outlet: Outlet
    credit: int
    """Octets of DATA that the peer may still send."""
    complete: bool
    """The peer has sent END_STREAM (half-closed, 5.1)."""
    called: bool = False
    """There was a `Call` or `Opened` for it."""
    body: bytearray = field(default_factory=bytearray)
    inflow: Inflow | None = None
    """For a stream of requests, instead of `body`."""

    @property
    def held_bytes(self) -> int:
        return self.inflow.held_bytes if self.inflow else len(self.body)


class Streams:
    """`paths` are the methods that have a handler, `sessions` those of them that take streams of requests.

    `nuisance` is told what costs work and leads to no answer.
    """

    def __init__(
        self,
        paths: Container[str],
        sessions: Container[str],
        limits: Limits,
        sender: Sender,
        nuisance: Callable[[], None],
        window: int,
    ) -> None:
        self.events: list[Event] = []
        """What has happened; whoever reads it empties it."""
        self.last_id = 0
        """The highest stream that the peer has opened."""
        self.final_id = MAX_WINDOW
        """The highest that it may open."""
        self._paths = paths
        self._sessions = sessions
        self._limits = limits
        self._sender = sender
        self._nuisance = nuisance
        self._window = window
        self._live: dict[int, _Stream] = {}
        self._resets: dict[int, None] = {}
        self._buffered = 0

    def __len__(self) -> int:
        return len(self._live)

    @property
    def buffered_bytes(self) -> int:
        """Of requests that are incomplete or not yet taken."""
        return self._buffered

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
        elif head.path in self._sessions:
            stream.inflow = Inflow(self._window, self._limits.max_message_bytes)
            stream.called = True
            self.events.append(Opened(stream_id, head))
            if complete:
                self._complete(stream_id, stream, b"")
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
        elif stream.outlet.ending is None:
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
            self._grant(stream_id, stream, size - len(payload))
        if not payload:
            self._nuisance()
        if stream.inflow:
            self._take_in(stream_id, stream, stream.inflow, payload)
        else:
            stream.body += payload
            self._buffered += len(payload)
            if refusal := prefix_fault(stream.body, self._limits.max_message_bytes):
                self._refuse(stream, refusal)
        if self._buffered > self._limits.max_buffered_bytes:
            most = max(reversed(self._live.values()), key=lambda one: one.held_bytes)  # the latest of equals
            self._refuse(most, _TOO_MUCH)

    def _take_in(self, stream_id: int, stream: _Stream, inflow: Inflow, payload: bytes) -> bool:
        """More of a stream of requests; whether all is well with it."""
        self._buffered += len(payload)
        messages = inflow.add(payload)
        if isinstance(messages, RpcError):
            self._refuse(stream, messages)
            return False
        self.events += [Message(stream_id, message) for message in messages]
        if not stream.complete and (owed := inflow.reopened()):
            self._grant(stream_id, stream, owed)
        return True

    def _complete(self, stream_id: int, stream: _Stream, payload: bytes) -> None:
        """The end of a request: a call, unless its body is not what was announced."""
        stream.complete = True
        if stream.inflow:
            self._complete_inflow(stream_id, stream, stream.inflow, payload)
            return
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

    def _complete_inflow(self, stream_id: int, stream: _Stream, inflow: Inflow, payload: bytes) -> None:
        if stream.outlet.ending is not None:
            return
        if payload and not self._take_in(stream_id, stream, inflow, payload):
            return
        if stream.head.length is not None and stream.head.length != inflow.received:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)  # 8.1.1
        if refusal := inflow.end():
            self._refuse(stream, refusal)
        else:
            self.events.append(Ended(stream_id))

    def taken(self, stream_id: int, size: int) -> None:
        """The handler has taken a `Message` of `size` octets: the peer may send more."""
        stream = self._answerable(stream_id)
        if stream is None or stream.inflow is None:
            return
        held = stream.inflow.held_bytes
        stream.inflow.take(size)
        self._buffered -= held - stream.inflow.held_bytes
        if not stream.complete and (owed := stream.inflow.reopened()):
            self._grant(stream_id, stream, owed)

    def _grant(self, stream_id: int, stream: _Stream, octets: int) -> None:
        stream.credit += octets
        self._sender.out.append(wire.window_update(stream_id, octets))

    # Answers. A stream that was cancelled meanwhile, or has its end, is no error: its answer goes nowhere.

    def answer(self, stream_id: int, message: bytes, fields: bytes) -> None:
        stream = self._live.get(stream_id)
        if stream is None or stream.outlet.ending is not None:
            return
        if self._sender.answer(stream.outlet, message, fields):
            if stream.complete and stream.inflow is None:  # as a rule: it holds nothing any more
                del self._live[stream_id]
            else:
                self._through((stream.outlet,))

    def begin(self, stream_id: int, fields: bytes) -> None:
        if stream := self._answerable(stream_id):
            self._sender.begin(stream.outlet, fields)

    def send(self, stream_id: int, message: bytes) -> bool:
        stream = self._answerable(stream_id)
        if stream is None:
            return True
        self._sender.begin(stream.outlet)
        self._sender.send(stream.outlet, message)
        return not stream.outlet.full

    def end(self, stream_id: int, status: Status, sentence: str, details: bytes = b"") -> None:
        if stream := self._answerable(stream_id):
            self._finish(stream, _ending(stream, status, sentence, details))

    def _answerable(self, stream_id: int) -> _Stream | None:
        stream = self._live.get(stream_id)
        return stream if stream is not None and stream.outlet.ending is None else None

    def relieve(self) -> None:
        """Reset those whose peer takes no answers, until what waits is bounded: they alone pay for it."""
        while self._sender.waiting_bytes > self._limits.max_buffered_bytes:
            self._nuisance()
            self.abandon(self._sender.longest_stalled(), ErrorCode.ENHANCE_YOUR_CALM)

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
            self._through((stream.outlet,))

    def set_initial_window(self, value: int) -> None:
        self._through(self._sender.set_initial_window(value, [stream.outlet for stream in self._live.values()]))

    def take_events(self) -> list[Event]:
        if self._sender.with_room:
            self.events += map(Room, self._sender.with_room)
            self._sender.with_room.clear()
        events, self.events = self.events, []
        return events

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
        """Our answer before any handler's, or in its place."""
        if stream.called:
            self.events.append(Cancelled(stream.outlet.stream_id))
        if isinstance(refusal, int):
            self._finish(stream, http_refusal(refusal))
        else:
            self._finish(stream, _ending(stream, refusal.status, refusal.sentence, refusal.details))

    def _finish(self, stream: _Stream, block: bytes) -> None:
        if self._sender.end(stream.outlet, block):
            self._through((stream.outlet,))
        elif stream.inflow:  # nobody will take what it holds
            self._buffered -= stream.held_bytes
            stream.inflow = Inflow(0, 0)

    def _through(self, outlets: "tuple[Outlet, ...] | list[Outlet]") -> None:
        """The ends of these answers are out; the rest of a request that is still coming is not wanted (8.1)."""
        for outlet in outlets:
            stream = self._forget(outlet.stream_id)
            if stream is not None and not stream.complete:
                self._reset(outlet.stream_id, ErrorCode.NO_ERROR)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._sender.out.append(wire.reset(stream_id, code))
        self._resets[stream_id] = None
        if len(self._resets) > _REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]

    def _forget(self, stream_id: int) -> _Stream | None:
        stream = self._live.pop(stream_id, None)
        if stream is not None:
            self._buffered -= stream.held_bytes
        return stream


def _ending(stream: _Stream, status: Status, sentence: str, details: bytes) -> bytes:
    return (trailers if stream.outlet.begun else trailers_only)(status, sentence, details)
