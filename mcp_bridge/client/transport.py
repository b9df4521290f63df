"""The MCP SDK's `Transport` over gRPC: `mcp.Client(grpc_transport("host:8443", identity=…))`.

Between the SDK's session, which sends and receives JSON-RPC messages, and an
Envoy in front of a bridge. Both protocol eras; which one is the SDK's choice,
message by message.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
import grpc
import mcp_types as types
import msgspec
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from pydantic import ValidationError

from mcp_bridge.capture import trace as tracing
from mcp_bridge.client.channel import Address, Channels, Endpoint
from mcp_bridge.client.identity import Identity
from mcp_bridge.client.listening import Metadata, listen
from mcp_bridge.client.status import NO_RESPONSE, error_of
from mcp_bridge.patterns import declared_version, expects_notifications, meta_of, name_or_nothing
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["VERSION_HEADER", "Writer", "encode", "grpc_transport", "not_json", "parse"]

logger = logging.getLogger(__name__)

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], "Writer"]

VERSION_HEADER: Final = "mcp-protocol-version"
_NOTIFY_S: Final = 10.0
_END_SESSION_S: Final = 1.0
_FINAL = frozenset({"UNAUTHENTICATED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL"})
"""Statuses of server/discover that say nothing about the server's era: trying the handshake would hide them."""


def grpc_transport(
    address: str,
    *,
    identity: Identity | Path | str | None = None,
    server_id: str | None = None,
    server_name: str | None = None,
    token: str | Callable[[], str] | None = None,
    interceptors: Sequence[Any] = (),
    max_answer_bytes: int = 16 * 1024 * 1024,
    timeout_s: float | None = None,
    pipelined: bool = False,
    channel_factory: Callable[[], grpc.aio.Channel] | None = None,
) -> contextlib.AbstractAsyncContextManager[Streams]:
    """A transport for `mcp.Client` to the sidecar at `address` (`host:port`).

    Several addresses with commas between them share the requests: each takes
    its turn, one that is away is left out, a session stays where it began.
    `timeout_s` is the longest that any request but `subscriptions/listen` may
    take.

    `identity` names certificate, key and CA, or the directory that holds them
    as tls.crt, tls.key and ca.crt; without one only loopback addresses are
    reached, in plaintext (the pod's own egress listener). `server_id` is the
    SPIFFE ID that the server must have, `server_name` the DNS name to look
    for in its certificate instead of the address's. `token` (or a function
    that returns it) is sent as a bearer token with each call.

    `pipelined` sends every message over one gRPC stream, which is faster than
    a call for each; each is authorized all the same, and policy must allow
    `grpc:session`. What waits for an answer when the stream ends fails with
    its status; the next message opens another stream.

    A gRPC status becomes a JSON-RPC error whose `data.grpcStatus` names it;
    see `mcp_bridge.client.status`.
    """
    if isinstance(identity, str | Path):
        identity = Identity.from_directory(identity)
    where = Address(address, identity, server_id, server_name, tuple(interceptors), max_answer_bytes, channel_factory)
    return _connected(Channels(where), token, timeout_s, pipelined=pipelined)


@contextlib.asynccontextmanager
async def _connected(
    channels: Channels, token: str | Callable[[], str] | None, timeout_s: float | None, *, pipelined: bool
) -> AsyncIterator[Streams]:
    await channels.open()
    to_session, incoming = anyio.create_memory_object_stream[Incoming](64)
    try:
        async with to_session, incoming, anyio.create_task_group() as group:
            writer = _writer_class(pipelined=pipelined)(channels, to_session, group, token, timeout_s)
            try:
                yield incoming, writer
            finally:
                group.cancel_scope.cancel()
                await writer.end_session()
    finally:
        with anyio.CancelScope(shield=True):
            await channels.close()


def _writer_class(*, pipelined: bool) -> "type[Writer]":
    if not pipelined:
        return Writer
    from mcp_bridge.client.pipeline import PipelinedWriter

    return PipelinedWriter


