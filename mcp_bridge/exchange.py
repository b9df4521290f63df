"""One MCP message on its way from the gRPC side to an upstream: who sent it, what it is, where answers go.

The executor makes these values; upstreams read them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mcp_bridge.capture.trace import Trace
from mcp_bridge.wire import Meta
from secure_mcp_grpc.calls import McpCall

__all__ = ["Caller", "Exchange", "Note", "Outbox", "Session", "Upstream"]


@dataclass(frozen=True, slots=True)
class Caller:
    """What authz_service and Envoy say of the sender, from headers that no client can set."""

    subject: str
    user: str
    user_roles: tuple[str, ...]
    """The user's, those of its token included."""
    request_id: str
    chain: str
    seq: int
    targets: tuple[str, ...]
    """Every value of `x-mcp-target`; only exactly one is good."""
    traceparent: str = ""
    tracestate: str = ""
    correlation_id: str = ""
    """These three as the client sent them: claims, unread."""

    @property
    def owner(self) -> str:
        """Whose upstream state this is: workloads, and the users they speak for, never share a child or session."""
        return f"{len(self.subject)} {self.subject} {self.user}"


class Outbox:
    """Messages for one reader, in order, within `max_bytes` and `max_messages`."""

    def __init__(self, max_bytes: int, max_messages: int = 1024) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._changed = asyncio.Event()
        self._closed = False
        self.overflowed = False
        self.taken = 0
        self.watcher: Callable[[bytes], None] | None = None
        """Sees each message that is offered, whether there is room for it or not."""

    def offer(self, message: bytes) -> bool:
        """Add a message; False when the reader is too slow for it, or gone."""
        if self.watcher is not None:
            self.watcher(message)
        if self._closed:
            return False
        if self._messages and not self._has_room(message):
            self.overflowed = True
            return False
        self._add(message)
        return True

    async def put(self, message: bytes) -> None:
        """Add a message, waiting for room; dropped once the reader is gone."""
        if self.watcher is not None:
            self.watcher(message)
        while not self._closed and self._messages and not self._has_room(message):
            self._changed.clear()
            await self._changed.wait()
        if not self._closed:
            self._add(message)

    async def get(self) -> bytes | None:
        """The next message; None after `close`, when all were taken."""
        while not self._messages:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        self._bytes -= len(message)
        self.taken += 1
        self._changed.set()
        return message

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def _has_room(self, message: bytes) -> bool:
        return len(self._messages) < self._max_messages and self._bytes + len(message) <= self._max_bytes

    def _add(self, message: bytes) -> None:
        self._messages.append(message)
        self._bytes += len(message)
        self._changed.set()


@dataclass(slots=True)
class Session:
    """A session of the handshake era. `queue` is what the server sends outside of requests, for Listen."""

    id: str
    owner: str
    queue: Outbox
    last_used: float = field(default_factory=time.monotonic)
    in_use: int = 0
    listening: bool = False


@dataclass(slots=True)
class Exchange:
    """One request. `outbox` takes its notifications (None: nobody wants them); the upstream sets `server`.

    Without a session it is stateless (2026-07-28): its `_meta` says all there is to know.
    """

    call: McpCall
    id_json: bytes
    params_json: bytes
    meta: Meta
    owner: str = ""
    session: Session | None = None
    opens_session: bool = False
    """This is the `initialize` that `session` was just made for."""
    outbox: Outbox | None = None
    server: str = ""
    finding: str = ""
    """Stable code of what a guard found, such as `tool_drift`: for the record."""
    trace: Trace | None = None
    """The bridge's own span; what it asks of upstreams belongs below."""


@dataclass(frozen=True, slots=True)
class Note:
    """One notification from the client."""

    method: str
    params_json: bytes
    owner: str
    session: Session | None = None


class Upstream(Protocol):
    """An MCP server, however it is reached. Every method raises `HopError` where the hop fails."""

    name: str

    async def start(self) -> None:
        """Check what can be checked before the first request; raises `UserError`."""

    async def request(self, exchange: Exchange) -> bytes:
        """The JSON-RPC response, under the exchange's id. Cancelling this cancels the request upstream."""
        ...

    async def notify(self, note: Note) -> None: ...

    async def reply(self, session: Session, message: bytes) -> None:
        """Pass on the client's answer to a request that came out of `session.queue`."""

    async def end_session(self, session: Session) -> None: ...

    async def reap(self, idle_s: float) -> None:
        """Let go of what was not used for `idle_s` seconds."""

    async def close(self) -> None:
        """Leave nothing behind, within a second or so."""
