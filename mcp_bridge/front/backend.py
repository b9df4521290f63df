"""What a front asks: the other side of `mcp_bridge.front`.

A front knows MCP's transports; a backend knows where the server is. A backend
sees messages as the client wrote them and answers with complete JSON-RPC
messages; failures of hops are answers, too (a JSON-RPC error under the
request's id), except those that `BackendError` tells.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from mcp_bridge.front.messages import Notification, Request

__all__ = ["Answer", "Backend", "BackendError", "Headers", "SessionUnknown", "Via"]

Headers = tuple[tuple[str, str], ...]
"""Headers of the HTTP request, names in lower case; empty on stdio."""

INTERNAL_ERROR: Final = -32603


@dataclass(frozen=True, slots=True)
class Via:
    """How a message came: under which session of the handshake era, agreed version and headers."""

    session_id: str = ""
    version: str = ""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON-RPC message for the client. The response is the last; `session_id` is set in that to `initialize`."""

    message: bytes
    is_response: bool
    session_id: str = ""


class BackendError(Exception):
    """Nothing could be passed on; `sentence`, `code` and `data` are for the client, `http_status` where it speaks
    HTTP."""

    def __init__(
        self,
        sentence: str,
        *,
        code: int = INTERNAL_ERROR,
        http_status: int = 503,
        data: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.http_status = http_status
        self.data = data


class SessionUnknown(BackendError):
    """The session ended, or it never was this client's."""

    def __init__(self) -> None:
        super().__init__(
            "no such session: it ended or was never opened; initialize again", code=-32001, http_status=404
        )


class Backend(Protocol):
    def owner(self, via: Via) -> str:
        """Whose message this is; what a front holds for a session is for its owner only."""
        ...

    def request(self, request: Request, via: Via, *, streams: bool) -> AsyncGenerator[Answer, None]:
        """Messages for the client and the response last; without `streams` only the response.

        Closing the iterator cancels the request. Raises `SessionUnknown` instead of the first message.
        """
        ...

    async def notify(self, notification: Notification, via: Via) -> None:
        """Raises `BackendError`."""

    async def reply(self, message: bytes, via: Via) -> None:
        """The client's response to a request of the server. Raises `BackendError`."""

    def listen(self, via: Via) -> AsyncGenerator[bytes, None]:
        """What the session's server says outside of requests, until the session ends. Raises `BackendError`."""
        ...

    async def end_session(self, via: Via) -> None:
        """Raises `BackendError`."""
