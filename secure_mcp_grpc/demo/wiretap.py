"""Notes the request id that Envoy gave each gRPC request, so that each can be looked for in the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

__all__ = ["Sent", "Wiretap"]


@dataclass(frozen=True, slots=True)
class Sent:
    who: str
    rpc: str
    request_id: str
    status: str


@dataclass(slots=True)
class Wiretap:
    """A client interceptor that writes down each finished RPC; the demo streams nothing."""

    sent: list[Sent] = field(default_factory=list)

    def interceptors(self, who: str) -> Sequence[Any]:
        return [_Unary(self, who)]

    async def note(self, who: str, rpc: str, call: Any) -> None:
        # A refusal has no headers of its own: gRPC puts what Envoy sent into the trailers.
        metadata = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
        request_id = next((str(value) for key, value in metadata if key == "x-request-id"), "")
        self.sent.append(Sent(who, rpc, request_id, (await call.code()).name))


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, wiretap: Wiretap, who: str) -> None:
        self._wiretap, self._who = wiretap, who

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        await self._wiretap.note(self._who, str(client_call_details.method), call)
        return call