class Writer:
    """The SDK's write stream: a request starts a call and its answers go to `to_session`."""

    def __init__(
        self,
        channels: Channels,
        to_session: MemoryObjectSendStream[Incoming],
        group: TaskGroup,
        token: str | Callable[[], str] | None,
        timeout_s: float | None,
    ) -> None:
        self._timeout_s = timeout_s
        self._channels = channels
        self._to_session = to_session
        self._group = group
        self._token = token
        self._in_flight: dict[tuple[type, types.RequestId], tuple[anyio.CancelScope, bool]] = {}
        self._session_id = ""
        self._version = ""
        self._discover_error: dict[str, Any] | None = None

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        stamped = item.metadata.headers if isinstance(item.metadata, ClientMessageMetadata) else None
        if stamped and (version := stamped.get(VERSION_HEADER)):
            self._version = version
        if isinstance(message, types.JSONRPCRequest):
            await self._request(message)
        elif isinstance(message, types.JSONRPCNotification):
            await self._notify(message)
        else:
            body = message.model_dump(by_alias=True, mode="json", exclude_unset=True)
            reply = pb.ReplyRequest(session_id=self._session_id, message_json=encode(body))
            await self._reply(reply)

    async def _request(self, message: types.JSONRPCRequest) -> None:
        self._start(message)

    async def _reply(self, reply: pb.ReplyRequest) -> None:
        await self._tell("reply", reply, "reply")

    async def aclose(self) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def end_session(self) -> None:
        if not self._session_id:
            return
        ending, self._session_id = pb.EndSessionRequest(session_id=self._session_id), ""
        with anyio.move_on_after(_END_SESSION_S, shield=True):
            await self._tell("end_session", ending, "end_session")
        self._channels.release(ending.session_id)

    def _request_of(self, message: types.JSONRPCRequest) -> pb.Request:
        params = tracing.with_trace(message.params or {}, tracing.sent_with(meta_of(message.params or {})))
        if message.method == "initialize":
            self._session_id = self._version = ""
        elif message.method == "server/discover":
            self._discover_error = None
        declared = declared_version(meta_of(params))
        return pb.Request(
            method=message.method,
            name=name_or_nothing(message.method, params),
            protocol_version=declared if isinstance(declared, str) else self._version,
            session_id=self._session_id,
            id_json=encode(message.id),
            params_json=encode(params),
        )

    def _start(self, message: types.JSONRPCRequest) -> None:
        with tracing.within(tracing.sent_with(meta_of(message.params or {}))):
            self._start_here(message)

    def _start_here(self, message: types.JSONRPCRequest) -> None:
        """The task that asks keeps the context of this moment, and with it the trace."""
        request = self._request_of(message)
        declared = declared_version(meta_of(message.params or {}))
        scope, key = anyio.CancelScope(), (type(message.id), message.id)
        if (earlier := self._in_flight.get(key)) is not None:
            earlier[0].cancel()  # its id belongs to this request now
        self._in_flight[key] = entry = (scope, declared is not None)
        self._group.start_soon(self._run, message, request, key, entry)

    async def _run(
        self,
        message: types.JSONRPCRequest,
        request: pb.Request,
        key: tuple[type, types.RequestId],
        entry: tuple[anyio.CancelScope, bool],
    ) -> None:
        try:
            with entry[0]:
                try:
                    await self._ask(message, request)
                except asyncio.CancelledError:
                    # gRPC raises one of its own, in which anyio does not recognize the cancel of its scope.
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    raise
        finally:
            if self._in_flight.get(key) is entry:
                del self._in_flight[key]

    async def _ask(self, message: types.JSONRPCRequest, request: pb.Request) -> None:
        if message.method == "initialize" and self._hides_refusal():
            await self._fail(message, self._discover_error or {})
        elif expects_notifications(message.method, meta_of(message.params)):
            await self._stream(message, request)
        else:
            await self._call(message, request)

    async def _call(self, message: types.JSONRPCRequest, request: pb.Request) -> None:
        endpoint = await self._channels.pick(request.session_id)
        try:
            response = await endpoint.stubs.call(request, metadata=self._metadata(), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            await self._refused(message, error, endpoint)
            return
        self._opened(response.session_id, endpoint)
        if (answer := parse(response.message_json)) is None:
            await self._fail(message, not_json())
        else:
            await self._pass_on(answer)

    async def _stream(self, message: types.JSONRPCRequest, request: pb.Request) -> None:
        """A stream that ends without its response would leave the SDK waiting for ever."""
        endpoint = await self._channels.pick(request.session_id)
        timeout_s = None if message.method == "subscriptions/listen" else self._timeout_s
        call = endpoint.stubs.stream(request, metadata=self._metadata(), timeout=timeout_s)
        try:
            async for response in call:
                self._opened(response.session_id, endpoint)
                one = parse(response.message_json)
                if one is None:
                    await self._fail(message, not_json())
                    return
                await self._pass_on(one)
                if isinstance(one.message, types.JSONRPCResponse | types.JSONRPCError):
                    return
            await self._fail(message, {"code": types.CONNECTION_CLOSED, "message": NO_RESPONSE})
        except grpc.aio.AioRpcError as error:
            await self._refused(message, error, endpoint)
        finally:
            call.cancel()

    def _opened(self, session_id: str, endpoint: Endpoint) -> None:
        if session_id:
            self._session_id = session_id
            self._channels.bind(session_id, endpoint)

    def _notification_of(self, message: types.JSONRPCNotification) -> pb.Notification:
        return pb.Notification(
            method=message.method,
            protocol_version=self._version,
            session_id=self._session_id,
            params_json=encode(message.params) if message.params is not None else b"",
        )

    async def _notify(self, message: types.JSONRPCNotification) -> None:
        cancelled = None
        if message.method == "notifications/cancelled":
            named = (message.params or {}).get("requestId")
            cancelled = self._in_flight.get((type(named), named)) if isinstance(named, int | str) else None
            if not self._session_id or (cancelled is not None and cancelled[1]):
                # 2026-07-28: the end of the call is the cancel, and the bridge tells the server.
                if cancelled is not None:
                    cancelled[0].cancel()
                return
        sent = await self._tell("notify", self._notification_of(message), message.method)
        if cancelled is not None:
            cancelled[0].cancel()
        if sent and message.method == "notifications/initialized" and self._session_id:
            self._group.start_soon(self._listen, self._session_id)

    async def _listen(self, session_id: str) -> None:
        """What the server sends outside of requests, as long as the session lives; without the right to it, without."""

        async def metadata() -> Metadata:
            return self._metadata()

        try:
            async with aclosing(listen(self._channels, session_id, metadata)) as incoming:
                async for message in incoming:
                    if (one := parse(message)) is not None:
                        await self._pass_on(one)
        except grpc.aio.AioRpcError as error:
            logger.debug("listen ended: %s", error.code().name)

    async def _tell(self, rpc: str, request: Any, what: str) -> bool:
        """A message that nobody answers; a failure is logged, as the SDK does for its own transports."""
        try:
            endpoint = await self._channels.pick(request.session_id)
            await getattr(endpoint.stubs, rpc)(request, metadata=self._metadata(), timeout=_NOTIFY_S)
        except grpc.aio.AioRpcError as error:
            logger.warning("%s was not delivered: %s: %s", what, error.code().name, error.details())
            return False
        return True

    async def _refused(self, message: types.JSONRPCRequest, error: grpc.aio.AioRpcError, endpoint: Endpoint) -> None:
        body = self._refusal(message, error_of(error.code(), error.details()))
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            await self._channels.failed(endpoint)
        await self._fail(message, body)

    def _refusal(self, message: types.JSONRPCRequest, body: dict[str, Any]) -> dict[str, Any]:
        """The error to show for `body`: of two refusals of one connection, the first."""
        if message.method == "server/discover" and "grpcStatus" in body.get("data", ()):
            self._discover_error = body
        elif message.method == "initialize" and self._both_denied(body):
            return self._discover_error or body
        return body

    async def _pass_on(self, item: SessionMessage) -> None:
        """A session that is being closed takes nothing more."""
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._to_session.send(item)

    def _hides_refusal(self) -> bool:
        """The SDK takes any error of server/discover for an older server and tries the handshake."""
        error = self._discover_error
        return error is not None and error["data"]["grpcStatus"] in _FINAL

    def _both_denied(self, body: dict[str, Any]) -> bool:
        denied = grpc.StatusCode.PERMISSION_DENIED.name
        earlier = self._discover_error
        return earlier is not None and earlier["data"]["grpcStatus"] == _status_of(body) == denied

    async def _fail(self, message: types.JSONRPCRequest, body: dict[str, Any]) -> None:
        error = types.JSONRPCError(jsonrpc="2.0", id=message.id, error=types.ErrorData.model_validate(body))
        await self._pass_on(SessionMessage(error))

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        chain = tracing.headers_here()
        if self._token is None:
            return chain
        token = self._token if isinstance(self._token, str) else self._token()
        return ("authorization", f"Bearer {token}"), *chain


def _status_of(body: dict[str, Any]) -> str:
    return str(body.get("data", {}).get("grpcStatus", ""))


def encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError):
        return json.dumps(value, separators=(",", ":")).encode()


def parse(message: bytes) -> SessionMessage | None:
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(message, by_name=False))
    except ValidationError:
        return None


def not_json() -> dict[str, Any]:
    return {"code": types.PARSE_ERROR, "message": "the answer is not a JSON-RPC message"}
