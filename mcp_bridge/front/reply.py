"""The ASGI side of one HTTP request: its body, its answer as JSON or as an event stream, and its client's leaving."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from mcp_bridge import wire
from mcp_bridge.front.access import values
from mcp_bridge.front.backend import Headers
from mcp_bridge.front.rules import Refusal
from mcp_bridge.upstreams.lines import one_line

__all__ = ["Receive", "Reply", "Send", "read_body", "watching"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_RETRY_MS: Final = 500
_EVENT_HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
_CORS: Final = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": (
        "content-type, accept, authorization, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id"
    ),
    "access-control-expose-headers": "mcp-session-id, mcp-protocol-version",
    "vary": "origin",
}


class Reply:
    """`id_json` is the request's, for errors; `extra` headers go with whatever is answered."""

    def __init__(self, send: Send, origin: str) -> None:
        self._send = send
        self.id_json = b""
        self.extra: dict[str, str] = {}
        self.is_begun = False
        if origin:
            self.extra |= {"access-control-allow-origin": origin, **_CORS}

    async def json(self, status: int, body: bytes) -> None:
        await self._start(status, {"content-type": "application/json", "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, refusal: Refusal) -> None:
        """An event stream that has begun ends with the error."""
        if self.is_begun:
            await self.event(refusal.body(self.id_json), last=True)
        else:
            await self.json(refusal.status, refusal.body(self.id_json))

    async def empty(self, status: int) -> None:
        await self._start(status, {} if status == 204 else {"content-length": "0"})
        await self._send({"type": "http.response.body", "body": b""})

    async def start_events(self) -> None:
        await self._start(200, _EVENT_HEADERS)

    async def event(self, message: bytes, event_id: str = "", *, last: bool = False) -> None:
        """One message as a server-sent event; a comment, which keeps the connection alive, for an empty one."""
        named = b"id: " + event_id.encode() + b"\n" if event_id else b""
        data = b"event: message\n" + named + b"data: " + one_line(message) + b"\n" if message else b": alive\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def prime(self, event_id: str) -> None:
        """2025-11-25, "Streamable HTTP": an event to come back to, before there is anything to say."""
        data = f"id: {event_id}\nretry: {_RETRY_MS}\ndata: \n\n".encode()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.is_begun = True
        lines = [(name.encode(), value.encode("latin-1")) for name, value in {**headers, **self.extra}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})


async def read_body(headers: Headers, receive: Receive, max_bytes: int) -> bytes | Refusal | None:
    """The request's body within `max_bytes`; None when the client left before its end."""
    too_large = Refusal(413, wire.INVALID_REQUEST, f"the message is larger than the limit of {max_bytes} bytes")
    declared = values(headers, "content-length")
    if declared and declared[0].isdigit() and int(declared[0][:20]) > max_bytes:
        return too_large
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if len(body) > max_bytes:
            return too_large
        if not event.get("more_body", False):
            return bytes(body)


@contextlib.asynccontextmanager
async def watching(receive: Receive, left: Callable[[], object]) -> AsyncIterator[None]:
    """Call `left` when the client leaves before the block ends."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left()

    watcher = asyncio.create_task(watch(), name="client")
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
