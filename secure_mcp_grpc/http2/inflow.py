"""A stream of requests as it comes in: messages out of octets, and how many octets more the peer may send. Pure.

The window is the back-pressure: it opens again only as messages are taken.
"""

from secure_mcp_grpc.http2.messages import PREFIX_BYTES, RpcError, Status, prefix_fault

__all__ = ["Inflow"]

_MAX_UNREAD = 16_384
"""Messages that wait to be taken. A window of empty ones would be 200,000: work for a few octets each."""
_TOO_MANY = RpcError(Status.RESOURCE_EXHAUSTED, "too many messages wait to be read")
_CUT_SHORT = RpcError(Status.INTERNAL, "the last message is shorter than it claims")


class Inflow:
    """`window` octets may be under way or unread at a time; a message of `max_bytes` must fit."""

    __slots__ = ("_body", "_count", "_max_bytes", "_owed", "_unread", "_window", "received")

    def __init__(self, window: int, max_bytes: int) -> None:
        self.received = 0
        """Octets of DATA so far, without padding."""
        self._window = window
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._unread = 0
        self._count = 0
        self._owed = 0

    @property
    def held_bytes(self) -> int:
        """Octets of messages that are incomplete, or complete and not yet taken."""
        return len(self._body) + self._unread

    def add(self, payload: bytes) -> list[bytes] | RpcError:
        """The messages that `payload` completes, or why there can be no more."""
        self.received += len(payload)
        body = self._body
        body += payload
        messages: list[bytes] = []
        start = 0
        while True:
            head = body[start : start + PREFIX_BYTES]
            if fault := prefix_fault(head, self._max_bytes):
                return fault
            end = start + PREFIX_BYTES + int.from_bytes(head[1:], "big")
            if len(head) < PREFIX_BYTES or end > len(body):
                break
            messages.append(bytes(memoryview(body)[start + PREFIX_BYTES : end]))
            start = end
            self._count += 1
            if self._count > _MAX_UNREAD:
                return _TOO_MANY
        if start:
            del body[:start]
            self._unread += start
        return messages

    def end(self) -> RpcError | None:
        """The peer sends no more; what is wrong with that."""
        return _CUT_SHORT if self._body else None

    def take(self, size: int) -> None:
        """The handler has taken a message of `size` octets."""
        self._count -= 1
        self._unread -= size + PREFIX_BYTES
        self._owed += size + PREFIX_BYTES

    def reopened(self) -> int:
        """Octets to grant now: when they are many, or when a message that has begun might not fit otherwise."""
        if self._owed * 4 < self._window and (self._unread or not self._body):
            return 0
        owed, self._owed = self._owed, 0
        return owed
