"""The authenticator `introspection`: tokens about which their issuer has to be asked (RFC 7662)."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final
from urllib.parse import quote_plus

from authz_service.tokens import refusals
from authz_service.tokens.bearer import read_bearer
from authz_service.tokens.claims import Bearer, check_binding, check_claims
from authz_service.tokens.fetch import Fetcher, FetchError
from authz_service.tokens.jose import read_object
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.settings import Issuer
from secure_mcp_grpc import logs
from secure_mcp_grpc.authenticators import Outcome, Presented, Principal, Refusal

__all__ = ["IntrospectionAuthenticator"]

logger = logging.getLogger(__name__)

_MAX_ASKING: Final = 32
"""Tokens asked about at the same time; with more, a request is refused at once."""
_INACTIVE_S: Final = 2.0
"""How long the answer that a token is not active is believed."""


class IntrospectionAuthenticator:
    """See `secure_mcp_grpc.authenticators.Authenticator`. One question for all who show the same token meanwhile.

    `read_secret` is called for each question, since secrets are rotated; it raises `FetchError` where there is none.
    """

    def __init__(
        self,
        issuer: Issuer,
        names: Mapping[str, str],
        fetcher: Fetcher,
        read_secret: Callable[[], str],
        metrics: TokenMetrics,
        *,
        max_token_bytes: int,
        cache_size: int,
        wait_s: float,
    ) -> None:
        self._wait_s = wait_s
        self._issuer = issuer
        self._names = names
        self._fetcher = fetcher
        self._read_secret = read_secret
        self._metrics = metrics
        self._max_token_bytes = max_token_bytes
        self._cache_size = cache_size
        self._answers: OrderedDict[bytes, tuple[float, Bearer | Refusal]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Bearer | Refusal]] = {}

    def authenticate(self, presented: Presented) -> Outcome | Awaitable[Outcome]:
        token = read_bearer(presented.authorization, self._max_token_bytes)
        if not isinstance(token, str):
            return token
        digest = sha256(token.encode()).digest()
        known = self._answers.get(digest)
        if known is not None and presented.now_s < known[0]:
            self._answers.move_to_end(digest)
            return _admit(known[1], presented)
        if digest not in self._asking and len(self._asking) >= _MAX_ASKING:
            self._metrics.introspected(self._issuer.name, "overloaded")
            return refusals.UNVERIFIABLE
        return self._wait(token, digest, presented)

    async def close(self) -> None:
        """End the questions under way."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _wait(self, token: str, digest: bytes, presented: Presented) -> Outcome:
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._ask(token, digest, presented.now_s), name="introspection")
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            async with asyncio.timeout(self._wait_s):
                outcome = await asyncio.shield(task)
        except TimeoutError:
            return refusals.UNVERIFIABLE
        return _admit(outcome, presented)

    async def _ask(self, token: str, digest: bytes, now_s: float) -> Bearer | Refusal:
        try:
            secret = await asyncio.to_thread(self._read_secret)
            # RFC 6749, 2.3.1: both are form-encoded before Basic encodes them.
            auth = (quote_plus(self._issuer.client_id), quote_plus(secret))
            form = {"token": token, "token_type_hint": "access_token"}
            answer = read_object(await self._fetcher.post(self._issuer.introspection_url, form, auth))
        except (FetchError, ValueError) as error:
            problem = str(error) if isinstance(error, FetchError) else "the answer is not a JSON object"
            self._metrics.introspected(self._issuer.name, "failed")
            logs.event(logger, logging.WARNING, "introspection_failed", issuer=self._issuer.name, problem=problem)
            return refusals.UNVERIFIABLE
        if answer.get("active") is not True:
            self._metrics.introspected(self._issuer.name, "inactive")
            return self._remember(digest, refusals.INACTIVE, now_s + _INACTIVE_S)
        self._metrics.introspected(self._issuer.name, "active")
        bearer = check_claims(answer, self._issuer, self._names, now_s, introspected=True)
        if isinstance(bearer, Refusal):
            return self._remember(digest, bearer, now_s + _INACTIVE_S)
        until_s = now_s + self._issuer.introspection_cache_s
        # Without an end, it is valid for those who wait for this very answer, and for as long as that is believed.
        expires_s = min(bearer.principal.expires_s, max(until_s, now_s + 1) if _is_endless(bearer) else float("inf"))
        bearer = replace(bearer, principal=replace(bearer.principal, expires_s=expires_s))
        return self._remember(digest, bearer, min(until_s, expires_s))

    def _remember(self, digest: bytes, outcome: Bearer | Refusal, until_s: float) -> Bearer | Refusal:
        self._answers[digest] = (until_s, outcome)
        self._answers.move_to_end(digest)
        while len(self._answers) > self._cache_size:
            self._answers.popitem(last=False)
        return outcome


def _is_endless(bearer: Bearer) -> bool:
    return bearer.principal.expires_s == float("inf")


def _admit(outcome: Bearer | Refusal, presented: Presented) -> Principal | Refusal:
    if isinstance(outcome, Refusal):
        return outcome
    if presented.now_s >= outcome.principal.expires_s:
        return refusals.EXPIRED
    return check_binding(outcome.bound_to, presented.fingerprint) or outcome.principal
