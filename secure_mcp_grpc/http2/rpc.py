"""What a handler is, what it may know of its RPC and say besides its messages, and how it hears a stream of requests.

A handler answers with any other status than OK by raising `RpcError`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from secure_mcp_grpc.http2.messages import header

__all__ = ["Inbox", "Methods", "Rpc", "Streaming", "Unary", "closing"]

Unary = Callable[[bytes], bytes | Awaitable[bytes]]
"""One message in, one out: at once, or later, out of order."""
Streaming = Callable[[bytes], AsyncIterator[bytes]]
"""One message in, several out."""

_header = lru_cache(256)(header)


@asynccontextmanager
async def closing(messages: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """`messages`, of which nothing goes on afterwards if it is a generator."""
    try:
        yield messages
    finally:
        if aclose := getattr(messages, "aclose", None):
            await aclose()


class Rpc:
    """One RPC, for handlers that want to know more than its message."""

    __slots__ = ("fields", "metadata")

    def __init__(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.metadata = metadata
        """The request's headers, names in lower case; octets where a name ends in `-bin`."""
        self.fields = b""
        """Headers that go out with the first message, encoded."""

    def set_header(self, name: str, value: str) -> None:
        """A header of the response; without effect after its first message. Raises `ValueError` if it is none."""
        self.fields += _header(name, value)


@dataclass(frozen=True, slots=True)
class Methods:
    """Handlers by gRPC path that are given their `Rpc`."""

    calls: Mapping[str, Callable[[bytes, Rpc], Awaitable[bytes]]] = field(default_factory=dict)
    streams: Mapping[str, Callable[[bytes, Rpc], AsyncIterator[bytes]]] = field(default_factory=dict)
    sessions: Mapping[str, Callable[[AsyncIterator[bytes], Rpc], AsyncIterator[bytes]]] = field(default_factory=dict)
    """Messages both ways; the response's headers go out at once. The peer's window opens as messages are read."""


class Inbox:
    """The messages of one stream of requests, in order, for one reader; `taken` is told the size of each it takes."""

    __slots__ = ("_ended", "_messages", "_reader", "_taken")

    def __init__(self, taken: Callable[[int], None]) -> None:
        self._taken = taken
        self._messages: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._ended = False

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._wake()

    def end(self) -> None:
        """The peer sends no more."""
        self._ended = True
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        self._taken(len(message))
        return message

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
