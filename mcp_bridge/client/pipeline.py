"""The SDK's write stream over one pipelined session: every message a frame on the same gRPC stream.

Cheaper than a call for each message. Each frame is authorized by itself all
the same; what is refused comes back as the JSON-RPC error that a refused call
would have become.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

import anyio
import anyio.lowlevel
import grpc
import mcp_types as types

from mcp_bridge import wire
from mcp_bridge.client.channel import Endpoint
from mcp_bridge.client.transport import Writer, encode, not_json, parse
from mcp_bridge.status import error_of
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["PipelinedWriter"]

logger = logging.getLogger(__name__)

_CANCELLED: Final = "notifications/cancelled"
_REFUSAL_S: Final = 0.05
_ENDED: Final = "the session ended before it answered; whether the request was executed is not known"

_Key = tuple[type, types.RequestId]


class _Stream:
    """One Session RPC, and the requests that wait for an answer on it."""

    def __init__(self, call: Any, endpoint: Endpoint) -> None:
        self.call = call
        self.endpoint = endpoint
        self.waiting: dict[_Key, types.JSONRPCRequest] = {}


class PipelinedWriter(Writer):
    """Opens a stream with the first message, and another one after it ended.

    What waited on a stream that ends fails with its status and is not sent
    again: it may have been executed.
    """

    _session: _Stream | None = None
    _writing: anyio.Lock | None = None

    async def _request(self, message: types.JSONRPCRequest) -> None:
        request = self._request_of(message)
        if message.method == "initialize" and self._hides_refusal():
            await self._fail(message, self._discover_error or {})
            return
        key = (type(message.id), message.id)
        if self._session is not None and self._session.waiting.pop(key, None) is not None:
            await self._cancel(message.id)  # its id belongs to this request now
        await self._write(pb.ClientFrame(request=request), message)
        if self._timeout_s is not None and message.method != "subscriptions/listen":
            self._group.start_soon(self._expire, self._timeout_s, key, message)

    async def _notify(self, message: types.JSONRPCNotification) -> None:
        if message.method == _CANCELLED and self._session is not None:
            named = (message.params or {}).get("requestId")
            if isinstance(named, int | str):
                self._session.waiting.pop((type(named), named), None)
        await self._write(pb.ClientFrame(notification=self._notification_of(message)))
        if message.method == "notifications/initialized" and self._session_id:
            self._group.start_soon(self._listen, self._session_id)

    async def _reply(self, reply: pb.ReplyRequest) -> None:
        await self._write(pb.ClientFrame(reply=reply))

    async def _cancel(self, request_id: types.RequestId) -> None:
        params = encode({"requestId": request_id})
        notification = pb.Notification(
            method=_CANCELLED, protocol_version=self._version, session_id=self._session_id, params_json=params
        )
        await self._write(pb.ClientFrame(notification=notification))

    async def _write(self, frame: pb.ClientFrame, message: types.JSONRPCRequest | None = None) -> None:
        """Send one frame; a failure is told by the end of its stream."""
        if self._writing is None:
            self._writing = anyio.Lock()
        async with self._writing:
            is_open = self._session is not None
            stream = self._session or await self._open()
            if message is not None:
                stream.waiting[type(message.id), message.id] = message
            if not is_open and await _is_refused(stream.call):
                return  # the reader tells
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                await stream.call.write(frame)
                return
        if message is None:
            logger.warning("%s was not delivered: the session ended", frame.WhichOneof("frame"))

    async def _open(self) -> _Stream:
        endpoint = await self._channels.pick(self._session_id)
        stream = _Stream(endpoint.stubs.session(None, metadata=self._metadata()), endpoint)
        self._session = stream
        self._group.start_soon(self._read, stream)
        return stream

    async def _read(self, stream: _Stream) -> None:
        body: dict[str, Any] = {"code": types.CONNECTION_CLOSED, "message": _ENDED}
        try:
            async for response in stream.call:
                await self._received(stream, response)
        except grpc.aio.AioRpcError as error:
            body = error_of(error.code(), error.details())
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                await self._channels.failed(stream.endpoint)
        except asyncio.CancelledError:
            # gRPC raises one of its own, in which anyio does not recognize the cancel of its scope.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            if self._session is stream:
                self._session = None
            stream.call.cancel()
        for message in list(stream.waiting.values()):
            await self._fail(message, self._refusal(message, body))

    async def _received(self, stream: _Stream, response: pb.Response) -> None:
        self._opened(response.session_id, stream.endpoint)
        item = parse(response.message_json)
        if item is None:
            await self._unreadable(stream, response.message_json)
            return
        answer = item.message
        if isinstance(answer, types.JSONRPCResponse | types.JSONRPCError):
            message = stream.waiting.pop((type(answer.id), answer.id), None) if answer.id is not None else None
            if message is None:
                return  # nobody waits for it any more
            if isinstance(answer, types.JSONRPCError) and _is_refusal(answer.error.data):
                await self._fail(message, self._refusal(message, answer.error.model_dump(exclude_unset=True)))
                return
        await self._pass_on(item)

    async def _unreadable(self, stream: _Stream, content: bytes) -> None:
        try:
            named = str(bytes(wire.read_envelope(content).id).decode())
        except (wire.NotJson, UnicodeDecodeError):
            named = ""
        for key, message in list(stream.waiting.items()):
            if encode(message.id).decode() == named:
                del stream.waiting[key]
                await self._fail(message, not_json())

    async def _expire(self, timeout_s: float, key: _Key, message: types.JSONRPCRequest) -> None:
        stream = self._session
        await anyio.sleep(timeout_s)
        if stream is not None and stream.waiting.get(key) is message:
            del stream.waiting[key]
            await self._fail(message, error_of(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout_s:g} s"))
            await self._cancel(message.id)


async def _is_refused(call: Any) -> bool:
    """Whether a stream ended instead of beginning.

    A write to it would hide its status behind an "Internal error from Core". A
    refusal comes without headers (gRPC over HTTP/2, "Trailers-Only").
    """
    with contextlib.suppress(grpc.aio.AioRpcError):
        if not await call.initial_metadata():
            with anyio.move_on_after(_REFUSAL_S):
                await call.code()
    return bool(call.done())


def _is_refusal(data: Any) -> bool:
    return isinstance(data, dict) and "grpcStatus" in data
