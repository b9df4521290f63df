"""The decision on frames: `PolicyQuery.Judge`, bytes in and bytes out like the check, on the same private socket.

mcp_bridge shows each frame of a pipelined session here before it executes it,
and each stream that stays open every few seconds. Who sends is in the ticket,
what is sent in the frame; everything after that is the check's own chain of
steps, its journal and its metrics.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from authz_service.answer import record_of
from authz_service.case import Case
from authz_service.frames.metrics import FrameMetrics
from authz_service.frames.tickets import Tickets
from authz_service.journal import Journal, JournalUnavailableError
from authz_service.metrics import Metrics
from authz_service.pipeline import Pipeline
from authz_service.policy import Policy
from authz_service.steps.message import digest
from authz_service.verdict import FAULT, JOURNAL_UNAVAILABLE, REASONS, Allow, Code, Deny
from secure_mcp_grpc import calls, headers, logs
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

__all__ = ["JUDGE", "FrameJudge"]

logger = logging.getLogger(__name__)

JUDGE: Final = "/secure_mcp_grpc.v1.PolicyQuery/Judge"

_MAX_FRAMES: Final = 64
_AT_ONCE: Final = 8
_BYTES_AT_ONCE: Final = 32 * 1024
"""Frames judged in one turn of the event loop, unless one alone is larger: checks go on between."""
_PREFIX_BYTES: Final = 5
"""Of gRPC; a check sees them as part of the body."""
_MAX_REQUEST_ID_CHARS: Final = 160
_REASONS: Final = frozenset(REASONS)
_ENDS: Final = frozenset({"ticket_invalid", "ticket_expired", "revoked", "quarantined"})
"""Reasons that speak of the caller, whatever it asks; those with UNAUTHENTICATED do, too."""
_NOTHING: Final = b""
"""A response without a judgement for any frame: nothing may be executed."""
_TOO_DEEP: Final = Deny(Code.INVALID_ARGUMENT, "malformed", "the arguments are nested too deeply")

Verdict = Allow | Deny


@dataclass(slots=True)
class _Asked:
    frame: pb.Frame
    ticket: str
    case: Case
    started: float


class FrameJudge:
    """`pipeline` is the check's, without the steps that find out who asks and what; `policy` gives the one in force."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        tickets: Tickets,
        pipeline: Pipeline,
        journal: Journal,
        metrics: Metrics,
        frame_metrics: FrameMetrics,
        *,
        max_body_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._tickets = tickets
        self._pipeline = pipeline
        self._journal = journal
        self._count = metrics.checks.count
        self._metrics = frame_metrics
        self._max_body_bytes = max_body_bytes
        self._clock = clock

    def judge(self, body: bytes) -> bytes | Awaitable[bytes]:
        """A `JudgeResponse` for a `JudgeRequest`, at once where there is one frame and no step has to wait.

        Never raises: what cannot be judged is answered without judgements. No
        decision is told before it is in the journal.
        """
        try:
            frames: Sequence[pb.Frame] = pb.JudgeRequest.FromString(body).frames
            if len(frames) > _MAX_FRAMES:
                raise ValueError("too many frames")
            if len(frames) == 1:
                return self._single(self._asked(frames[0], frames[0].ticket))
            return self._several(frames)
        except Exception:  # noqa: BLE001 - top of the stack: a bug must deny, never allow
            return self._fail()

    def _single(self, asked: _Asked) -> bytes | Awaitable[bytes]:
        found = self._decide(asked)
        if isinstance(found, Allow | Deny):
            return _written([self._conclude(asked, found)])
        return self._wait_for_one(asked, found)

    async def _wait_for_one(self, asked: _Asked, waiting: Awaitable[Verdict]) -> bytes:
        return _written([await self._wait(asked, waiting)])

    async def _several(self, frames: Sequence[pb.Frame]) -> bytes:
        """Each is begun when those before it are begun; only what steps wait for is waited for together."""
        try:
            answers: list[pb.Judgement | asyncio.Task[pb.Judgement]] = []
            ticket = ""
            async with asyncio.TaskGroup() as group:
                turn, size = 0, 0
                for frame in frames:
                    turn, size = turn + 1, size + len(frame.message)
                    if turn > _AT_ONCE or size > _BYTES_AT_ONCE:
                        turn, size = 1, len(frame.message)
                        await asyncio.sleep(0)
                    ticket = frame.ticket or ticket
                    asked = self._asked(frame, ticket)
                    found = self._decide(asked)
                    if isinstance(found, Allow | Deny):
                        answers.append(self._conclude(asked, found))
                    else:
                        answers.append(group.create_task(self._wait(asked, found)))
            return _written([one.result() if isinstance(one, asyncio.Task) else one for one in answers])
        except Exception:  # noqa: BLE001 - as in `judge`
            return self._fail()

    def _asked(self, frame: pb.Frame, ticket: str) -> _Asked:
        case = Case(None, self._clock(), self._policy(), frame.request_id[:_MAX_REQUEST_ID_CHARS])
        case.recheck = frame.recheck
        return _Asked(frame, ticket, case, time.perf_counter())

    def _decide(self, asked: _Asked) -> Verdict | Awaitable[Verdict]:
        try:
            case, frame = asked.case, asked.frame
            ticket = self._tickets.open(asked.ticket, frame.rpc, case.now_s)
            if isinstance(ticket, Deny):
                return ticket
            case.identity, case.principal = ticket.identity, ticket.principal
            if len(frame.message) + _PREFIX_BYTES > self._max_body_bytes:
                sentence = f"requests are limited to {self._max_body_bytes} bytes"
                return Deny(Code.RESOURCE_EXHAUSTED, "too_large", sentence)
            try:
                case.call = _call(frame)
                case.args_digest = digest(case.call.arguments)
            except Malformed as error:
                return Deny(Code.INVALID_ARGUMENT, "malformed", str(error))
            except RecursionError:
                return _TOO_DEEP
            return self._pipeline.run(case)
        except Exception:  # top of the stack, as in `judge`
            logger.exception("judge_failed")
            return FAULT

    async def _wait(self, asked: _Asked, waiting: Awaitable[Verdict]) -> pb.Judgement:
        verdict: Verdict = FAULT
        try:
            verdict = await waiting
        except Exception:  # top of the stack, as in `judge`
            logger.exception("judge_failed")
        return self._conclude(asked, verdict)

    def _conclude(self, asked: _Asked, verdict: Verdict) -> pb.Judgement:
        try:
            return self._record_and_answer(asked, verdict)
        except Exception:  # one frame that cannot be written must not take others with it
            logger.exception("judge_failed")
            return _judgement(asked.case, FAULT, "")

    def _record_and_answer(self, asked: _Asked, verdict: Verdict) -> pb.Judgement:
        if isinstance(verdict, Deny) and verdict.reason not in _REASONS:  # an extension's own word
            verdict = replace(verdict, reason="refused_by_extension")
        case = asked.case
        kept = case.recheck and isinstance(verdict, Allow)
        seq = 0
        if not kept:
            try:
                seq = self._journal.append(record_of(case, verdict))
            except JournalUnavailableError:
                verdict = JOURNAL_UNAVAILABLE
            self._count(verdict.reason, time.perf_counter() - asked.started)
        (self._metrics.rechecks if case.recheck else self._metrics.frames)[isinstance(verdict, Allow)].inc()
        return _judgement(case, verdict, f"{self._journal.chain}:{seq}" if seq else "")

    def _fail(self) -> bytes:
        logs.event(logger, logging.ERROR, "judge_failed")
        self._metrics.failures.inc()
        return _NOTHING


def _call(frame: pb.Frame) -> McpCall:
    """What is asked. Raises `Malformed`."""
    if frame.rpc == "Session":
        return McpCall(calls.SESSION, "", {}) if frame.recheck else calls.read_client_frame(frame.message)
    if not frame.recheck:
        raise Malformed("this RPC has no frames")
    return calls.read_transport_call(frame.rpc, frame.message)


def _judgement(case: Case, verdict: Verdict, decision: str) -> pb.Judgement:
    if isinstance(verdict, Allow) and case.call is not None:
        return pb.Judgement(
            allowed=True,
            decision=decision,
            target=case.call.target,
            user_roles=headers.encode_list(case.user_roles),
        )
    refusal = verdict if isinstance(verdict, Deny) else FAULT
    return pb.Judgement(
        code=refusal.code,
        reason=refusal.reason,
        sentence=refusal.sentence,
        retry_after_s=math.ceil(refusal.retry_after_s),
        ends=refusal.code is Code.UNAUTHENTICATED or refusal.reason in _ENDS,
        decision=decision,
    )


def _written(judgements: Sequence[pb.Judgement]) -> bytes:
    written: bytes = pb.JudgeResponse(judgements=judgements).SerializeToString()
    return written
