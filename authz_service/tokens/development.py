"""Tokens for development: an issuer that is a key in a directory. Pure; `secure-mcp-grpc token` stands in front.

Whoever can read the key can be anybody, so no service that matters may trust this issuer.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz_service.tokens.claims import thumbprint
from authz_service.tokens.jose import base64url

__all__ = ["AUDIENCE", "ISSUER", "NAME", "duration_s", "issue", "issuer_yaml", "jwks", "new_key", "read_key"]

NAME: Final = "dev"
ISSUER: Final = "urn:secure-mcp-grpc:development"
AUDIENCE: Final = "secure-mcp-grpc"
LONGEST_S: Final = 24 * 3600

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")


def duration_s(text: str) -> int:
    """Seconds in `90s`, `10m`, `2h` or `1d`; raises `ValueError` for anything else, and beyond a day."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError("expected a number and s, m, h or d, such as 10m")
    seconds = int(found[1]) * _UNITS_S[found[2]]
    if seconds > LONGEST_S:
        raise ValueError("a development token is valid for a day at most")
    return seconds


def new_key() -> bytes:
    """A private ES256 key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises `ValueError` for anything but a private ES256 key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError("the key is encrypted") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError("not a P-256 key")
    return key


def jwks(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The JWK Set to publish for `key`."""
    return json.dumps({"keys": [_public(key) | {"kid": _kid(key), "use": "sig", "alg": "ES256"}]}, indent=2).encode()


def issue(
    key: ec.EllipticCurvePrivateKey,
    subject: str,
    now_s: float,
    valid_s: int,
    *,
    audience: str = AUDIENCE,
    roles: Sequence[str] = (),
    actors: Sequence[str] = (),
    fingerprint: str = "",
) -> str:
    """An access token (RFC 9068) for `subject`, for whom `actors` act, the current one first.

    It is bound to the certificate of the hex SHA-256 `fingerprint`, if there is one.
    """
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": subject,
        "aud": audience,
        "iat": int(now_s),
        "exp": int(now_s) + valid_s,
        "jti": secrets.token_urlsafe(12),
    }
    if roles:
        claims["roles"] = list(roles)
    if actors:
        claims["act"] = _act(actors)
    if fingerprint:
        claims["cnf"] = {"x5t#S256": thumbprint(fingerprint)}
    return jwt.encode(claims, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": _kid(key)})


def issuer_yaml(jwks_file: str) -> str:
    """What makes authz_service trust this issuer."""
    return (
        "# DEVELOPMENT ONLY: whoever can read the key beside this file can be anybody.\n"
        "common:\n"
        "  auth_type: mtls+jwt\n"
        "authz:\n"
        "  issuers:\n"
        f"    - name: {NAME}\n"
        f"      issuer: {ISSUER}\n"
        f"      audience: {AUDIENCE}\n"
        f"      jwks_file: {json.dumps(jwks_file)}\n"
        "      roles_claim: roles\n"
    )


def _act(actors: Sequence[str]) -> Mapping[str, Any]:
    act: dict[str, Any] = {}
    for actor in reversed(actors):
        act = {"sub": actor} | ({"act": act} if act else {})
    return act


def _public(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    return dict(ECAlgorithm.to_jwk(key.public_key(), as_dict=True))


def _kid(key: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638: the thumbprint of the key."""
    members = {name: _public(key)[name] for name in ("crv", "kty", "x", "y")}
    return base64url(hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest())
