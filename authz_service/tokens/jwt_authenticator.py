"""The authenticator `jwt`: bearer tokens that carry their own proof, of several issuers."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from authz_service.tokens import refusals
from authz_service.tokens.bearer import is_jwt, read_bearer
from authz_service.tokens.cache import TokenCache
from authz_service.tokens.claims import Bearer, check_binding, check_claims
from authz_service.tokens.jose import Unverified, read_token, short_type
from authz_service.tokens.keyring import KeyRing
from authz_service.tokens.keys import Key, signed_payload
from authz_service.tokens.settings import Issuer
from secure_mcp_grpc.authenticators import Outcome, Presented, Principal, Refusal

__all__ = ["JwtAuthenticator", "Trusted"]


@dataclass(frozen=True, slots=True)
class Trusted:
    """An issuer and its keys."""

    issuer: Issuer
    ring: KeyRing
    types: frozenset[str]
    """Accepted `typ`, as `jose.Unverified` has it."""

    @classmethod
    def of(cls, issuer: Issuer, ring: KeyRing) -> Self:
        return cls(issuer, ring, frozenset(short_type(typ) for typ in issuer.types))


class JwtAuthenticator:
    """See `secure_mcp_grpc.authenticators.Authenticator`. Answers at once where the keys are known, and within
    `wait_s` seconds where they have to be fetched.

    `names` maps `iss` to the name of every issuer, those without keys included: their tokens are left to others.
    """

    def __init__(
        self,
        trusted: Sequence[Trusted],
        names: Mapping[str, str],
        cache: TokenCache,
        *,
        max_token_bytes: int,
        wait_s: float,
    ) -> None:
        self._trusted = {one.issuer.issuer: one for one in trusted}
        self._rings = {one.issuer.name: one.ring for one in trusted}
        self._names = names
        self._cache = cache
        self._max_token_bytes = max_token_bytes
        self._wait_s = wait_s

    def authenticate(self, presented: Presented) -> Outcome | Awaitable[Outcome]:
        known = self._cache.get(presented.authorization, presented.now_s)
        if known is not None:
            name, version, bearer = known
            ring = self._rings[name]
            if ring.version == version and ring.usable:
                return _admit(bearer, presented)
        token = read_bearer(presented.authorization, self._max_token_bytes)
        if not isinstance(token, str):
            return token
        if not is_jwt(token):
            return None
        unverified = read_token(token)
        if isinstance(unverified, Refusal):
            return unverified
        return self._verify(token, unverified, presented)

    def _verify(self, token: str, unverified: Unverified, presented: Presented) -> Outcome | Awaitable[Outcome]:
        iss = unverified.claims.get("iss")
        if not isinstance(iss, str):
            return refusals.ISSUER
        trusted = self._trusted.get(iss)
        if trusted is None:
            return None if iss in self._names else refusals.ISSUER
        if unverified.alg not in trusted.issuer.algorithms:
            return refusals.ALGORITHM
        if unverified.typ not in trusted.types:
            return refusals.TYPE
        ring = trusted.ring
        keys = ring.find(unverified.kid, unverified.alg)
        if not keys and ring.may_fetch(unverified.kid):
            return self._verify_later(token, unverified, presented, trusted)
        return self._conclude(token, unverified, presented, trusted, keys)

    async def _verify_later(
        self, token: str, unverified: Unverified, presented: Presented, trusted: Trusted
    ) -> Outcome:
        try:
            async with asyncio.timeout(self._wait_s):
                await trusted.ring.fetch(unverified.kid)
        except TimeoutError:
            return refusals.UNVERIFIABLE
        keys = trusted.ring.find(unverified.kid, unverified.alg)
        return self._conclude(token, unverified, presented, trusted, keys)

    def _conclude(
        self, token: str, unverified: Unverified, presented: Presented, trusted: Trusted, keys: tuple[Key, ...]
    ) -> Principal | Refusal:
        if not keys:
            return refusals.UNKNOWN_KEY if trusted.ring.complete else refusals.UNVERIFIABLE
        if not any(unverified.alg in key.algorithms for key in keys):
            return refusals.ALGORITHM_KEY
        if signed_payload(token, unverified.alg, keys) != unverified.payload:
            return refusals.SIGNATURE
        bearer = check_claims(unverified.claims, trusted.issuer, self._names, presented.now_s)
        if isinstance(bearer, Refusal):
            return bearer
        self._cache.put(presented.authorization, trusted.issuer.name, trusted.ring.version, bearer, presented.now_s)
        return _admit(bearer, presented)


def _admit(bearer: Bearer, presented: Presented) -> Principal | Refusal:
    """The certificate is looked at each time: a token is remembered, the connection it came over is not."""
    return check_binding(bearer.bound_to, presented.fingerprint) or bearer.principal
