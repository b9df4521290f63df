"""What a gRPC service of the bridge is, whatever server it stands on: handlers of bytes, and what they may say besides.

The services (`transport_service`, `typed_service`, …) are written against
`Context` and give their `Routes`; `new_server` puts them on a server.
A handler answers with anything but OK by raising `HopError`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Call", "Context", "Metadata", "Routes", "Session", "Stream"]

Metadata = Sequence[tuple[str, str | bytes]]
"""Headers of a request, names in lower case, in order; bytes where the name ends in `-bin`."""


class Context(Protocol):
    """One RPC, as its handler sees it."""

    @property
    def metadata(self) -> Metadata: ...

    def name_server(self, name: str) -> None:
        """Say which MCP server answers, in the response header `x-mcp-server`.

        Before the first message; afterwards, and in a `Session`, whose headers go out at once, it has no effect.
        """


Call = Callable[[bytes, Context], Awaitable[bytes]]
"""One message in, one out."""
Stream = Callable[[bytes, Context], AsyncIterator[bytes]]
"""One message in, several out. The next is asked for when the peer takes more; closed (`aclose`) when it is gone."""
Session = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]
"""Messages both ways. The peer may send more only as the iterator is read, which ends when the peer sends no more; a
message that is too large, or is not gRPC, ends the RPC: the handler is cancelled. Its own end is the RPC's."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Handlers by gRPC path, `/package.Service/Method`."""

    calls: Mapping[str, Call] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict)
