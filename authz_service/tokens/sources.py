"""Where an issuer's keys come from: discovery, an address, a file. Each reads the current set when asked."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from authz_service.tokens.fetch import MAX_BYTES, Fetcher, FetchError
from authz_service.tokens.jose import read_object
from authz_service.tokens.keys import KeysError, KeySet, hmac_keys, read_jwks
from authz_service.tokens.settings import Issuer
from authz_service.tokens.urls import check_url, is_loopback

__all__ = ["DiscoverySource", "FileSource", "Source", "UrlSource", "source_of"]


class Source(Protocol):
    """One place to read keys from."""

    async def read(self) -> KeySet:
        """The keys as they are now; raises `FetchError` or `KeysError`."""


class UrlSource:
    """A JWK Set at an address."""

    def __init__(self, fetcher: Fetcher, url: str) -> None:
        self._fetcher = fetcher
        self._url = url

    async def read(self) -> KeySet:
        return read_jwks(await self._fetcher.get(self._url))


class DiscoverySource:
    """OpenID Provider Metadata, and the JWK Set that it names; both are read each time, since either may move."""

    def __init__(self, fetcher: Fetcher, url: str, issuer: str) -> None:
        self._fetcher = fetcher
        self._url = url
        self._issuer = issuer

    async def read(self) -> KeySet:
        try:
            metadata = read_object(await self._fetcher.get(self._url))
        except ValueError:
            raise KeysError("the metadata is not a JSON object") from None
        return read_jwks(await self._fetcher.get(self._jwks_url(metadata)))

    def _jwks_url(self, metadata: Mapping[str, object]) -> str:
        """OpenID Connect Discovery 1.0, 4.3: the metadata's `issuer` MUST be the one that was asked for."""
        if metadata.get("issuer") != self._issuer:
            raise KeysError("the metadata is of another issuer")
        url = metadata.get("jwks_uri")
        if not isinstance(url, str):
            raise KeysError("the metadata has no jwks_uri")
        try:
            return check_url(url, loopback=is_loopback(self._url))
        except ValueError as error:
            raise KeysError(f"the metadata's jwks_uri {error}") from None


class FileSource:
    """A JWK Set, or an HMAC secret, in a file."""

    def __init__(self, path: Path, *, secret: bool = False) -> None:
        self.path = path
        self._parse = hmac_keys if secret else read_jwks

    async def read(self) -> KeySet:
        return await asyncio.to_thread(self.load)

    def load(self) -> KeySet:
        """As `read`, at once."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise FetchError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise KeysError(f"{self.path} is larger than {MAX_BYTES} bytes")
        return self._parse(content)


def source_of(issuer: Issuer, fetcher: Fetcher) -> Source | FileSource:
    """The one that `issuer` names."""
    if issuer.jwks_file:
        return FileSource(issuer.jwks_file)
    if issuer.hmac_secret_file:
        return FileSource(issuer.hmac_secret_file, secret=True)
    if issuer.jwks_url:
        return UrlSource(fetcher, issuer.jwks_url)
    return DiscoverySource(fetcher, issuer.metadata_url, issuer.issuer)
