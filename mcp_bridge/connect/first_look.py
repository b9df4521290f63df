"""A look at each sidecar when `connect` starts: what is wrong with an address, and what to do about it.

gRPC connects by itself, tries for ever and says of a TLS port without TLS only
that the socket closed. This looks on a connection of its own, beside the
requests; it stops nothing.
"""

import asyncio
import contextlib
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from mcp_bridge.client.channel import Address
from mcp_bridge.client.identity import Identity
from secure_mcp_grpc import logs

__all__ = ["Trouble", "hints", "look"]

logger = logging.getLogger(__name__)

_LOOK_S: Final = 5.0
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(\d{1,5})")
# RFC 9113, 3.4: a client begins with this and SETTINGS; a server with SETTINGS, type 4.
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HEAD_BYTES: Final = 9
_TYPE_AT, _SETTINGS = 3, 4
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""Environment variables that gRPC heeds."""


@dataclass(frozen=True, slots=True)
class Trouble:
    sentence: str
    lasts: bool
    """Whether it stays until somebody changes how `connect` or the sidecar was started."""


async def look(target: str, identity: Identity | None, server_name: str | None) -> Trouble | None:
    """What is wrong with `target`; None where nothing is, or where this cannot know."""
    if identity is None:
        return await _look_plainly(target)
    try:
        return await _look_by_tls(target, identity, server_name)
    except ssl.SSLCertVerificationError as error:
        return Trouble(f"the sidecar at {target} is not trusted: {error.verify_message}; see --ca, --server-name", True)
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return Trouble(f"what answers at {target} speaks no TLS", True)
        return _wants_certificate(target, identity, error.reason or "")
    except (OSError, TimeoutError, EOFError) as error:
        return _silent(target, error)


@asynccontextmanager
async def hints(address: Address) -> AsyncIterator[dict[str, str]]:
    """Address to what is wrong with it lastingly, filled beside the body; each trouble is logged once."""
    found: dict[str, str] = {}

    async def one(target: str) -> None:
        async with asyncio.timeout(2 * _LOOK_S):
            trouble = await look(target, address.identity, address.server_name)
        if trouble is not None:
            logs.event(logger, logging.WARNING, "sidecar_not_reached", address=target, problem=trouble.sentence)
            if trouble.lasts:
                found[target] = trouble.sentence

    targets = [target for target in address.targets if _is_reached_directly(target)] if address.factory is None else []
    looking = [asyncio.create_task(one(target), name=f"look at {target}") for target in targets]
    try:
        yield found
    finally:
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)


async def _look_plainly(target: str) -> Trouble | None:
    try:
        head = await _greet(target, None, None)
    except (OSError, TimeoutError) as error:
        return _silent(target, error)
    except EOFError:
        head = b""
    if head[_TYPE_AT : _TYPE_AT + 1] == bytes([_SETTINGS]):
        return None
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is sent there but a hello
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        await _greet(target, anyone, None)
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return Trouble(f"what answers at {target} speaks no gRPC", True)
    except EOFError:
        pass  # it ended the connection once it was encrypted
    except (OSError, TimeoutError):
        return Trouble(f"what answers at {target} speaks no gRPC", True)
    return Trouble(f"the sidecar at {target} wants TLS and to know who calls: --as IDENTITY", True)


async def _look_by_tls(target: str, identity: Identity, server_name: str | None) -> Trouble | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(str(identity.ca))
        if identity.cert is not None:
            context.load_cert_chain(str(identity.cert), str(identity.key))
    except (OSError, ssl.SSLError):
        return None  # files that are being replaced, or that the channel has complained of
    try:
        head = await _greet(target, context, server_name)
    except EOFError:
        return _wants_certificate(target, identity, "")
    is_grpc = head[_TYPE_AT : _TYPE_AT + 1] == bytes([_SETTINGS])
    return None if is_grpc else Trouble(f"what answers at {target} speaks no gRPC", True)


def _wants_certificate(target: str, identity: Identity, reason: str) -> Trouble:
    if identity.cert is None:
        return Trouble(f"the sidecar at {target} wants a certificate: --as IDENTITY", True)
    why = f" ({reason.lower().replace('_', ' ')})" if reason else ""
    return Trouble(f"the sidecar at {target} does not accept the certificate {identity.cert}{why}", True)


def _silent(target: str, error: Exception) -> Trouble:
    code = error.strerror if isinstance(error, OSError) and error.strerror else ""
    why = f" ({code})" if code else ""
    return Trouble(f"nothing answers at {target}{why}; requests will fail until it does", False)


async def _greet(target: str, context: ssl.SSLContext | None, server_name: str | None) -> bytes:
    """The first bytes that the server says to an HTTP/2 client. Raises `OSError`, `TimeoutError`, `EOFError`."""
    if context is not None:
        context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(_LOOK_S):
        if target.startswith("unix:"):
            path = target.removeprefix("unix:").removeprefix("//")
            name = (server_name or "localhost") if context is not None else None
            reader, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname=name)
        else:
            host, _, port = target.rpartition(":")
            host = host.strip("[]")
            name = (server_name or host) if context is not None else None
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
        try:
            writer.write(_HELLO)
            return await reader.readexactly(_HEAD_BYTES)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _is_reached_directly(target: str) -> bool:
    """Other forms (`dns:///…`) are gRPC's to resolve, and where a proxy is named it goes through that."""
    if target.startswith("unix:"):
        return True
    return _HOST_PORT.fullmatch(target) is not None and not any(os.environ.get(name) for name in _PROXIES)
