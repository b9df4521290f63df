"""What the claims of a verified token, or the answer of an introspection, say of its bearer. Pure."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_service.tokens import refusals
from authz_service.tokens.jose import base64url
from authz_service.tokens.settings import Issuer
from secure_mcp_grpc.authenticators import Principal, Refusal
from secure_mcp_grpc.calls import Malformed, check_name

__all__ = ["Bearer", "check_binding", "check_claims", "thumbprint"]

_MAX_NAME_CHARS: Final = 256
_MAX_ROLES: Final = 64
_MAX_ACTORS: Final = 8
_LATEST_S: Final = 1e11
"""About the year 5138. A date beyond it is no date."""
_ROLE: Final = re.compile(r"[A-Za-z0-9._:/@+-][A-Za-z0-9 ._:/@+-]{0,127}")
_THUMBPRINT: Final = "x5t#S256"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token speaks for, and who may show it."""

    principal: Principal
    bound_to: str
    """Base64url SHA-256 of the only certificate it may come with (RFC 8705, 3.1); empty where it is not bound."""


class _WrongError(Exception):
    """A refusal on its way out of the functions of this module."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def check_claims(
    claims: Mapping[str, Any], issuer: Issuer, names: Mapping[str, str], now_s: float, *, introspected: bool = False
) -> Bearer | Refusal:
    """Judge `claims`, whose `iss` is that of `issuer`. `names` maps each issuer's `iss` to its name.

    An introspection's answer may leave `iss` and `exp` out (RFC 7662, 2.2); a JWT may not.
    """
    try:
        return _check(claims, issuer, names, now_s, introspected)
    except _WrongError as error:
        return error.refusal


def check_binding(bound_to: str, fingerprint: str) -> Refusal | None:
    """`fingerprint` is `Presented.fingerprint`: the hex SHA-256 of the certificate of this connection."""
    if not bound_to:
        return None
    if not fingerprint:
        return refusals.CERTIFICATE_MISSING
    return None if thumbprint(fingerprint) == bound_to else refusals.CERTIFICATE_OTHER


def thumbprint(fingerprint: str) -> str:
    """Hex SHA-256 of a certificate → `x5t#S256`."""
    return base64url(bytes.fromhex(fingerprint))


def _check(
    claims: Mapping[str, Any], issuer: Issuer, names: Mapping[str, str], now_s: float, introspected: bool
) -> Bearer:
    if claims.get("iss") != issuer.issuer and not (introspected and "iss" not in claims):
        raise _WrongError(refusals.ISSUER)
    _check_audience(claims.get("aud"), issuer)
    expires_s = _check_times(claims, issuer.leeway_s, now_s, introspected)
    subject = _name(claims, issuer.subject_claim)
    token_id = _name(claims, "jti") if "jti" in claims else ""
    principal = Principal(
        subject=f"user:{issuer.name}:{subject}",
        issuer=issuer.name,
        roles=_roles(claims, issuer.roles_claim),
        actors=_actors(claims.get("act"), issuer, names) if "act" in claims else (),
        token_id=token_id,
        expires_s=expires_s,
    )
    return Bearer(principal, _bound_to(claims, issuer))


def _check_audience(aud: Any, issuer: Issuer) -> None:
    """RFC 7519, 4.1.3: one text or a list of texts."""
    audience = [aud] if isinstance(aud, str) else aud
    if not isinstance(audience, list) or not all(isinstance(one, str) for one in audience):
        raise _WrongError(refusals.AUDIENCE)
    if not set(audience) & set(issuer.audience):
        raise _WrongError(refusals.AUDIENCE)


def _check_times(claims: Mapping[str, Any], leeway_s: float, now_s: float, introspected: bool) -> float:
    """The end of validity, leeway included; infinite where an introspection names none."""
    expires_s, not_before_s, issued_s = (_date(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_s is None and not introspected:
        raise _WrongError(refusals.claims("exp is missing"))
    end_s = float("inf") if expires_s is None else expires_s + leeway_s
    if now_s >= end_s:
        raise _WrongError(refusals.EXPIRED)
    if not_before_s is not None and now_s + leeway_s < not_before_s:
        raise _WrongError(refusals.NOT_YET)
    if issued_s is not None and now_s + leeway_s < issued_s:
        raise _WrongError(refusals.ISSUED_LATER)
    return end_s


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    """RFC 7519, 2: a NumericDate is a JSON number; a number in quotes, true or 1e999 is none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise _WrongError(refusals.claims(f"{name} is not a date in seconds"))
    return float(value)


def _name(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or not value:
        raise _WrongError(refusals.claims(f"{claim} is missing or not text"))
    if len(value) > _MAX_NAME_CHARS:
        raise _WrongError(refusals.claims(f"{claim} is longer than {_MAX_NAME_CHARS} characters"))
    if not _is_plain(value):
        raise _WrongError(refusals.claims(f"{claim} has characters that are not accepted in names"))
    return value


def _is_plain(text: str) -> bool:
    """No control, bidirectional or invisible characters, no blank at an end, and one spelling (NFC) for one name."""
    try:
        check_name(text)
    except Malformed:
        return False
    if text.isascii():
        return text == text.strip()
    invisible = any(unicodedata.category(one) in ("Cf", "Cn", "Co", "Zl", "Zp") for one in text)
    return not invisible and text == text.strip() and unicodedata.is_normalized("NFC", text)


def _roles(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """An odd role refuses the token: a role that is left out might be the one that a deny rule names."""
    if not path:
        return ()
    value = _at(claims, path)
    if value is None:
        return ()
    values = value.split() if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) > _MAX_ROLES:
        raise _WrongError(refusals.claims(f"roles are not a list of at most {_MAX_ROLES}"))
    if not all(isinstance(one, str) and _ROLE.fullmatch(one) and one == one.strip() for one in values):
        raise _WrongError(refusals.claims("roles have characters that are not accepted in names"))
    return tuple(sorted({f"role:{one}" for one in values}))


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that very name (some contain dots), or else the one at the end of the path."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _actors(act: Any, issuer: Issuer, names: Mapping[str, str]) -> tuple[str, ...]:
    """RFC 8693, 4.1: the outermost is the current actor. Its other claims do not bear on validity."""
    actors: list[str] = []
    while act is not None:
        if not isinstance(act, dict) or len(actors) == _MAX_ACTORS:
            raise _WrongError(refusals.claims(f"act is not a chain of at most {_MAX_ACTORS} actors"))
        subject, iss = _name(act, "sub"), act.get("iss", issuer.issuer)
        if not isinstance(iss, str) or len(iss) > _MAX_NAME_CHARS or not _is_plain(iss):
            raise _WrongError(refusals.claims("act has an iss that is not a name"))
        actors.append(f"user:{names[iss]}:{subject}" if iss in names else f"{iss}#{subject}")
        act = act.get("act")
    return tuple(actors)


def _bound_to(claims: Mapping[str, Any], issuer: Issuer) -> str:
    """A confirmation that is not understood would be a condition not checked: refused."""
    if "cnf" not in claims:
        if issuer.require_bound:
            raise _WrongError(refusals.UNBOUND)
        return ""
    confirmation = claims["cnf"]
    if not isinstance(confirmation, dict) or list(confirmation) != [_THUMBPRINT]:
        raise _WrongError(refusals.CONFIRMATION)
    value = confirmation[_THUMBPRINT]
    if not isinstance(value, str) or not value:
        raise _WrongError(refusals.CONFIRMATION)
    return value
