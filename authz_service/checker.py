"""The check: CheckRequest bytes in, CheckResponse bytes out, whatever server stands around it."""

import logging
import time
from collections.abc import Callable

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.message import DecodeError

from authz_service.answer import FAULT_ANSWER, answer, record_of
from authz_service.decide import Decision, decide
from authz_service.identity import IdentityReader
from authz_service.journal import Journal, JournalUnavailableError
from authz_service.metrics import Metrics
from authz_service.policy import Policy
from authz_service.verdict import FAULT, JOURNAL_UNAVAILABLE, Code, Deny

__all__ = ["Checker"]

logger = logging.getLogger(__name__)

_UNREADABLE = Decision(Deny(Code.INVALID_ARGUMENT, "malformed", "the request cannot be read"))
_FAULT = Decision(FAULT)
_UNRECORDED = Decision(JOURNAL_UNAVAILABLE)


class Checker:
    """Decides, records, answers. `policy` is replaced whole by a reload."""

    def __init__(
        self,
        policy: Policy,
        identities: IdentityReader,
        journal: Journal,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._identities = identities
        self._journal = journal
        self._count = metrics.checks.count
        self._max_body_bytes = max_body_bytes
        self._clock = clock

    def check(self, body: bytes) -> bytes:
        """The answer to one check. Never raises, and never answers before the decision is in the journal."""
        started = time.perf_counter()
        now_s = self._clock()
        decision = _FAULT
        try:
            decision = self._decide(body, now_s)
        except Exception:  # top of the stack: a bug must deny, never allow
            logger.exception("check_failed")
        try:
            reason, response = self._record_and_answer(decision, now_s)
        except Exception:
            logger.exception("answer_failed")
            reason, response = FAULT.reason, FAULT_ANSWER
        self._count(reason, time.perf_counter() - started)
        return response

    def _decide(self, body: bytes, now_s: float) -> Decision:
        try:
            request = CheckRequest.FromString(body)
        except DecodeError:
            return _UNREADABLE
        return decide(request, self._identities, self.policy, max_body_bytes=self._max_body_bytes, now_s=now_s)

    def _record_and_answer(self, decision: Decision, now_s: float) -> tuple[str, bytes]:
        try:
            seq = self._journal.append(record_of(decision, now_s))
        except JournalUnavailableError:
            return JOURNAL_UNAVAILABLE.reason, answer(_UNRECORDED, self._journal.chain, 0)
        return decision.verdict.reason, answer(decision, self._journal.chain, seq)
