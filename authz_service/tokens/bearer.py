"""The bearer token in an authorization header (RFC 6750, 2.1), and what kind of token it is. Pure."""

import re
from typing import Final

from authz_service.tokens import refusals
from secure_mcp_grpc.authenticators import Refusal

__all__ = ["is_jwt", "read_bearer"]

_CREDENTIALS: Final = re.compile(r" +([A-Za-z0-9._~+/-]+=*)")
_ANY_BEARER: Final = re.compile(r"(?:^|,)\s*bearer(?:\s|,|$)", re.IGNORECASE)
_JWT: Final = re.compile(r"e[w-z0-9_-][A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
"""Three parts of which the first is base64url of something that starts with a brace (RFC 7519, 3)."""


def read_bearer(authorization: str, max_bytes: int) -> str | Refusal | None:
    """The token; None where the credential is of another scheme.

    Several authorization headers arrive joined by commas. Whichever was meant, another reader may take the other:
    refused. No honest bearer token contains a comma.
    """
    if len(authorization) > max_bytes + len("Bearer "):
        return refusals.OVERSIZED if _ANY_BEARER.match(authorization) else None
    if authorization[:6].lower() == "bearer" and (found := _CREDENTIALS.fullmatch(authorization, 6)):
        return found[1]
    if not _ANY_BEARER.search(authorization):
        return None
    return refusals.SEVERAL if "," in authorization else refusals.MALFORMED


def is_jwt(token: str) -> bool:
    """Whether `token` has the form of a signed JWT; whether it is one, and whose, is another question."""
    return _JWT.fullmatch(token) is not None
