"""Step: how much. Counts the call against every quota that it falls under, or refuses it with a hint when to return."""

from collections.abc import Awaitable, Callable, Sequence

from authz_service.case import Case
from authz_service.quotas.quota import Exceeded, Quota, Take, seconds
from authz_service.quotas.takes import Counted
from authz_service.shared_state import SHARED_STATE_LOST, SharedStateLost
from authz_service.verdict import FAULT, Code, Deny

__all__ = ["QuotaStep", "Takes"]

_MAX_SHOWN_CHARS = 200

Takes = Callable[[Sequence[Take]], Exceeded | Awaitable[Exceeded | None] | None]


class QuotaStep:
    """Asks `take` (LocalQuotas or SharedQuotas); an attempt that a later step refuses has counted."""

    def __init__(self, quotas: Sequence[Quota], take: Takes) -> None:
        self._counted = Counted(quotas) if quotas else None
        self._take = take

    def judge(self, case: Case) -> Deny | Awaitable[Deny | None] | None:
        if self._counted is None or case.recheck:
            return None
        if case.call is None:
            return FAULT
        wanted = self._counted.takes(case)
        if not wanted:
            return None
        try:
            outcome = self._take(wanted)
        except SharedStateLost:
            return SHARED_STATE_LOST
        if outcome is None:
            return None
        return _refusal(case, outcome) if isinstance(outcome, Exceeded) else _wait(case, outcome)


async def _wait(case: Case, waiting: Awaitable[Exceeded | None]) -> Deny | None:
    try:
        outcome = await waiting
    except SharedStateLost:
        return SHARED_STATE_LOST
    return None if outcome is None else _refusal(case, outcome)


def _refusal(case: Case, exceeded: Exceeded) -> Deny:
    quota, retry_s = exceeded.take.quota, seconds(exceeded.wait_us)
    who = "this token" if quota.by == "token" else exceeded.take.owner
    what = f" for {_shown(case)}" if quota.by == "identity_tool" else ""
    calls = ("call" if quota.methods == ("tools/call",) else "request") + "s" * (quota.limit > 1)
    sentence = (
        f"{who} has used up its quota of {quota.limit} {calls} per {quota.window_us / 1e6:g} s{what}; "
        f"try again in {retry_s} s"
    )
    return Deny(Code.RESOURCE_EXHAUSTED, "quota_exceeded", sentence, f"quota {quota.name}", retry_s)


def _shown(case: Case) -> str:
    name = case.call.name or case.call.method if case.call is not None else ""
    return name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
