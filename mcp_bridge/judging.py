"""What the bridge asks authz_service before it executes what Envoy did not show it: `PolicyQuery.Judge`."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.private_rpc import PrivateRpc
from secure_mcp_grpc import headers, logs
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

__all__ = ["MAX_BYTES", "MAX_FRAMES", "Judge", "Metadata", "decided", "opening", "refusal_of", "ticket_of"]

logger = logging.getLogger(__name__)

MAX_FRAMES: Final = 64
"""Of one question."""
MAX_BYTES: Final = 1024 * 1024
"""Of one question, unless a single frame is larger: decisions of others wait behind it."""

_JUDGE: Final = "/secure_mcp_grpc.v1.PolicyQuery/Judge"
_NO_ANSWER: Final = "authz_service did not say whether this is allowed; try again"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_PER_FRAME: Final = frozenset(
    {headers.TARGET, headers.DECISION, headers.REQUEST_ID, headers.USER_ROLES, headers.TICKET}
)

Metadata = Sequence[tuple[str, str | bytes]]


class Judge:
    """`channel` leads to authz_service, and `address` is where it is. Without an answer in `timeout_s` seconds: no."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float, address: str = "") -> None:
        self._quick = PrivateRpc(address.removeprefix("unix:"), _JUDGE) if address.startswith("unix:") else None
        self._query = channel.unary_unary(_JUDGE, request_serializer=None, response_deserializer=None)
        self._timeout_s = timeout_s

    async def ask(self, frames: Sequence[pb.Frame]) -> Sequence[pb.Judgement]:
        """One judgement for each of `frames`. Raises `HopError` where there is none: then nothing may be executed."""
        request = pb.JudgeRequest(frames=frames).SerializeToString()
        try:
            answer = await self._answer(request)
            judgements: Sequence[pb.Judgement] = pb.JudgeResponse.FromString(answer).judgements
        except grpc.aio.AioRpcError as error:
            logs.event(logger, logging.WARNING, "frames_not_judged", status=error.code().name)
            raise unavailable(_NO_ANSWER) from None
        except (ConnectionError, TimeoutError) as error:
            logs.event(logger, logging.WARNING, "frames_not_judged", status=type(error).__name__)
            raise unavailable(_NO_ANSWER) from None
        except DecodeError:
            judgements = ()
        if len(judgements) != len(frames):
            logs.event(logger, logging.WARNING, "frames_not_judged", status="UNREADABLE")
            raise HopError(grpc.StatusCode.INTERNAL, "this could not be judged, so it was refused")
        return judgements

    def close(self) -> None:
        if self._quick is not None:
            self._quick.close()

    async def _answer(self, request: bytes) -> bytes:
        if self._quick is not None:
            async with asyncio.timeout(self._timeout_s):
                if (answer := await self._quick.call(request)) is not None:
                    return answer
        slow: bytes = await self._query(request, timeout=self._timeout_s, wait_for_ready=True)
        return slow


def ticket_of(metadata: Metadata) -> str:
    """What authz_service gave with the opening of a stream; empty without one, or with several."""
    found = [value for key, value in metadata if key == headers.TICKET]
    return str(found[0]) if len(found) == 1 else ""


def opening(metadata: Metadata) -> list[tuple[str, str | bytes]]:
    """What of the opening's headers holds for every frame: who sends, not what was authorized."""
    return [(key, value) for key, value in metadata if key not in _PER_FRAME]


def decided(base: Metadata, judgement: pb.Judgement, request_id: str) -> list[tuple[str, str | bytes]]:
    """The headers that a frame would have brought had it come as a request of its own; no target if it is refused."""
    told = [(headers.REQUEST_ID, request_id), (headers.DECISION, judgement.decision)]
    if judgement.allowed:
        told += [(headers.TARGET, judgement.target), (headers.USER_ROLES, judgement.user_roles)]
    return [*base, *told]


def refusal_of(judgement: pb.Judgement) -> HopError:
    code = _CODES.get(judgement.code, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.OK:
        code = grpc.StatusCode.INTERNAL
    return HopError(code, judgement.sentence or "this was refused", reason=judgement.reason)
