"""The public keys of an issuer: a JWK Set read with suspicion (RFC 7517), and signatures checked with them. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authz_service.tokens.jose import read_object
from authz_service.tokens.settings import HMAC

__all__ = ["Key", "KeySet", "KeysError", "hmac_keys", "read_jwks", "signed_payload"]

_MAX_KEYS: Final = 100
_MAX_TRIED: Final = 8
"""Keys tried for a token that names none."""
_RSA_BITS: Final = range(2048, 8193)
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_MAX_MEMBER_CHARS: Final = 2048
_MEMBERS: Final = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}
_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")

_jws = jwt.PyJWS(options={"enforce_minimum_key_length": True})


class KeysError(Exception):
    """What should be a JWK Set is none. Its text says what is wrong with it, for a log or a person."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key and the algorithms that it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    material: Any = field(repr=False)
    """As PyJWT takes it: a public key of `cryptography`, or the bytes of an HMAC secret."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of an issuer; `ignored` says of each other one why it is not."""

    keys: tuple[Key, ...] = ()
    ignored: tuple[str, ...] = ()

    def named(self, kid: str) -> tuple[Key, ...]:
        """The key of that name; all of them where none has a name."""
        if all(key.kid is None for key in self.keys):
            return self.keys[:_MAX_TRIED]
        return tuple(key for key in self.keys if key.kid == kid)

    def fitting(self, alg: str) -> tuple[Key, ...]:
        """What to try for a token that names no key."""
        return tuple(key for key in self.keys if alg in key.algorithms)[:_MAX_TRIED]


def read_jwks(text: bytes) -> KeySet:
    """The keys in a JWK Set; raises `KeysError`.

    A key that cannot or must not verify signatures is left out: so does the
    specification (RFC 7517, 5) with what it does not know, and a private or
    shared key in public is nobody's proof of anything.
    """
    try:
        entries = read_object(text).get("keys")
    except ValueError:
        raise KeysError("not a JSON object") from None
    if not isinstance(entries, list):
        raise KeysError("no list of keys")
    if len(entries) > _MAX_KEYS:
        raise KeysError(f"more than {_MAX_KEYS} keys")
    read = [_read_key(entry) for entry in entries]
    kids = Counter(key.kid for key in read if isinstance(key, Key))
    keys, ignored = [], []
    for number, key in enumerate(read, 1):
        if isinstance(key, str):
            ignored.append(f"key {number}: {key}")
        elif key.kid is not None and kids[key.kid] > 1:
            ignored.append(f"key {number}: several keys have its kid")
        else:
            keys.append(key)
    return KeySet(tuple(keys), tuple(ignored))


def hmac_keys(secret: bytes) -> KeySet:
    """A shared secret, for the algorithms whose hash is not longer than it (RFC 7518, 3.2); raises `KeysError`."""
    fitting = frozenset(name for name in HMAC if len(secret) * 8 >= int(name[2:]))
    if not fitting:
        raise KeysError("the secret is shorter than 32 bytes")
    return KeySet((Key(None, fitting, secret),))


def signed_payload(token: str, alg: str, keys: tuple[Key, ...]) -> bytes | None:
    """The payload of `token`, if one of `keys` signed it with `alg`; keys that do not fit `alg` are not tried."""
    for key in keys:
        if alg not in key.algorithms:
            continue
        try:
            payload: bytes = _jws.decode_complete(token, key.material, algorithms=[alg])["payload"]
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
            continue
        return payload
    return None


def _read_key(entry: Any) -> Key | str:
    """A key, or why it is ignored."""
    if not isinstance(entry, dict):
        return "not an object"
    kty, kid = entry.get("kty"), entry.get("kid")
    if "kid" in entry and not isinstance(kid, str):
        return "its kid is not text"
    if problem := _misuse(entry):
        return problem
    if not isinstance(kty, str) or kty not in _MEMBERS:
        return "its type is not known"
    public = {name: entry.get(name) for name in _MEMBERS[kty]}
    if not all(isinstance(value, str) and len(value) <= _MAX_MEMBER_CHARS for value in public.values()):
        return "a member is missing or too long"
    try:
        material, algorithms = _material(kty, public)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, OverflowError):
        return "it is not a valid key"
    if isinstance(material, RSAPublicKey) and (problem := _weakness(material)):
        return problem
    stated = entry.get("alg")
    if stated is not None:
        algorithms &= {stated} if isinstance(stated, str) else set()
    return Key(kid, algorithms, material) if algorithms else "it is for an algorithm that is not accepted"


def _misuse(entry: Mapping[str, Any]) -> str:
    if entry.get("kty") == "oct" or any(name in entry for name in _PRIVATE):
        return "it is a private or shared key"
    if entry.get("use", "sig") != "sig":
        return "it is not for signatures"
    operations = entry.get("key_ops", ["verify"])
    return "" if isinstance(operations, list) and "verify" in operations else "it is not for verifying"


def _material(kty: str, public: dict[str, Any]) -> tuple[Any, frozenset[str]]:
    if kty == "RSA":
        return RSAAlgorithm.from_jwk(public), frozenset(_RSA)
    if kty == "EC":
        return ECAlgorithm.from_jwk(public), frozenset({_CURVES[public["crv"]]} if public["crv"] in _CURVES else ())
    return OKPAlgorithm.from_jwk(public), frozenset({"EdDSA"})


def _weakness(key: RSAPublicKey) -> str:
    """RFC 7518, 3.3: 2048 bits or more. The upper bounds bound the work of a verification."""
    if key.key_size not in _RSA_BITS:
        return f"RSA keys have {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits"
    return "" if 3 <= key.public_numbers().e < 2**32 else "its exponent is out of bounds"
