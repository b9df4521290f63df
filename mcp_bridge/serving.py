"""What a gRPC service of the bridge is, whatever server it stands on: handlers of bytes, and what they may say besides.

The services (`transport_service`, `typed_service`, …) are written against
`Context` and give their `Routes`; `new_server` puts them on a server.
A handler answers with anything but OK by raising `HopError`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from mcp_bridge.errors import HopError
from secure_mcp_grpc import headers, http2
from secure_mcp_grpc.health import Health
from secure_mcp_grpc.http2.health import health_streaming, health_unary
from secure_mcp_grpc.http2.rpc import closing

__all__ = ["Call", "Context", "Metadata", "Routes", "Session", "Stream", "new_server"]

_Given = TypeVar("_Given", bytes, AsyncIterator[bytes])

_FRAMING_BYTES: Final = 64 * 1024
"""What a gRPC message may hold beside params: the limits of settings speak about MCP."""
_WAITING_BYTES: Final = 64 * 1024 * 1024
_WAITING_ANSWERS: Final = 8
"""So many answers of the largest size may wait for their readers, before those that were not read for longest go."""

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


_NUISANCES: Final = 50_000
"""More than elsewhere: Envoy brings the cancels of all clients over one connection, and holds each to its rate."""


def new_server(
    routes: Sequence[Routes], *, health: Health | None = None, max_request_bytes: int, max_answer_bytes: int
) -> http2.Server:
    """A server for all `routes`, and `health`; start it on a socket."""
    limits = http2.Limits(
        max_message_bytes=max_request_bytes + _FRAMING_BYTES,
        max_buffered_bytes=max(_WAITING_BYTES, _WAITING_ANSWERS * max_answer_bytes),
        nuisances=_NUISANCES,
        nuisances_per_s=_NUISANCES / 10,
    )
    methods = http2.Methods(
        calls={path: _call(handler) for one in routes for path, handler in one.calls.items()},
        streams={path: _stream(handler) for one in routes for path, handler in one.streams.items()},
        sessions={path: _stream(handler) for one in routes for path, handler in one.sessions.items()},
    )
    unary = health_unary(health) if health else {}
    streaming = health_streaming(health) if health else {}
    return http2.Server(unary, streaming, limits, methods=methods)


class _Context:
    """`Context` of an RPC on our own server."""

    __slots__ = ("_rpc", "metadata")

    def __init__(self, rpc: http2.Rpc) -> None:
        self._rpc = rpc
        self.metadata = rpc.metadata

    def name_server(self, name: str) -> None:
        if name:
            self._rpc.set_header(headers.SERVER, name)


def _call(handler: Call) -> Callable[[bytes, http2.Rpc], Awaitable[bytes]]:
    async def call(message: bytes, rpc: http2.Rpc) -> bytes:
        try:
            return await handler(message, _Context(rpc))
        except HopError as error:
            raise _rpc_error(error) from None

    return call


def _stream(
    handler: Callable[[_Given, Context], AsyncIterator[bytes]],
) -> Callable[[_Given, http2.Rpc], AsyncIterator[bytes]]:
    async def stream(given: _Given, rpc: http2.Rpc) -> AsyncIterator[bytes]:
        answers = handler(given, _Context(rpc))
        try:
            async with closing(answers):
                async for answer in answers:
                    yield answer
        except HopError as error:
            raise _rpc_error(error) from None

    return stream


def _rpc_error(error: HopError) -> http2.RpcError:
    number: int = error.code.value[0]
    return http2.RpcError(http2.Status(number), error.sentence, error.details)
