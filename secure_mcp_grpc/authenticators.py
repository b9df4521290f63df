"""What an authenticator is: it turns what a client showed into the user or agent that the client acts for.

authz_service asks its authenticators in the order of its setting
`authenticators`; the first that knows the kind of credential answers for it.
Built in are `jwt` and `introspection`. Others are found as entry points of
the group `secure_mcp_grpc.authenticators`: the name of the entry point is the
name in the setting, and its object is a factory that takes the mapping of
settings under that name (`authenticator_settings`) and returns an
`Authenticator`.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

__all__ = ["GROUP", "Authenticator", "Presented", "Principal", "Refusal", "RefusalReason"]

GROUP: Final = "secure_mcp_grpc.authenticators"
"""Entry point group."""

RefusalReason = Literal[
    "token_malformed",
    "token_algorithm",
    "token_signature",
    "token_issuer",
    "token_audience",
    "token_expired",
    "token_not_yet_valid",
    "token_type",
    "token_claims",
    "token_unbound",
    "token_inactive",
    "token_unverifiable",
]
"""Stable codes. `token_unverifiable`: a dependency did not answer (UNAVAILABLE); all others are UNAUTHENTICATED."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What one request shows of its sender."""

    authorization: str
    """The `authorization` header as it came; several of them arrive joined by commas. Never to be logged."""
    headers: Mapping[str, str]
    """All request headers, names in lower case."""
    fingerprint: str
    """SHA-256 of the verified client certificate (DER), lower-case hex; empty without one."""
    now_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The user or agent that a token speaks for."""

    subject: str
    """Policy's name for it: `user:<name of the issuer>:<sub>`."""
    issuer: str
    """Name of the issuer in the settings."""
    roles: tuple[str, ...] = ()
    """Roles that the token gives, as policy names them (`role:…`), sorted."""
    actors: tuple[str, ...] = ()
    """Who acts for the subject, the current actor first (RFC 8693, 4.1: nested `act`)."""
    token_id: str = ""
    """`jti`; empty without one."""
    expires_s: float = 0.0
    """End of validity, seconds since the epoch; not to be used after that."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The credential does not count. `sentence` goes to the peer: no internals, nothing of the token."""

    reason: RefusalReason
    sentence: str


class Authenticator(Protocol):
    """One kind of credential."""

    def authenticate(self, presented: Presented) -> "Outcome | Awaitable[Outcome]":
        """Whom `presented` speaks for, why it does not count, or None where it is not of this kind.

        Must answer in bounded time; an exception refuses the request.
        """


Outcome = Principal | Refusal | None
