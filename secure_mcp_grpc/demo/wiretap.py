"""Notes the request id that Envoy gave each gRPC request, so that each can be looked for in the store.

The frames of a pipelined session have its id and their number.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

__all__ = ["Sent", "Wiretap"]


@dataclass(slots=True)
class Sent:
    who: str
    rpc: str
    request_id: str
    status: str


@dataclass(slots=True)
class Wiretap:
    """Client interceptors that write down each finished RPC, and each frame of a session."""

    sent: list[Sent] = field(default_factory=list)

    def interceptors(self, who: str) -> Sequence[Any]:
        return [_Unary(self, who), _Session(self, who)]

    async def note(self, who: str, rpc: str, call: Any) -> None:
        # A refusal has no headers of its own: gRPC puts what Envoy sent into the trailers.
        metadata = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
        self.sent.append(Sent(who, rpc, _request_id(metadata), (await call.code()).name))


def _request_id(metadata: Any) -> str:
    return next((str(value) for key, value in metadata or () if key == "x-request-id"), "")


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, wiretap: Wiretap, who: str) -> None:
        self._wiretap, self._who = wiretap, who

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        await self._wiretap.note(self._who, str(client_call_details.method), call)
        return call


class _Session(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, wiretap: Wiretap, who: str) -> None:
        self._wiretap, self._who = wiretap, who

    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        frames: list[Sent] = []
        asked: dict[bytes, Sent] = {}
        rpc = str(client_call_details.method)

        async def sending() -> AsyncIterator[Any]:
            async for frame in request_iterator:
                sent = Sent(self._who, rpc, str(len(frames) + 1), "OK")
                frames.append(sent)
                asked[frame.request.id_json] = sent
                yield frame

        async def receiving() -> AsyncIterator[Any]:
            session = Sent(self._who, rpc, _request_id(await call.initial_metadata()), "OK")
            try:
                async for response in call:
                    message = json.loads(response.message_json)
                    data = message.get("error", {}).get("data")
                    if isinstance(data, dict) and "grpcStatus" in data:
                        asked[json.dumps(message["id"]).encode()].status = data["grpcStatus"]
                    yield response
            finally:
                for frame in frames:
                    frame.request_id = f"{session.request_id}/{frame.request_id}"
                self._wiretap.sent += [session, *frames]

        call = await continuation(client_call_details, sending())
        return receiving()
