"""Why a token does not count, in words for its bearer. Nothing here repeats what the token says."""

from typing import Final

from secure_mcp_grpc.authenticators import Refusal

__all__ = [
    "ALGORITHM",
    "ALGORITHM_KEY",
    "AUDIENCE",
    "CERTIFICATE_MISSING",
    "CERTIFICATE_OTHER",
    "CONFIRMATION",
    "EXPIRED",
    "INACTIVE",
    "ISSUED_LATER",
    "ISSUER",
    "MALFORMED",
    "NOT_YET",
    "OVERSIZED",
    "SEVERAL",
    "SIGNATURE",
    "TYPE",
    "UNBOUND",
    "UNKNOWN_KEY",
    "UNVERIFIABLE",
    "claims",
    "header",
]

SEVERAL: Final = Refusal("token_malformed", "exactly one bearer token is accepted in one authorization header")
MALFORMED: Final = Refusal("token_malformed", "the bearer token is malformed")
OVERSIZED: Final = Refusal("token_malformed", "the bearer token is too large")
ALGORITHM: Final = Refusal("token_algorithm", "the token's signature algorithm is not accepted")
ALGORITHM_KEY: Final = Refusal("token_algorithm", "the token's signature algorithm does not fit its key")
SIGNATURE: Final = Refusal("token_signature", "the token's signature does not verify")
UNKNOWN_KEY: Final = Refusal("token_signature", "the token is signed with a key that its issuer does not publish")
ISSUER: Final = Refusal("token_issuer", "the token's issuer is not accepted here")
AUDIENCE: Final = Refusal("token_audience", "the token is meant for another audience")
EXPIRED: Final = Refusal("token_expired", "the token has expired")
NOT_YET: Final = Refusal("token_not_yet_valid", "the token is not valid yet")
ISSUED_LATER: Final = Refusal("token_not_yet_valid", "the token was issued in the future")
TYPE: Final = Refusal("token_type", "tokens of this type are not accepted here")
UNBOUND: Final = Refusal("token_unbound", "the token must be bound to a client certificate")
CONFIRMATION: Final = Refusal("token_unbound", "the token is bound in a way that is not supported")
CERTIFICATE_MISSING: Final = Refusal("token_unbound", "the token is bound to a client certificate and none was shown")
CERTIFICATE_OTHER: Final = Refusal("token_unbound", "the token is bound to another client certificate")
INACTIVE: Final = Refusal("token_inactive", "the token is not active")
UNVERIFIABLE: Final = Refusal("token_unverifiable", "the token cannot be verified at present; try again")


def claims(what: str) -> Refusal:
    """`what` is wrong with a claim; it starts with the claim's name."""
    return Refusal("token_claims", f"the token's {what}")


def header(name: str) -> Refusal:
    """A header parameter that is refused wherever it stands; `name` is one of ours, never the token's text."""
    return Refusal("token_malformed", f"a token with the header parameter {name} is not accepted")
