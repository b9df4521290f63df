"""Step: whether the caller is quarantined: kept out for a while, for what it did rather than for what it showed."""

import math

from authz_service.case import Case
from authz_service.revocations.revocations import Revocations
from authz_service.verdict import Code, Deny

__all__ = ["QuarantineStep"]


class QuarantineStep:
    """Looks the caller up among the quarantined; open streams end soon after, as for `steps.revocation`."""

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations

    def judge(self, case: Case) -> Deny | None:
        now_us = int(case.now_s * 1e6)
        entry = self._revocations.in_force.quarantined(case.identity, case.principal, now_us)
        if entry is None:
            return None
        sentence = f"the {entry.kind} is quarantined"
        if entry.until_us:
            sentence += f" for another {_duration(math.ceil((entry.until_us - now_us) / 1e6))}"
        return Deny(Code.PERMISSION_DENIED, "quarantined", sentence, f"quarantined {entry}")


def _duration(whole_s: int) -> str:
    """Rounded up to minutes: a sentence that changed every second would fill the memory of answers."""
    minutes = -(-whole_s // 60)
    return "minute" if minutes == 1 else f"{minutes} minutes"
