"""HTTP towards issuers: bounded in time and size, certificates checked, no redirects, no proxies of the environment."""

import asyncio
import ssl
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final

import httpx2

from secure_mcp_grpc.errors import UserError

__all__ = ["MAX_BYTES", "FetchError", "Fetcher"]

MAX_BYTES: Final = 256 * 1024
"""Largest document that is read: metadata, keys, or the answer of an introspection."""


class FetchError(Exception):
    """No usable answer. Its text is for logs: it names no address and repeats nothing of the answer."""


class Fetcher:
    """One issuer's server."""

    def __init__(self, client: httpx2.AsyncClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    @classmethod
    def create(cls, ca_file: Path | None, timeout_s: float) -> "Fetcher":
        """Raises `UserError` for a `ca_file` that holds no certificates."""
        try:
            verify = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = "no certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise UserError(f"ca_file {ca_file} cannot be read: {reason}") from None
        client = httpx2.AsyncClient(
            verify=verify,
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=8),
            # No cookies: one with odd characters would spoil every later request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"accept": "application/json", "accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )
        return cls(client, timeout_s)

    async def get(self, url: str) -> bytes:
        """The body of a 200 answer; raises `FetchError`."""
        return await self._fetch("GET", url)

    async def post(self, url: str, form: Mapping[str, str], auth: tuple[str, str]) -> bytes:
        """As `get`, for a form sent with HTTP Basic authentication."""
        return await self._fetch("POST", url, data=dict(form), auth=auth)

    async def close(self) -> None:
        await self._client.aclose()

    async def _fetch(self, method: str, url: str, **content: object) -> bytes:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(method, url, **content) as response,  # type: ignore[arg-type] # data and auth
            ):
                if response.status_code != httpx2.codes.OK:
                    raise FetchError(f"status {response.status_code}")
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise FetchError("the answer is compressed, which was not asked for")
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise FetchError(f"the answer is larger than {MAX_BYTES} bytes")
        except TimeoutError:
            raise FetchError("no answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError) as error:
            raise FetchError(type(error).__name__) from None
        return bytes(body)
