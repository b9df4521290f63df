"""The check: CheckRequest bytes in, CheckResponse bytes out, whatever server stands around it."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.message import DecodeError

from authz_service.answer import FAULT_ANSWER, answer, record_of, ticket_header
from authz_service.case import Case
from authz_service.frames.tickets import RPCS, Tickets
from authz_service.http_request import is_plain, reply_to, stays_open
from authz_service.journal import Journal, JournalUnavailableError
from authz_service.metrics import Metrics
from authz_service.pipeline import Pipeline
from authz_service.policy import Policy
from authz_service.verdict import FAULT, JOURNAL_UNAVAILABLE, REASONS, Allow, Code, Deny
from secure_mcp_grpc import headers

__all__ = ["Checker"]

logger = logging.getLogger(__name__)

_MAX_REQUEST_ID_CHARS: Final = 128
_REASONS: Final = frozenset(REASONS)
_UNREADABLE: Final = Deny(Code.INVALID_ARGUMENT, "malformed", "the request cannot be read")
_UNWIELDY: Final = Deny(
    Code.RESOURCE_EXHAUSTED, "too_large", "the token has too many roles and actors for a stream that stays open"
)

Verdict = Allow | Deny


class Checker:
    """Judges, records, answers. `policy` is replaced whole by a reload."""

    def __init__(
        self,
        policy: Policy,
        pipeline: Pipeline,
        journal: Journal,
        metrics: Metrics,
        *,
        tickets: Tickets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tickets` gives one to what stays open; without it, nothing that needs one works."""
        self.policy = policy
        self._pipeline = pipeline
        self._journal = journal
        self._count = metrics.checks.count
        self._tickets = tickets
        self._clock = clock

    def check(self, body: bytes) -> bytes | Awaitable[bytes]:
        """The answer to one check, at once unless a step has to wait for something.

        Never raises, and never answers before the decision is in the journal.
        """
        started = time.perf_counter()
        case = Case(None, self._clock(), self.policy)
        verdict: Verdict | Awaitable[Verdict] = FAULT
        try:
            verdict = self._judge(case, body)
        except Exception:  # top of the stack: a bug must deny, never allow
            logger.exception("check_failed")
        if isinstance(verdict, Allow | Deny):
            return self._conclude(case, verdict, started)
        return self._wait(case, verdict, started)

    def _judge(self, case: Case, body: bytes) -> Verdict | Awaitable[Verdict]:
        try:
            case.attributes = CheckRequest.FromString(body).attributes
        except DecodeError:
            return _UNREADABLE
        case.request_id = case.headers.get(headers.REQUEST_ID, "")[:_MAX_REQUEST_ID_CHARS]
        return self._pipeline.run(case)

    async def _wait(self, case: Case, waiting: Awaitable[Verdict], started: float) -> bytes:
        verdict: Verdict = FAULT
        try:
            verdict = await waiting
        except Exception:  # top of the stack, as in `check`
            logger.exception("check_failed")
        return self._conclude(case, verdict, started)

    def _conclude(self, case: Case, verdict: Verdict, started: float) -> bytes:
        try:
            if isinstance(verdict, Deny) and verdict.reason not in _REASONS:  # an extension's own word
                verdict = replace(verdict, reason="refused_by_extension")
            reason, response = self._record_and_answer(case, verdict)
        except Exception:
            logger.exception("answer_failed")
            reason, response = FAULT.reason, FAULT_ANSWER
        self._count(reason, time.perf_counter() - started)
        return response

    def _record_and_answer(self, case: Case, verdict: Verdict) -> tuple[str, bytes]:
        ticket: str | None = ""
        if self._tickets is not None and isinstance(verdict, Allow) and (rpc := _stays_open(case)):
            ticket = self._tickets.seal(case, rpc)
            if ticket is None and not (rpc == "Stream" and is_plain(case)):  # most requests end soon
                verdict = _UNWIELDY
        try:
            seq = self._journal.append(record_of(case, verdict))
        except JournalUnavailableError:
            refusal = answer(None, JOURNAL_UNAVAILABLE, self._journal.chain, 0, reply_to(case))
            return JOURNAL_UNAVAILABLE.reason, refusal
        asked = reply_to(case) if isinstance(verdict, Deny) else None
        head = answer(case, verdict, self._journal.chain, seq, asked)
        return verdict.reason, head + ticket_header(ticket) if ticket else head


def _stays_open(case: Case) -> str:
    """The RPC, if it is one that gets a ticket."""
    if case.attributes is None:
        return ""
    return RPCS.get(case.attributes.request.http.path) or stays_open(case)
