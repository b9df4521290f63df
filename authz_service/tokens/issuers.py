"""The built-in authenticators of the issuers in the settings. Imported only where there are issuers: see `build`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from authz_service.tokens.cache import TokenCache
from authz_service.tokens.fetch import Fetcher, FetchError
from authz_service.tokens.introspection import IntrospectionAuthenticator
from authz_service.tokens.jwt_authenticator import JwtAuthenticator, Trusted
from authz_service.tokens.keyring import KeyRing
from authz_service.tokens.keys import KeysError
from authz_service.tokens.made import Tokens
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.settings import JWT_ONLY, Issuer, TokenSettings
from authz_service.tokens.sources import FileSource, source_of
from secure_mcp_grpc.authenticators import Authenticator
from secure_mcp_grpc.errors import UserError

__all__ = ["authenticators_of"]

_FILE_REFRESH_S: Final = 1.0


def authenticators_of(
    settings: TokenSettings, metrics: TokenMetrics, tokens: Tokens, wait_s: float
) -> dict[str, Sequence[Authenticator]]:
    """By their names in the setting `authenticators`; what runs and ends beside them is added to `tokens`."""
    fetchers = {issuer.name: _fetcher(issuer, tokens) for issuer in settings.issuers}
    trusted = [
        Trusted.of(issuer, _ring(issuer, fetchers[issuer.name], metrics, tokens))
        for issuer in settings.issuers
        if issuer.has_keys
    ]
    names = {issuer.issuer: issuer.name for issuer in settings.issuers}
    made: dict[str, Sequence[Authenticator]] = {}
    if "jwt" in settings.authenticators and trusted:
        cache = TokenCache(settings.token_cache, metrics)
        made["jwt"] = [JwtAuthenticator(trusted, names, cache, max_token_bytes=settings.max_token_bytes, wait_s=wait_s)]
    if "introspection" in settings.authenticators:
        made["introspection"] = _introspection(settings, names, fetchers, metrics, tokens, wait_s)
    tokens.jobs += [one.ring.run() for one in trusted]
    return made


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
    if settings.auth_type in JWT_ONLY:
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
