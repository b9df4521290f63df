"""Frames of a pipelined session: what the client wrote, read once, and those that wait for their turn."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from mcp_bridge import wire
from secure_mcp_grpc import calls
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["CANCELLED", "Frame", "Intake", "Key", "Load", "cancelled_by", "key_of"]

CANCELLED: Final = "notifications/cancelled"

Key = tuple[str, type, Any]
"""What names a request of one stream: its session, and the type and value of its id."""


class Frame:
    """One message of the client. `call` is None for one that cannot be read, `id_json` empty where none is usable."""

    __slots__ = ("call", "id_json", "message", "parsed", "request_id")

    def __init__(self, message: bytes, request_id: str) -> None:
        self.message = message
        self.request_id = request_id
        self.call: McpCall | None = None
        self.id_json = b""
        try:
            self.parsed = pb.ClientFrame.FromString(message)
        except DecodeError:
            self.parsed = pb.ClientFrame()
        try:
            self.call = calls.call_of_frame(self.parsed)
        except Malformed:
            self.call = None
        if calls.is_request_id(self.parsed.request.id_json):
            self.id_json = self.parsed.request.id_json

    @property
    def is_urgent(self) -> bool:
        """Replies and cancels: what is under way may wait for just them."""
        kind = self.parsed.WhichOneof("frame")
        return kind == "reply" or (kind == "notification" and self.parsed.notification.method == CANCELLED)


def key_of(session_id: str, id_json: bytes) -> Key:
    """Raises `msgspec.MsgspecError`, or `RecursionError`, where `id_json` is not JSON."""
    value = msgspec.json.decode(id_json)
    return session_id, type(value), value if isinstance(value, str | int) else None


def cancelled_by(cancel: pb.Notification) -> Key | None:
    """The request that a `notifications/cancelled` names; None where it names none."""
    try:
        return key_of(cancel.session_id, bytes(wire.object_of(cancel.params_json)["requestId"]))
    except (wire.NotJson, KeyError, msgspec.MsgspecError, RecursionError):
        return None


class Load:
    """Octets of frames that are held or dealt with, by caller and over all of its streams; `max_bytes` for each."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def change(self, subject: str, size: int) -> None:
        left = self._held.get(subject, 0) + size
        if left > 0:
            self._held[subject] = left
        else:
            self._held.pop(subject, None)

    def is_full(self, subject: str) -> bool:
        return self._held.get(subject, 0) >= self._max_bytes


class Intake:
    """Frames of one stream, from their reader to whoever deals with them, in order.

    `max_in_flight` are dealt with at a time and as many are held besides, then
    the reader has to wait; only replies and cancels pass those that are held.
    """

    def __init__(self, max_in_flight: int, load: Load, subject: str) -> None:
        self.waiting: deque[Frame] = deque()
        """To be dealt with next."""
        self.ended = False
        """No more will be added."""
        self.arrived = asyncio.Event()
        self._held: deque[Frame] = deque()
        self._left = asyncio.Event()
        self._in_flight = 0
        self._bytes = 0
        self._max_in_flight = max_in_flight
        self._load = load
        self._subject = subject

    @property
    def is_done(self) -> bool:
        return self.ended and not self.waiting and not self._held

    def has_room(self, frame: Frame) -> bool:
        if frame.is_urgent:
            return self._in_flight < 2 * self._max_in_flight
        return len(self._held) < self._max_in_flight and not (self._bytes and self._load.is_full(self._subject))

    def add(self, frame: Frame) -> None:
        self._bytes += len(frame.message)
        self._load.change(self._subject, len(frame.message))
        if frame.is_urgent or (self._in_flight < self._max_in_flight and not self._held):
            self._admit(frame)
        else:
            self._held.append(frame)

    async def change(self, patience_s: float) -> bool:
        """Wait for something to leave; whether it did within `patience_s` seconds."""
        self._left.clear()
        try:
            async with asyncio.timeout(patience_s):
                await self._left.wait()
        except TimeoutError:
            return False
        return True

    def leave(self, frame: Frame) -> None:
        """`frame` was dealt with; one that is held takes its place."""
        self._in_flight -= 1
        self._forget(frame)
        while self._held and self._in_flight < self._max_in_flight:
            self._admit(self._held.popleft())
        self._left.set()

    def withdraw(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Those held that are `wanted`: they are held no more."""
        found = [frame for frame in self._held if wanted(frame)]
        if found:
            self._held = deque(frame for frame in self._held if frame not in found)
        for frame in found:
            self._forget(frame)
        return found

    def close(self) -> None:
        """Nothing is dealt with any more."""
        self._load.change(self._subject, -self._bytes)
        self._bytes = 0
        self.waiting.clear()
        self._held.clear()

    def _admit(self, frame: Frame) -> None:
        self._in_flight += 1
        self.waiting.append(frame)
        self.arrived.set()

    def _forget(self, frame: Frame) -> None:
        size = min(len(frame.message), self._bytes)
        self._bytes -= size
        self._load.change(self._subject, -size)
