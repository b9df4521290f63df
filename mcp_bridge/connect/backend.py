"""The `Backend` of `secure-mcp-grpc connect`: every message goes to a sidecar over gRPC."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import grpc

from mcp_bridge import wire
from mcp_bridge.client.channel import Channels, Endpoint
from mcp_bridge.client.listening import Metadata, listen
from mcp_bridge.client.status import CODES, NO_RESPONSE, error_message
from mcp_bridge.connect.tokens import NoToken, TokenSource
from mcp_bridge.front.backend import Answer, BackendError, SessionUnknown, Via
from mcp_bridge.front.messages import Notification, Request
from mcp_bridge.front.transport import notification_of, reply_of, request_of
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["GrpcBackend"]

_TELL_S: Final = 10.0
_TRACE: Final = frozenset({"traceparent", "tracestate", "baggage"})
_HTTP_STATUS: Final = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class GrpcBackend:
    """`timeout_s` is the longest a request may take, `subscriptions/listen` excepted; None leaves it to the sidecar.

    `hints` tells why an address cannot be connected to, see `first_look.hints`.
    """

    def __init__(
        self,
        channels: Channels,
        token: TokenSource | None = None,
        *,
        timeout_s: float | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> None:
        self._channels = channels
        self._token = token
        self._timeout_s = timeout_s
        self._hints = hints if hints is not None else {}

    def owner(self, via: Via) -> str:
        return ""  # all that is sent here is sent as one identity

    async def request(self, request: Request, via: Via, *, streams: bool) -> AsyncGenerator[Answer, None]:
        message = request_of(request, via)
        try:
            metadata = await self._metadata(via)
            endpoint = await self._channels.pick(message.session_id)
            work = self._stream if streams else self._call
            async with aclosing(work(request, message, metadata, endpoint)) as answers:
                async for answer in answers:
                    yield answer
        except NoToken as error:
            yield Answer(error_message(request.id_json, grpc.StatusCode.UNAUTHENTICATED, str(error)), True)

    async def notify(self, notification: Notification, via: Via) -> None:
        await self._tell("notify", notification_of(notification, via), via)

    async def reply(self, message: bytes, via: Via) -> None:
        await self._tell("reply", reply_of(message, via), via)

    async def listen(self, via: Via) -> AsyncGenerator[bytes, None]:
        async def metadata() -> Metadata:
            return await self._metadata(via)

        try:
            async with aclosing(listen(self._channels, via.session_id, metadata)) as messages:
                async for message in messages:
                    yield message
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        except NoToken as error:
            raise BackendError(str(error)) from None

    async def end_session(self, via: Via) -> None:
        try:
            await self._tell("end_session", pb.EndSessionRequest(session_id=via.session_id), via)
        finally:
            self._channels.release(via.session_id)

    async def _call(
        self, request: Request, message: pb.Request, metadata: Metadata, endpoint: Endpoint
    ) -> AsyncGenerator[Answer, None]:
        try:
            response = await endpoint.stubs.call(message, metadata=metadata, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            yield await self._refused(request, message, error, endpoint)
            return
        self._channels.bind(response.session_id, endpoint)
        yield Answer(response.message_json, True, response.session_id)

    async def _stream(
        self, request: Request, message: pb.Request, metadata: Metadata, endpoint: Endpoint
    ) -> AsyncGenerator[Answer, None]:
        timeout_s = None if request.method == "subscriptions/listen" else self._timeout_s
        call = endpoint.stubs.stream(message, metadata=metadata, timeout=timeout_s)
        try:
            async for response in call:
                self._channels.bind(response.session_id, endpoint)
                is_last = _is_response(response.message_json)
                yield Answer(response.message_json, is_last, response.session_id)
                if is_last:
                    return
            yield Answer(error_message(request.id_json, grpc.StatusCode.UNAVAILABLE, NO_RESPONSE), True)
        except grpc.aio.AioRpcError as error:
            yield await self._refused(request, message, error, endpoint)
        finally:
            call.cancel()

    async def _refused(
        self, request: Request, message: pb.Request, error: grpc.aio.AioRpcError, endpoint: Endpoint
    ) -> Answer:
        await self._failed(error, endpoint)
        if error.code() is grpc.StatusCode.NOT_FOUND and message.session_id:
            raise SessionUnknown
        details = self._explained(error, endpoint)
        return Answer(error_message(request.id_json, error.code(), details), True)

    def _explained(self, error: grpc.aio.AioRpcError, endpoint: Endpoint) -> str | None:
        """gRPC's or the sidecar's sentence; with what is known of the address where no connection stands."""
        hint = self._hints.get(endpoint.target) if error.code() is grpc.StatusCode.UNAVAILABLE else None
        if hint is None or endpoint.state() is grpc.ChannelConnectivity.READY:
            return error.details()
        return f"{error.details()}: {hint}" if error.details() else hint

    async def _failed(self, error: grpc.aio.AioRpcError, endpoint: Endpoint) -> None:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            await self._channels.failed(endpoint)
        elif error.code() is grpc.StatusCode.UNAUTHENTICATED and self._token is not None:
            self._token.refused()

    async def _tell(self, rpc: str, message: Any, via: Via) -> None:
        try:
            metadata = await self._metadata(via)
        except NoToken as error:
            raise BackendError(str(error)) from None
        endpoint = await self._channels.pick(via.session_id)
        try:
            await getattr(endpoint.stubs, rpc)(message, metadata=metadata, timeout=_TELL_S)
        except grpc.aio.AioRpcError as error:
            await self._failed(error, endpoint)
            raise _failure(error) from None

    async def _metadata(self, via: Via) -> Metadata:
        """The token and what traces the request; headers of a local client have no other meaning to the sidecar."""
        metadata = [(name, value) for name, value in via.headers if name in _TRACE and _is_plain(value)]
        if self._token is not None:
            metadata.append(("authorization", f"Bearer {await self._token.token()}"))
        return metadata


def _failure(error: grpc.aio.AioRpcError) -> BackendError:
    code = error.code()
    if code is grpc.StatusCode.NOT_FOUND:
        return SessionUnknown()
    sentence = error.details() or f"the call failed with gRPC status {code.name}"
    return BackendError(sentence, code=CODES.get(code, wire.INTERNAL_ERROR), http_status=_HTTP_STATUS.get(code, 503))


def _is_response(message: bytes) -> bool:
    try:
        return wire.is_response(wire.read_envelope(message))
    except wire.NotJson:
        return False


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()
