"""Makes the authenticators that the settings describe."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from authz_service.tokens.cache import TokenCache
from authz_service.tokens.fetch import Fetcher, FetchError
from authz_service.tokens.introspection import IntrospectionAuthenticator
from authz_service.tokens.jwt_authenticator import JwtAuthenticator, Trusted
from authz_service.tokens.keyring import KeyRing
from authz_service.tokens.keys import KeysError
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.plugins import load_authenticator
from authz_service.tokens.settings import BUILT_IN, Issuer, TokenSettings
from authz_service.tokens.sources import FileSource, source_of
from secure_mcp_grpc import logs
from secure_mcp_grpc.authenticators import Authenticator
from secure_mcp_grpc.errors import UserError

__all__ = ["Tokens", "build_authenticators"]

logger = logging.getLogger(__name__)

_FILE_REFRESH_S: Final = 1.0
_WARNING_S: Final = 60.0
_TOKEN_REQUIRED: Final = ("mtls+jwt", "jwt", "oauth2")
_JWT_ONLY: Final = ("mtls+jwt", "jwt")


@dataclass(slots=True)
class Tokens:
    """Authenticators, and what has to run and end beside them."""

    authenticators: list[Authenticator] = field(default_factory=list)
    jobs: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    """Run until cancelled."""
    components: dict[str, Callable[[], bool]] = field(default_factory=dict)
    """Name in grpc.health.v1 → whether the issuer's keys are to be had."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """End what is under way, after the jobs have ended; last made, first closed."""
        for close in reversed(self.closers):
            await close()


def build_authenticators(settings: TokenSettings, registry: CollectorRegistry, *, wait_s: float) -> Tokens:
    """What `settings` describe, in their order; a request waits for an issuer at most `wait_s` seconds.

    Raises `UserError` for files that cannot be used, for authenticators that cannot be made, and for an `auth_type`
    that demands tokens which nothing here could verify. Needs the running event loop.
    """
    _check(settings)
    tokens = Tokens()
    metrics = TokenMetrics(registry, [issuer.name for issuer in settings.issuers])
    fetchers = {issuer.name: _fetcher(issuer, tokens) for issuer in settings.issuers}
    trusted = [
        Trusted.of(issuer, _ring(issuer, fetchers[issuer.name], metrics, tokens))
        for issuer in settings.issuers
        if issuer.has_keys
    ]
    names = {issuer.issuer: issuer.name for issuer in settings.issuers}
    for name in settings.authenticators:
        if name == "jwt" and trusted:
            cache = TokenCache(settings.token_cache, metrics)
            tokens.authenticators.append(
                JwtAuthenticator(trusted, names, cache, max_token_bytes=settings.max_token_bytes, wait_s=wait_s)
            )
        elif name == "introspection":
            tokens.authenticators += _introspection(settings, names, fetchers, metrics, tokens, wait_s)
        elif name not in BUILT_IN:
            tokens.authenticators.append(load_authenticator(name, settings.authenticator_settings.get(name, {})))
    tokens.jobs += [one.ring.run() for one in trusted]
    if settings.auth_type == "none":
        tokens.jobs.append(_say_that_nobody_is_asked())
    return tokens


def _check(settings: TokenSettings) -> None:
    names = settings.authenticators
    if len(set(names)) != len(names):
        raise UserError("authenticators names one twice")
    if idle := [name for name in settings.authenticator_settings if name not in names or name in BUILT_IN]:
        raise UserError(
            f"authenticator_settings.{idle[0]} is for no authenticator of another package in authenticators"
        )
    if settings.auth_type == "none" and not settings.allow_no_auth:
        raise UserError("auth_type none lets anybody in; it starts only with allow_no_auth, for development")
    if settings.auth_type not in _TOKEN_REQUIRED:
        return
    if not settings.issuers and not set(names) - set(BUILT_IN):
        raise UserError(
            f"auth_type {settings.auth_type} demands a token, and no issuer is named whose tokens count; "
            "set authz.issuers or MCP_AUTHZ_ISSUERS"
        )
    keyless = [issuer.name for issuer in settings.issuers if not issuer.has_keys]
    if settings.auth_type in _JWT_ONLY and keyless:
        raise UserError(
            f"auth_type {settings.auth_type} takes JWTs only, and issuer {keyless[0]} has no keys; "
            "name discovery_url, jwks_url or jwks_file, or use auth_type oauth2"
        )


def _fetcher(issuer: Issuer, tokens: Tokens) -> Fetcher:
    fetcher = Fetcher.create(issuer.ca_file, issuer.timeout_s)
    tokens.closers.append(fetcher.close)
    return fetcher


def _ring(issuer: Issuer, fetcher: Fetcher, metrics: TokenMetrics, tokens: Tokens) -> KeyRing:
    source = source_of(issuer, fetcher)
    is_file = isinstance(source, FileSource)
    ring = KeyRing(
        issuer.name,
        source,
        metrics,
        refresh_s=_FILE_REFRESH_S if is_file else issuer.keys_refresh_s,
        max_age_s=issuer.keys_max_age_s,
        unknown_s=_FILE_REFRESH_S if is_file else issuer.keys_unknown_s,
    )
    if isinstance(source, FileSource):
        try:
            keys = source.load()
        except (FetchError, KeysError) as error:
            raise UserError(f"issuer {issuer.name}: {error}") from None
        if not keys.keys:
            raise UserError(f"issuer {issuer.name}: {'; '.join(keys.ignored) or 'there is no key'} in {source.path}")
        if issuer.hmac_secret_file and (short := sorted(set(issuer.algorithms) - keys.keys[0].algorithms)):
            raise UserError(f"issuer {issuer.name}: the secret in {source.path} is too short for {short[0]}")
        ring.put(keys)
    metrics.watch_age(issuer.name, lambda: ring.age_s)
    tokens.components[f"issuer-{issuer.name}"] = lambda: ring.usable
    tokens.closers.append(ring.close)
    return ring


def _introspection(
    settings: TokenSettings,
    names: dict[str, str],
    fetchers: dict[str, Fetcher],
    metrics: TokenMetrics,
    tokens: Tokens,
    wait_s: float,
) -> list[Authenticator]:
    """None where `auth_type` takes JWTs only."""
    if settings.auth_type in _JWT_ONLY:
        return []
    made: list[Authenticator] = []
    for issuer in settings.issuers:
        if not issuer.introspection_url or issuer.client_secret_file is None:
            continue
        read_secret = partial(_secret, issuer.client_secret_file)
        try:
            read_secret()
        except FetchError as error:
            raise UserError(f"issuer {issuer.name}: {error}") from None
        authenticator = IntrospectionAuthenticator(
            issuer,
            names,
            fetchers[issuer.name],
            read_secret,
            metrics,
            max_token_bytes=settings.max_token_bytes,
            cache_size=settings.token_cache,
            wait_s=wait_s,
        )
        tokens.closers.append(authenticator.close)
        made.append(authenticator)
    return made


def _secret(path: Path) -> str:
    """What is in `client_secret_file`, without white space at its ends; raises `FetchError`."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise FetchError(f"client_secret_file {path} cannot be read: {reason}") from None
    if not secret:
        raise FetchError(f"client_secret_file {path} is empty")
    return secret


async def _say_that_nobody_is_asked() -> None:
    while True:
        logs.event(
            logger, logging.WARNING, "no_authentication", problem="auth_type is none: ANYBODY is let in as anonymous"
        )
        await asyncio.sleep(_WARNING_S)
