"""Keys, tokens and authenticators for the tests; tokens are assembled by hand, so that they can be wrong."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from prometheus_client import CollectorRegistry

from authz_service.tokens.cache import TokenCache
from authz_service.tokens.jwt_authenticator import JwtAuthenticator, Trusted
from authz_service.tokens.keyring import KeyRing
from authz_service.tokens.keys import KeySet, read_jwks
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.settings import Issuer
from secure_mcp_grpc.authenticators import Outcome, Presented, Principal, Refusal

ISSUER = "https://login.example"
OTHER = "https://partner.example"
AUDIENCE = "mcp-gateway"
FINGERPRINT = hashlib.sha256(b"a certificate").hexdigest()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
STRANGER = ec.generate_private_key(ec.SECP256R1())

Json = dict[str, Any]


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def jwk(key: Any, kid: str | None = None, **members: Any) -> Json:
    """The public JWK of a private key."""
    public = key.public_key()
    of = {ec.EllipticCurvePrivateKey: ECAlgorithm, rsa.RSAPrivateKey: RSAAlgorithm}
    algorithm = next((found for kind, found in of.items() if isinstance(key, kind)), OKPAlgorithm)
    data = json.loads(algorithm.to_jwk(public))  # type: ignore[attr-defined] # each has it
    data.pop("key_ops", None)
    return data | ({"kid": kid} if kid is not None else {}) | members


def jwks(*keys: Json) -> bytes:
    return json.dumps({"keys": keys}).encode()


KEYS = jwks(jwk(EC_KEY, "ec"), jwk(RSA_KEY, "rsa"), jwk(ED_KEY, "ed"))


def claims(**changed: Any) -> Json:
    """Those of a good token for alice; a claim that is None is left out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 7200, "iat": now, "jti": "t1"}
    return {name: value for name, value in (good | changed).items() if value is not None}


def sign(key: Any, alg: str, content: bytes) -> bytes:
    """A JWS signature (RFC 7518, 3)."""
    if isinstance(key, bytes):
        return hmac.digest(key, content, f"sha{alg[2:]}")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(content)
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[alg[2:]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(key.sign(content, ec.ECDSA(digest)))
        size = (key.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if alg.startswith("PS"):
        return key.sign(content, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)  # type: ignore[no-any-return]
    return key.sign(content, padding.PKCS1v15(), digest)  # type: ignore[no-any-return]


def token(
    payload: Json | bytes | None = None,
    *,
    key: Any = EC_KEY,
    alg: str = "ES256",
    kid: str | None = "ec",
    header: Mapping[str, Any] | None = None,
    raw_header: bytes | None = None,
) -> str:
    """A signed token; `header` adds to the header, `raw_header` replaces it."""
    head = {"alg": alg, "typ": "at+jwt"} | ({"kid": kid} if kid is not None else {}) | dict(header or {})
    body = payload if isinstance(payload, bytes) else json.dumps(claims() if payload is None else payload).encode()
    content = f"{b64(json.dumps(head).encode() if raw_header is None else raw_header)}.{b64(body)}"
    return f"{content}.{b64(sign(key, alg, content.encode()))}"


def show(text: str, *, fingerprint: str = "", now_s: float | None = None, scheme: str = "Bearer ") -> Presented:
    """A request that shows the token `text`."""
    return Presented(f"{scheme}{text}", {}, fingerprint, time.time() if now_s is None else now_s)


def issuer(**changed: Any) -> Issuer:
    good = {"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "jwks_file": "keys.json", "leeway_s": 5}
    return Issuer.model_validate(good | changed)


@dataclass
class Keys:
    """A source of keys that a test holds in its hand."""

    content: bytes = KEYS
    reads: int = 0
    error: Exception | None = None
    gate: Any = field(default=None)
    """An event that a read waits for."""

    async def read(self) -> KeySet:
        self.reads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return read_jwks(self.content)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ring(source: Any, clock: Clock | None = None, **changed: float) -> KeyRing:
    times = {"refresh_s": 300.0, "max_age_s": 3600.0, "unknown_s": 10.0} | changed
    return KeyRing("corp", source, TokenMetrics(CollectorRegistry()), clock=clock or Clock(), **times)


def filled(content: bytes = KEYS) -> KeyRing:
    """Keys in force from the start."""
    made = ring(Keys(content))
    made.put(read_jwks(content))
    return made


def authenticator(
    *issuers: Issuer, keys: KeyRing | None = None, max_token_bytes: int = 8192, wait_s: float = 1.0
) -> JwtAuthenticator:
    """With one ring of keys for all issuers."""
    held = keys or filled()
    accepted = issuers or (issuer(),)
    names = {one.issuer: one.name for one in accepted}
    metrics = TokenMetrics(CollectorRegistry())
    return JwtAuthenticator(
        [Trusted.of(one, held) for one in accepted],
        names,
        TokenCache(100, metrics),
        max_token_bytes=max_token_bytes,
        wait_s=wait_s,
    )


def now(outcome: Outcome | Awaitable[Outcome]) -> Outcome:
    """An answer that was given at once."""
    assert outcome is None or isinstance(outcome, Principal | Refusal), "the answer had to be waited for"
    return outcome


async def later(outcome: Outcome | Awaitable[Outcome]) -> Outcome:
    """An answer, given at once or not."""
    if outcome is None or isinstance(outcome, Principal | Refusal):
        return outcome
    return await outcome


def reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Refusal) else f"not refused: {outcome}"
