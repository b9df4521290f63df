"""What streamable HTTP says in headers, and the server's side of a session."""

import asyncio
import re
from collections import deque
from dataclasses import dataclass, field

import httpx2

from mcp_bridge import wire
from mcp_bridge.upstreams.events import Position

__all__ = ["SESSION_ID", "Remote", "agreed_version", "base_headers", "is_stream", "request_id", "resuming"]

SESSION_ID = "mcp-session-id"


@dataclass(slots=True)
class Remote:
    """The server's side of one of our sessions."""

    session_id: str
    version: str = ""
    cancelled: deque[bytes] = field(default_factory=lambda: deque(maxlen=256))
    """Ids of requests that were cancelled lately: the end of their streams is no failure."""
    listening: asyncio.Task[None] | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        headers = base_headers()
        if self.session_id:
            headers[SESSION_ID] = self.session_id
        if self.version:
            headers["mcp-protocol-version"] = self.version
        return headers


def base_headers() -> dict[str, str]:
    return {
        "accept": "application/json, text/event-stream",
        "accept-encoding": "gzip, deflate",
        "content-type": "application/json",
    }


def resuming(headers: dict[str, str], position: Position) -> dict[str, str]:
    return headers | ({"last-event-id": position.last_id.decode("latin-1")} if position.last_id else {})


def is_stream(response: httpx2.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


def request_id(params: bytes) -> bytes:
    """The id that a cancel names, as its bytes."""
    try:
        return bytes(wire.object_of(params)["requestId"])
    except (wire.NotJson, KeyError):
        return b""


def agreed_version(answer: bytes) -> str:
    """`result.protocolVersion` of an answer to initialize; "" where it is an error."""
    try:
        body = bytes(wire.read_envelope(answer).result)
        text = bytes(wire.object_of(body)["protocolVersion"]).decode() if body else ""
    except (wire.NotJson, KeyError, UnicodeDecodeError):
        return ""
    version = text.strip('"')
    return version if re.fullmatch(r"[A-Za-z0-9.-]{1,32}", version) else ""
