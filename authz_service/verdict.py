"""The outcome of a decision, as values. Nothing starts out allowed, and a refusal is not an exception."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from secure_mcp_grpc.authenticators import RefusalReason

__all__ = ["FAULT", "HTTP_STATUS", "JOURNAL_UNAVAILABLE", "REASONS", "TIMEOUT", "Allow", "Code", "Deny", "Reason"]

Reason = Literal[
    "permitted",
    "not_permitted",
    "denied_by_rule",
    "no_certificate",
    "bad_certificate",
    "certificate_expired",
    "untrusted_domain",
    "principal_mismatch",
    "no_token",
    "token_not_accepted",
    RefusalReason,
    "revoked",
    "quarantined",
    "quota_exceeded",
    "shared_state_unavailable",
    "refused_by_extension",
    "ticket_invalid",
    "ticket_expired",
    "timeout",
    "malformed",
    "too_large",
    "unknown_path",
    "origin_not_allowed",
    "journal_unavailable",
    "internal_fault",
]
"""Stable codes, in records, metadata and metrics."""

REASONS: Final[tuple[str, ...]] = Reason.__args__  # type: ignore[attr-defined] # typing hides the arguments of an alias


class Code(IntEnum):
    """gRPC status codes that a refusal can have (grpc/doc/statuscodes.md)."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


HTTP_STATUS: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}


@dataclass(frozen=True, slots=True)
class Allow:
    """Permitted by `rule`, as written in the policy."""

    rule: str
    reason: Reason = "permitted"


@dataclass(frozen=True, slots=True)
class Deny:
    """Refused. `sentence` goes to the peer and reveals no rule; `rule` goes to the journal only."""

    code: Code
    reason: Reason
    sentence: str
    rule: str = ""
    retry_after_s: float = 0.0
    """When it may be worth trying again; 0 where that is unknown."""
    json_rpc_code: int = 0
    """The code that MCP has for it, for clients over plain HTTP; 0 where it has none."""


FAULT: Final = Deny(Code.INTERNAL, "internal_fault", "the request could not be judged and was refused")
TIMEOUT: Final = Deny(Code.UNAVAILABLE, "timeout", "the request could not be judged in time and was refused; try again")
JOURNAL_UNAVAILABLE: Final = Deny(
    Code.UNAVAILABLE, "journal_unavailable", "decisions cannot be recorded at present, so every request is refused"
)
