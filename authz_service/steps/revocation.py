"""Step: whether what identifies the caller still counts.

A request is judged when it begins; what stays open is judged again every few
seconds (`authz_service.frames`), and ends when its caller is revoked.
"""

from typing import Final

from authz_service.case import Case
from authz_service.revocations.entry import Entry
from authz_service.revocations.revocations import Revocations
from authz_service.shared_state import SHARED_STATE_LOST
from authz_service.verdict import Code, Deny

__all__ = ["RevocationStep"]

_SENTENCES: Final = {
    "token": "the token has been revoked",
    "certificate": "the client certificate has been revoked",
    "user": "the user of the token, or one who acts for it, has been revoked",
    "identity": "the identity of the caller, or of one it acts for, has been revoked",
}


class RevocationStep:
    """Looks the caller up among what is revoked; nothing is waited for."""

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations

    def judge(self, case: Case) -> Deny | None:
        if not self._revocations.usable:
            return SHARED_STATE_LOST
        entry = self._revocations.in_force.revoked(case.identity, case.principal, int(case.now_s * 1e6))
        return None if entry is None else _refusal(entry)


def _refusal(entry: Entry) -> Deny:
    """A credential that no longer counts is one thing, somebody who may no longer do anything another."""
    code = Code.UNAUTHENTICATED if entry.kind in ("token", "certificate") else Code.PERMISSION_DENIED
    return Deny(code, "revoked", _SENTENCES[entry.kind], f"revoked {entry}")
