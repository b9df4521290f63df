"""Runs `secure-mcp-grpc connect`: channels, a backend and one front, until the client leaves or a signal comes."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mcp_bridge.client.channel import Address, Channels
from mcp_bridge.connect import first_look
from mcp_bridge.connect.backend import GrpcBackend
from mcp_bridge.connect.tokens import TokenSource
from mcp_bridge.front.access import Access
from mcp_bridge.front.backend import Backend
from secure_mcp_grpc import lifecycle, logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.http1 import new_http1_server

__all__ = ["Endpoint", "Options", "serve"]

logger = logging.getLogger(__name__)

_DRAIN_S: Final = 2.0
_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where `--http` listens, and who else than this machine's own names may be named there."""

    host: str
    port: int
    allow_hosts: Sequence[str] = ()
    allow_origins: Sequence[str] = ()

    @classmethod
    def parse(cls, text: str, allow_hosts: Sequence[str] = (), allow_origins: Sequence[str] = ()) -> "Endpoint":
        """From `HOST:PORT`, `[IPv6]:PORT` or `PORT`; raises `UserError`."""
        host, _, port = text.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UserError(f"--http expects HOST:PORT, such as 127.0.0.1:8080, not {text}")
        return cls(host.strip("[]") or "127.0.0.1", int(port), allow_hosts, allow_origins)


@dataclass(frozen=True, slots=True)
class Options:
    """`http` is None for stdio."""

    http: Endpoint | None = None
    timeout_s: float | None = None
    max_request_bytes: int = 1024 * 1024
    max_answer_bytes: int = 16 * 1024 * 1024


async def serve(address: Address, token: TokenSource | None, options: Options) -> None:
    """Returns when the client is gone (stdio) or a signal asks to stop. Raises `UserError`."""
    stop = lifecycle.stop_event()
    channels = Channels(address)
    try:
        await _open(channels)
        async with first_look.hints(address) as hints:
            backend = GrpcBackend(channels, token, timeout_s=options.timeout_s, hints=hints)
            if options.http is None:
                await _serve_stdio(backend, options, stop)
            else:
                await _serve_http(backend, options.http, options, stop)
    finally:
        await channels.close()
        if token is not None:
            await token.close()


async def _open(channels: Channels) -> None:
    try:
        await channels.open()
    except OSError as error:
        raise UserError(str(error)) from None


async def _serve_stdio(backend: Backend, options: Options, stop: asyncio.Event) -> None:
    from mcp_bridge.front.pipes import open_stdio
    from mcp_bridge.front.stdio import StdioFront

    async with open_stdio() as (read, write):
        front = StdioFront(backend, read, write, max_line_bytes=options.max_request_bytes)
        await front.run(stop)


async def _serve_http(backend: Backend, endpoint: Endpoint, options: Options, stop: asyncio.Event) -> None:
    from mcp_bridge.front.http import HttpFront

    listener = _listen(endpoint)
    port = listener.getsockname()[1]
    access = Access.bound_to(
        endpoint.host, port, allow_hosts=endpoint.allow_hosts, allow_origins=endpoint.allow_origins
    )
    front = HttpFront(
        backend, access, max_request_bytes=options.max_request_bytes, max_answer_bytes=options.max_answer_bytes
    )
    server = new_http1_server(front, for_what="--http", extra="connect", backlog=_BACKLOG)
    async with front.running():
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        logs.event(logger, logging.INFO, "connect_ready", url=f"http://{host}:{port}/mcp")
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        front.stop()
        server.should_exit = True
        await asyncio.wait([serving], timeout=_DRAIN_S)
        server.force_exit = True
        stopping.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)


def _listen(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        listener = socket.create_server((endpoint.host, endpoint.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(f"cannot listen on {endpoint.host}:{endpoint.port}: {error.strerror}") from None
    # asyncio would do this only for sockets that it made; without it each small answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
