"""The only module that touches what the MCP SDK does not promise to keep (mcp 2.3): serving a server in this process.

Everything else in the bridge knows JSON-RPC, not the SDK. Pinned to
`mcp>=2.3,<2.4`; a new minor version means reading this file again.
"""

import importlib
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import anyio
import mcp_types as types
import msgspec
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.runner import modern_error_data, serve_loop, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.shared.transport_context import TransportContext
from pydantic import ValidationError

from mcp_bridge import wire
from mcp_bridge.errors import malformed, overloaded, session_unknown
from mcp_bridge.exchange import Exchange, Outbox
from secure_mcp_grpc.errors import UserError

__all__ = ["Duplex", "lifespan", "load", "serve_session", "serve_stateless"]

_TRANSPORT = TransportContext(kind="grpc", can_send_request=False)


def load(target: str, upstream: str) -> Server[Any]:
    """The server that `package.module:server` names; raises `UserError`."""
    module_name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"upstream {upstream}: {module_name} cannot be imported: {error}") from None
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise UserError(f"upstream {upstream}: {module_name} has no {attribute}") from None
    return as_server(found, f"upstream {upstream}: {target}")


def as_server(found: Any, what: str) -> Server[Any]:
    """The low-level server in an MCPServer, a low-level Server, or a function without arguments that returns one."""
    if callable(found) and not hasattr(found, "_lowlevel_server"):
        try:
            found = found()
        except Exception as error:  # noqa: BLE001 - somebody else's code; start-up stops on it
            raise UserError(f"{what} cannot be called: {error}") from None
    server = getattr(found, "_lowlevel_server", found)
    if not isinstance(server, Server):
        raise UserError(f"{what} is neither an MCPServer nor a low-level Server")
    return server


def lifespan(server: Server[Any]) -> AbstractAsyncContextManager[Any]:
    return server.lifespan(server)


class _Context:
    """The SDK's `DispatchContext` for one stateless request: notifications go to the caller, requests nowhere."""

    transport = _TRANSPORT
    can_send_request = False
    message_metadata = None

    def __init__(self, request_id: types.RequestId, outbox: Outbox | None, progress_token: bytes) -> None:
        self.request_id = request_id
        self._outbox = outbox
        self._progress_token = progress_token
        self._cancel_requested: anyio.Event | None = None

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: a cancel reaches the handler as a cancelled task."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if self._outbox is not None:
            await self._outbox.put(wire.notification(method, _encode(params) if params is not None else b""))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._outbox is None or not self._progress_token:
            return
        members: dict[str, Any] = {"progressToken": msgspec.Raw(self._progress_token), "progress": progress}
        if total is not None:
            members["total"] = total
        if message is not None:
            members["message"] = message
        await self._outbox.put(wire.notification("notifications/progress", msgspec.json.encode(members)))


async def serve_stateless(server: Server[Any], state: Any, exchange: Exchange) -> bytes:
    """Serve one 2026-07-28 request: the SDK's ladder of checks, then the handler, whose faults become the answer."""
    try:
        params = _decode(exchange.params_json)
        route = classify_inbound_request({"method": exchange.call.method, "params": params})
        if isinstance(route, InboundLadderRejection):
            return _error(exchange.id_json, types.ErrorData(code=route.code, message=route.message, data=route.data))
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        context = _Context(_decode(exchange.id_json), exchange.outbox, bytes(exchange.meta.progress_token))
        answer = await serve_one(
            server, context, exchange.call.method, params, connection=connection, lifespan_state=state
        )
        return wire.result(exchange.id_json, _encode(answer))
    except Exception as error:  # noqa: BLE001 - a handler's fault is its request's answer, as in the SDK's own entries
        return _error(exchange.id_json, modern_error_data(error))


class Duplex:
    """A handshake-era connection as raw messages: `write` to the server, `received` from it (and for which request)."""

    def __init__(self, received: Callable[[bytes, int | None], Awaitable[None]]) -> None:
        self._to_server, self.read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](1024)
        self.write_stream = _Outgoing(received)

    def write(self, message: bytes) -> None:
        """At most 1024 messages wait for a server; raises `HopError` beyond, and for what the SDK cannot read."""
        try:
            self._to_server.send_nowait(
                SessionMessage(types.jsonrpc_message_adapter.validate_json(message, by_name=False))
            )
        except ValidationError:
            raise malformed("this is not a JSON-RPC message") from None
        except anyio.WouldBlock:
            raise overloaded("the MCP server takes no more messages on this session for now") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise session_unknown() from None

    def close(self) -> None:
        self._to_server.close()


class _Outgoing:
    """The SDK's `WriteStream`, without a queue: each message goes on at once."""

    def __init__(self, received: Callable[[bytes, int | None], Awaitable[None]]) -> None:
        self._received = received

    async def send(self, item: SessionMessage, /) -> None:
        metadata = item.metadata
        related = metadata.related_request_id if isinstance(metadata, ServerMessageMetadata) else None
        message = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        await self._received(message, related if isinstance(related, int) else None)

    async def aclose(self) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def serve_session(server: Server[Any], state: Any, duplex: Duplex, session_id: str) -> None:
    """Serve one session of the handshake era until the duplex is closed or this is cancelled."""
    await serve_loop(server, duplex.read_stream, duplex.write_stream, lifespan_state=state, session_id=session_id)


def _decode(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text) if text else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(text)  # takes lone surrogates, which msgspec refuses


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError):
        return json.dumps(value, separators=(",", ":")).encode()


def _error(id_json: bytes, data: types.ErrorData) -> bytes:
    body = data.model_dump(mode="json", by_alias=True, exclude_none=True)
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + _encode(body) + b"}"
