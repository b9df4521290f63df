"""A JWT taken apart before anything in it is believed (RFC 7515, RFC 7519, RFC 8725). Pure.

Stricter than the specifications where a second reader might read something
else: each part must be base64url in its one canonical form, and no JSON
object may have a key twice.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

from authz_service.tokens import refusals
from authz_service.tokens.settings import ASYMMETRIC, HMAC
from secure_mcp_grpc.authenticators import Refusal
from secure_mcp_grpc.calls import STRICT_JSON

__all__ = ["Unverified", "base64url", "read_object", "read_token", "short_type"]

FORBIDDEN: Final = ("jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc")
"""Header parameters that name or bring a key, or change what a signature or payload means (RFC 8725, 3.1 and 3.10)."""

_ALGORITHMS: Final = frozenset((*ASYMMETRIC, *HMAC))
_MAX_KID_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself. Nothing in it is true until its signature is verified."""

    alg: str
    kid: str | None
    typ: str
    """As `short_type` writes it; empty where absent."""
    payload: bytes
    claims: dict[str, Any]


def read_token(token: str) -> Unverified | Refusal:
    """The parts of `token`, which is of the form that `bearer.is_jwt` demands."""
    first, second, _ = token.split(".")
    header, payload = _part(first), _part(second)
    if header is None or payload is None:
        return refusals.MALFORMED
    try:
        head = read_object(header)
    except ValueError:
        return refusals.MALFORMED
    refusal = _check_header(head)
    if refusal is not None:
        return refusal
    try:
        claims = read_object(payload)
    except ValueError:
        return refusals.MALFORMED
    return Unverified(head["alg"], head.get("kid"), short_type(head.get("typ", "")), payload, claims)


def short_type(typ: str) -> str:
    """RFC 7515, 4.1.9: a media type, compared without regard to case, whose prefix `application/` may be left out."""
    return typ.lower().removeprefix("application/")


def read_object(text: bytes) -> dict[str, Any]:
    """A JSON object (UTF-8) in which no key appears twice, at any depth; raises `ValueError`."""
    try:
        value = STRICT_JSON.decode(text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 # the caller's text is wrong, not a type in the code
    return value


def _check_header(head: dict[str, Any]) -> Refusal | None:
    for name in FORBIDDEN:
        if name in head:
            return refusals.header(name)
    alg, kid, typ = head.get("alg"), head.get("kid"), head.get("typ", "")
    if not isinstance(alg, str) or alg not in _ALGORITHMS:
        return refusals.ALGORITHM
    if "kid" in head and (not isinstance(kid, str) or len(kid) > _MAX_KID_CHARS):
        return refusals.MALFORMED
    return None if isinstance(typ, str) else refusals.MALFORMED


def base64url(content: bytes) -> str:
    """RFC 7515, 2: base64url without padding."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _part(text: str) -> bytes | None:
    """Base64url without padding; None for what no encoder writes (spare bits that are not zero, a lone character)."""
    try:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return content if base64url(content) == text else None
