"""Serves plain streamable HTTP on the bridge's second Unix socket, where `streamable_http` is set."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp_bridge.serving import Routes
from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.http1 import new_http1_server

if TYPE_CHECKING:
    from mcp_bridge.settings import BridgeSettings

__all__ = ["serving_plain_http"]

_PART: Final = "bridge-http"
_BACKLOG: Final = 1024
_MAX_IN_FLIGHT: Final = 10_000
"""Of all clients together; `TransportBackend` has each client's share."""
_DRAIN_S: Final = 1.0
_KEEP_ALIVE_S: Final = 60
"""Longer than Envoy keeps a connection that it does not use."""


def _nothing() -> None:
    """Nothing is served."""


@contextlib.asynccontextmanager
async def serving_plain_http(settings: "BridgeSettings", routes: Sequence[Routes]) -> AsyncIterator[Callable[[], None]]:
    """Gives what ends every stream, so that the drain at the end of the block can. `routes` are the bridge's."""
    if not settings.streamable_http:
        yield _nothing
        return
    from mcp_bridge.front.http import HttpFront
    from mcp_bridge.plain_http import AnyHost, TransportBackend, naming_servers

    transport = next(one for one in routes if f"{TRANSPORT}Call" in one.calls)
    front = HttpFront(
        TransportBackend(transport),
        AnyHost(frozenset(), frozenset()),
        max_request_bytes=settings.max_request_bytes,
        max_answer_bytes=settings.max_answer_bytes,
        idle_s=settings.idle_s,
        max_sessions=settings.max_sessions,
        max_in_flight=_MAX_IN_FLIGHT,
        listens_ahead=False,
        resumes=False,
        asks_for_tools=False,  # nothing but what was authorized is executed
    )
    path = lifecycle.socket_path(settings.run_dir, _PART)
    listener = _listen(path)
    server = new_http1_server(
        naming_servers(front), for_what="streamable_http", extra="sidecar", backlog=_BACKLOG, keep_alive_s=_KEEP_ALIVE_S
    )
    async with front.running():
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="plain HTTP")
        try:
            yield front.stop
        finally:
            front.stop()
            server.should_exit = True
            await asyncio.wait([serving], timeout=_DRAIN_S)
            server.force_exit = True
            await asyncio.wait([serving], timeout=_DRAIN_S)
            path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    """The directory is private (0700); so is the socket."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise UserError(f"cannot listen on {path}: {error.strerror}") from None
    return listener
