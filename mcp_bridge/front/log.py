"""Messages for one event stream, numbered, within a bound; a reader that lost its connection can read again. Pure."""

import asyncio
from collections import deque

__all__ = ["EventLog", "Reader"]


class EventLog:
    """One reader at a time. With `keeps`, what was read stays while there is room, for a reader that comes back."""

    def __init__(self, max_bytes: int, *, keeps: bool) -> None:
        self._max_bytes = max_bytes
        self._keeps = keeps
        self._items: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._unread_bytes = 0
        self._changed = asyncio.Event()
        self._reader: Reader | None = None
        self.read = 0
        self.last = 0
        self.is_closed = False

    @property
    def bytes_kept(self) -> int:
        return self._bytes

    @property
    def has_reader(self) -> bool:
        return self._reader is not None

    def offer(self, message: bytes) -> bool:
        """Add a message; False where there is no room for it."""
        if self.is_closed or not self._has_room(message):
            return False
        self._add(message)
        return True

    async def put(self, message: bytes) -> None:
        """Add a message, waiting for room while somebody reads; with nobody there the oldest are lost instead."""
        while not self.is_closed and self._reader is not None and not self._has_room(message):
            self._changed.clear()
            await self._changed.wait()
        if not self.is_closed:
            self._add(message)

    def close(self) -> None:
        self.is_closed = True
        self._changed.set()

    def reader(self, after: int | None = None) -> "Reader":
        """A reader from behind message `after`, or of what nobody has read; the one before it ends."""
        self._reader = Reader(self, self.read if after is None else after)
        self._changed.set()
        return self._reader

    def detach(self, reader: "Reader") -> None:
        if self._reader is reader:
            self._reader = None
            self._changed.set()

    async def next(self, reader: "Reader") -> tuple[int, bytes] | None:
        while self._reader is reader:
            found = next((item for item in self._items if item[0] > reader.position), None)
            if found is not None:
                self._took(*found)
                return found
            if self.is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    def _took(self, number: int, message: bytes) -> None:
        if number > self.read:
            self.read = number
            self._unread_bytes -= len(message)
        if not self._keeps:
            self._drop_oldest()
        self._changed.set()

    def _has_room(self, message: bytes) -> bool:
        return not self._unread_bytes or self._unread_bytes + len(message) <= self._max_bytes

    def _add(self, message: bytes) -> None:
        self.last += 1
        self._items.append((self.last, message))
        self._bytes += len(message)
        self._unread_bytes += len(message)
        while self._bytes > self._max_bytes and len(self._items) > 1:
            self._drop_oldest()
        self._changed.set()

    def _drop_oldest(self) -> None:
        number, message = self._items.popleft()
        self._bytes -= len(message)
        if number > self.read:
            self._unread_bytes -= len(message)


class Reader:
    """`position` is the number of the last message that was read."""

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        self.position = position

    async def next(self) -> tuple[int, bytes] | None:
        """The next message and its number; None at the end, or when another reader took over."""
        item = await self._log.next(self)
        if item is not None:
            self.position = item[0]
        return item

    def detach(self) -> None:
        self._log.detach(self)
