"""Makes the authenticators that the settings describe."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from authz_service.tokens.made import Tokens
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.plugins import load_authenticator
from authz_service.tokens.settings import BUILT_IN, JWT_ONLY, TokenSettings
from secure_mcp_grpc import logs
from secure_mcp_grpc.authenticators import Authenticator
from secure_mcp_grpc.errors import UserError

__all__ = ["Tokens", "build_authenticators"]

logger = logging.getLogger(__name__)

_WARNING_S: Final = 60.0
_TOKEN_REQUIRED: Final = ("mtls+jwt", "jwt", "oauth2")


def build_authenticators(settings: TokenSettings, registry: CollectorRegistry, *, wait_s: float) -> Tokens:
    """What `settings` describe, in their order; a request waits for an issuer at most `wait_s` seconds.

    Raises `UserError` for files that cannot be used, for authenticators that cannot be made, and for an `auth_type`
    that demands tokens which nothing here could verify. Needs the running event loop.
    """
    _check(settings)
    tokens = Tokens()
    metrics = TokenMetrics(registry, [issuer.name for issuer in settings.issuers])
    built_in: dict[str, Sequence[Authenticator]] = {}
    if settings.issuers:
        # Brings an HTTP client and a JWT library: about 30 MiB, which a sidecar without tokens does not need.
        from authz_service.tokens.issuers import authenticators_of

        built_in = authenticators_of(settings, metrics, tokens, wait_s)
    for name in settings.authenticators:
        if name in BUILT_IN:
            tokens.authenticators += built_in.get(name, ())
        else:
            tokens.authenticators.append(load_authenticator(name, settings.authenticator_settings.get(name, {})))
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
    if settings.auth_type in JWT_ONLY and keyless:
        raise UserError(
            f"auth_type {settings.auth_type} takes JWTs only, and issuer {keyless[0]} has no keys; "
            "name discovery_url, jwks_url or jwks_file, or use auth_type oauth2"
        )


async def _say_that_nobody_is_asked() -> None:
    while True:
        logs.event(
            logger, logging.WARNING, "no_authentication", problem="auth_type is none: ANYBODY is let in as anonymous"
        )
        await asyncio.sleep(_WARNING_S)
