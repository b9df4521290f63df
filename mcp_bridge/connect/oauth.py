"""Tokens by OAuth 2.0 client credentials (RFC 6749, 4.4), asked for before the one in hand expires.

Between `GrpcBackend`, which needs a token with each call, and an issuer. Its
token endpoint is given, or found in the issuer's metadata (OpenID Connect
Discovery 1.0 or RFC 8414).
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus, urlsplit

import msgspec

from mcp_bridge.connect.tokens import NoToken, checked
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    import httpx2

__all__ = ["ClientCredentials", "Grant"]

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 64 * 1024
_DEFAULT_LIFE_S: Final = 300.0
_LONGEST_LIFE_S: Final = 24 * 3600.0
_RENEW_AT: Final = 0.75
"""Share of a token's life after which the next one is asked for, beside the calls."""
_RETRY_S: Final = 5.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What to ask for and where: `token_url`, or `issuer` to find it from."""

    client_id: str
    secret: str = field(repr=False)
    scope: str = ""
    audience: str = ""
    issuer: str = ""
    token_url: str = ""

    def __post_init__(self) -> None:
        for url in (self.issuer, self.token_url):
            if url:
                _check_url(url)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    in_body: bool
    """The issuer takes the client's secret in the form (client_secret_post) and not as Basic credentials."""


class ClientCredentials:
    """A `TokenSource`. One question at a time; while a token is good, nobody waits for the next one."""

    def __init__(
        self,
        grant: Grant,
        *,
        client: "httpx2.AsyncClient | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grant = grant
        self._client = client
        self._clock = clock
        self._place = _Place(grant.token_url, in_body=False) if grant.token_url else None
        self._token: _Token | None = None
        self._asking: asyncio.Task[_Token] | None = None
        self._failed_at = float("-inf")

    async def token(self) -> str:
        """Raises `NoToken`."""
        held, now = self._token, self._clock()
        if held is not None and now < held.renew_at:
            return held.text
        good = held is not None and now < held.expires_at
        if self._asking is None and not (good and now - self._failed_at < _RETRY_S):
            self._asking = asyncio.create_task(self._ask(), name="token")
            self._asking.add_done_callback(self._asked)
        if held is not None and good:
            return held.text
        if self._asking is None:
            raise NoToken("there is no token")
        # A caller that is cancelled does not take the token from the others.
        return (await asyncio.shield(self._asking)).text

    def refused(self) -> None:
        """The next call asks for another one."""
        self._token = None

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _asked(self, task: asyncio.Task[_Token]) -> None:
        self._asking = None
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            self._token = task.result()
        else:
            self._failed_at = self._clock()
            logs.event(logger, logging.WARNING, "token_not_issued", reason=str(error))

    async def _ask(self) -> _Token:
        place = self._place or await self._discover()
        self._place = place
        form = {"grant_type": "client_credentials"}
        form |= {"scope": self._grant.scope} if self._grant.scope else {}
        form |= {"audience": self._grant.audience} if self._grant.audience else {}
        headers = {"accept": "application/json"}
        if place.in_body:
            form |= {"client_id": self._grant.client_id, "client_secret": self._grant.secret}
        else:
            headers["authorization"] = _basic(self._grant.client_id, self._grant.secret)
        asked_at = self._clock()
        status, answer = await self._fetch("POST", place.url, headers, form)
        if status != 200:
            if status in (404, 405):
                self._place = self._place if self._grant.token_url else None
            raise NoToken(f"the token endpoint refused with {_reason(status, answer)}")
        return _token_of(answer, asked_at)

    async def _discover(self) -> _Place:
        base = self._grant.issuer.rstrip("/")
        parts = urlsplit(base)
        well_known = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"
        for url in (f"{base}/.well-known/openid-configuration", well_known):
            status, document = await self._fetch("GET", url, {"accept": "application/json"}, None)
            if status == 200:
                return self._place_in(document)
        raise NoToken("the issuer publishes no metadata; name its token endpoint instead")

    def _place_in(self, document: Mapping[str, Any]) -> _Place:
        """RFC 8414, 3.3: metadata that names another issuer must not be used."""
        if str(document.get("issuer", "")).rstrip("/") != self._grant.issuer.rstrip("/"):
            raise NoToken("the issuer's metadata names another issuer")
        url, methods = document.get("token_endpoint"), document.get("token_endpoint_auth_methods_supported")
        try:
            _check_url(url if isinstance(url, str) else "")
        except UserError:
            raise NoToken("the issuer's metadata names no token endpoint that may be used") from None
        in_body = isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods
        return _Place(str(url), in_body)

    async def _fetch(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, dict[str, Any]]:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)
        body = bytearray()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                async with self._client.stream(method, url, headers=dict(headers), data=form) as response:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > _MAX_BYTES:
                            raise NoToken("the token issuer answered with too much")
        except (httpx2.HTTPError, TimeoutError):
            raise NoToken(f"the token issuer {urlsplit(url).hostname} cannot be reached") from None
        try:
            document = msgspec.json.decode(bytes(body))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            document = {}
        return response.status_code, document if isinstance(document, dict) else {}


def _token_of(answer: Mapping[str, Any], asked_at: float) -> _Token:
    """RFC 6749, 5.1. The life counts from before the question, so that the token is never older than thought."""
    text, kind, life = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NoToken("the token endpoint did not issue a bearer token")
    try:
        text = checked(text if isinstance(text, str) else "")
    except ValueError:
        raise NoToken("the token endpoint did not issue a bearer token") from None
    life = life if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE_S
    life = min(float(life), _LONGEST_LIFE_S)
    return _Token(text, asked_at + life * _RENEW_AT, asked_at + life)


def _reason(status: int, answer: Mapping[str, Any]) -> str:
    """RFC 6749, 5.2: the error's code is one of a few words; nothing else of the answer is repeated."""
    code = answer.get("error")
    known = isinstance(code, str) and code.isascii() and code.replace("_", "").isalnum() and len(code) < 64
    return f"{code} (HTTP status {status})" if known else f"HTTP status {status}"


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749, 2.3.1: both are form-encoded before they become Basic credentials."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    raise UserError(f"an issuer is reached over https (http on this machine only), not {url or 'nothing'}")
