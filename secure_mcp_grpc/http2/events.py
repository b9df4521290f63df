"""What one connection may ask (`Limits`), and what happens on it (events, from `Connection.receive`)."""

from dataclasses import dataclass
from typing import NamedTuple

from secure_mcp_grpc.http2.heads import Head

__all__ = ["Call", "Cancelled", "Ended", "Event", "Limits", "Message", "Opened", "Room"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of us."""

    max_message_bytes: int = 4 * 1024 * 1024
    max_streams: int = 1024
    """At one time; more are refused, to be tried again."""
    max_header_bytes: int = 16 * 1024
    """Of one request, as octets and decoded (RFC 9113, 6.5.2)."""
    max_buffered_bytes: int = 64 * 1024 * 1024
    """Of all requests that are incomplete or not yet taken, and likewise of all answers that wait for the peer. Beyond
    it the request that holds most is refused, or the answer that was not taken for longest is dropped."""
    nuisances: int = 10_000
    """Pings, settings, resets, empty frames and faults at once, …"""
    nuisances_per_s: float = 1000
    """… and lastingly. Envoy resets a check when its client goes away, so not every reset is a fault."""


class Call(NamedTuple):
    """A complete request: answer it with `answer`, or with `send` and `end`."""

    stream_id: int
    head: Head
    message: bytes


class Opened(NamedTuple):
    """A stream of requests has begun: its messages follow. Answer with `begin`, `send` and `end`."""

    stream_id: int
    head: Head


class Message(NamedTuple):
    """The next message of a stream of requests: say `taken` when it is."""

    stream_id: int
    message: bytes


class Ended(NamedTuple):
    """The peer sends no more messages on this stream; it still wants answers."""

    stream_id: int


class Cancelled(NamedTuple):
    """Nobody waits for the answer to an earlier `Call` or `Opened` any more."""

    stream_id: int


class Room(NamedTuple):
    """A stream whose `send` said that it is full takes more."""

    stream_id: int


Event = Call | Opened | Message | Ended | Cancelled | Room
