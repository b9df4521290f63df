"""MCP servers reached over streamable HTTP: each request is one POST, answered with JSON or with an event stream."""

import asyncio
import base64
import contextlib
import logging
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import grpc
import httpx2

from mcp_bridge import wire
from mcp_bridge.errors import HopError, overloaded, session_unknown, too_large, unavailable
from mcp_bridge.exchange import Exchange, Note, Session
from secure_mcp_grpc import logs

__all__ = ["HttpUpstream", "header_value"]

logger = logging.getLogger(__name__)

_SESSION_ID = "mcp-session-id"
_NAMED = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Methods whose name 2026-07-28 mirrors in `Mcp-Name`."""
_CONNECT_S = 5.0
_LISTEN_RETRY_S = 1.0
_END_SESSION_S = 0.5
_PLAIN = re.compile(r"[\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=")


def header_value(text: str) -> str:
    """`text` as an HTTP field value, base64 in the 2026-07-28 form where plain ASCII would not carry it unchanged."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@dataclass(slots=True)
class _Remote:
    """The server's side of one of our sessions."""

    session_id: str
    version: str = ""
    cancelled: deque[bytes] = field(default_factory=lambda: deque(maxlen=256))
    """Ids of requests that were cancelled lately: the end of their streams is no failure."""
    listening: asyncio.Task[None] | None = field(default=None, repr=False)


class HttpUpstream:
    """See `mcp_bridge.exchange.Upstream`."""

    def __init__(
        self, name: str, url: str, *, max_message_bytes: int, client: httpx2.AsyncClient | None = None
    ) -> None:
        self.name = name
        self._url = url
        self._max_message_bytes = max_message_bytes
        self._client = client or httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
            # All callers share this client: a cookie kept from one would travel with the others.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._remotes: dict[str, _Remote] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        return None

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        headers = self._headers(exchange)
        body = wire.request(exchange.call.method, exchange.id_json, exchange.params_json)
        try:
            answer, session_id = await self._exchange(exchange, body, headers)
        except asyncio.CancelledError:
            self._cancel_soon(exchange)
            raise
        except HopError:
            self._check_not_cancelled(exchange)
            raise
        self._check_not_cancelled(exchange)
        if exchange.opens_session and exchange.session is not None:
            self._remotes[exchange.session.id] = _Remote(session_id, _agreed_version(answer))
        return answer

    async def _exchange(self, exchange: Exchange, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        async with self._post(body, headers) as response:
            return await self._answer(response, exchange), response.headers.get(_SESSION_ID, "")

    def _check_not_cancelled(self, exchange: Exchange) -> None:
        """2025-11-25, "Cancellation": whatever still comes for a cancelled request is to be ignored."""
        remote = self._remotes.get(exchange.session.id) if exchange.session is not None else None
        if remote is not None and exchange.id_json in remote.cancelled:
            raise HopError(grpc.StatusCode.CANCELLED, "the client cancelled this request")

    def _cancel_soon(self, exchange: Exchange) -> None:
        """2025-11-25: a closed stream is no cancel, it has to be said; 2026-07-28: it is."""
        session = exchange.session
        remote = self._remotes.get(session.id) if session is not None else None
        if session is None or remote is None or exchange.opens_session or exchange.id_json in remote.cancelled:
            return
        note = Note("notifications/cancelled", b'{"requestId":%b}' % exchange.id_json, exchange.owner, session)
        task = asyncio.create_task(self._cancel(note), name=f"{self.name} cancel")
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, note: Note) -> None:
        with contextlib.suppress(HopError, TimeoutError):
            async with asyncio.timeout(_CONNECT_S):
                await self.notify(note)

    async def notify(self, note: Note) -> None:
        if note.session is None:
            return  # 2026-07-28 over HTTP has none: a cancel is the end of the request's own stream
        remote = self._remote(note.session)
        if note.method == "notifications/cancelled":
            remote.cancelled.append(_request_id(note.params_json))
        async with self._post(wire.notification(note.method, note.params_json), _session_headers(remote)) as response:
            self._check_status(response, note.session)
        if note.method == "notifications/initialized" and remote.session_id and remote.listening is None:
            remote.listening = asyncio.create_task(self._listen(note.session, remote), name=f"{self.name} listen")

    async def reply(self, session: Session, message: bytes) -> None:
        async with self._post(message, _session_headers(self._remote(session))) as response:
            self._check_status(response, session)

    async def end_session(self, session: Session) -> None:
        remote = self._remotes.pop(session.id, None)
        if remote is None:
            return
        if remote.listening is not None:
            remote.listening.cancel()
            await asyncio.gather(remote.listening, return_exceptions=True)
        if remote.session_id:
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(_END_SESSION_S):
                    await self._client.delete(self._url, headers=_session_headers(remote))

    async def reap(self, idle_s: float) -> None:
        return None

    async def close(self) -> None:
        for remote in self._remotes.values():
            if remote.listening is not None:
                remote.listening.cancel()
        for task in self._cancelling:
            task.cancel()
        listening = [remote.listening for remote in self._remotes.values() if remote.listening is not None]
        await asyncio.gather(*listening, *self._cancelling, return_exceptions=True)
        self._remotes.clear()
        await self._client.aclose()

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        if exchange.session is not None and not exchange.opens_session:
            return _session_headers(self._remote(exchange.session))
        headers = _base_headers()
        if exchange.meta.is_modern:
            headers["mcp-protocol-version"] = exchange.call.protocol_version
            headers["mcp-method"] = exchange.call.method
            if exchange.call.method in _NAMED:
                headers["mcp-name"] = header_value(exchange.call.name)
        return headers

    def _remote(self, session: Session) -> _Remote:
        remote = self._remotes.get(session.id)
        if remote is None:
            raise session_unknown()
        return remote

    @contextlib.asynccontextmanager
    async def _post(self, body: bytes, headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        """Errors of the transport, also while the answer is read, are the hop's."""
        try:
            async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise unavailable(f"the MCP server {self.name} cannot be reached") from None
        except httpx2.SSEError:
            raise too_large(f"an answer of the MCP server {self.name}", self._max_message_bytes) from None
        except httpx2.HTTPError:
            raise unavailable(f"the connection to the MCP server {self.name} broke before it answered") from None

    async def _answer(self, response: httpx2.Response, exchange: Exchange) -> bytes:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream" and response.status_code == httpx2.codes.OK:
            return await self._streamed(response, exchange)
        body = await self._body(response)
        envelope = _response_in(body) if kind == "application/json" else None
        if envelope is not None:
            # A rejected request may come back without its id: it is known here.
            return body if bytes(envelope.id) == exchange.id_json else wire.response_with_id(envelope, exchange.id_json)
        if response.status_code == httpx2.codes.NOT_FOUND and exchange.session is None:
            return wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, "the MCP server does not know this method")
        self._check_status(response, exchange.session)
        raise unavailable(f"the MCP server {self.name} answered with something that is not JSON-RPC")

    async def _body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_message_bytes:
                raise too_large(f"an answer of the MCP server {self.name}", self._max_message_bytes)
        return bytes(body)

    async def _streamed(self, response: httpx2.Response, exchange: Exchange) -> bytes:
        async for event in httpx2.EventSource(response, max_event_size=self._max_message_bytes):
            if event.event != "message" or not event.data:
                continue
            message = event.data.encode("utf-8", "surrogatepass")
            try:
                envelope = wire.read_envelope(message)
            except wire.NotJson:
                raise unavailable(f"the MCP server {self.name} answered with something that is not JSON-RPC") from None
            if wire.is_response(envelope):
                return wire.response_with_id(envelope, exchange.id_json)
            await self._deliver(envelope, message, exchange)
        raise unavailable(f"the MCP server {self.name} ended its answer without a response")

    async def _deliver(self, envelope: wire.Envelope, message: bytes, exchange: Exchange) -> None:
        """The event stream is read no faster than the caller reads."""
        if exchange.outbox is not None:
            await exchange.outbox.put(message)
            if exchange.outbox.overflowed:
                raise overloaded("the caller reads this request's messages too slowly")
        elif bytes(envelope.id) and exchange.session is not None and not exchange.session.queue.offer(message):
            refusal = wire.error(bytes(envelope.id), wire.METHOD_NOT_FOUND, "the client is not listening")
            await self.reply(exchange.session, refusal)

    def _check_status(self, response: httpx2.Response, session: Session | None) -> None:
        status = response.status_code
        if response.is_success:
            return
        if session is not None and status == httpx2.codes.NOT_FOUND:
            self._remotes.pop(session.id, None)
            session.queue.close()
            raise session_unknown()
        logs.event(logger, logging.WARNING, "upstream_refused", server=self.name, http_status=status)
        raise unavailable(f"the MCP server {self.name} answered with HTTP status {status}")

    async def _listen(self, session: Session, remote: _Remote) -> None:
        """Keep the server's own stream (GET) open and pass on what comes; servers without one say 405."""
        last_event_id = ""
        while True:
            headers = _session_headers(remote) | ({"last-event-id": last_event_id} if last_event_id else {})
            try:
                async with self._client.stream("GET", self._url, headers=headers) as response:
                    if not response.is_success:
                        return
                    async for event in httpx2.EventSource(response, max_event_size=self._max_message_bytes):
                        last_event_id = event.id or last_event_id
                        if event.data:
                            await session.queue.put(event.data.encode("utf-8", "surrogatepass"))
            except httpx2.HTTPError as error:
                logs.event(logger, logging.INFO, "upstream_stream_broke", server=self.name, kind=type(error).__name__)
            await asyncio.sleep(_LISTEN_RETRY_S)


def _base_headers() -> dict[str, str]:
    return {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def _session_headers(remote: _Remote) -> dict[str, str]:
    headers = _base_headers()
    if remote.session_id:
        headers[_SESSION_ID] = remote.session_id
    if remote.version:
        headers["mcp-protocol-version"] = remote.version
    return headers


def _request_id(params: bytes) -> bytes:
    """The id that a cancel names, as its bytes."""
    try:
        return bytes(wire.object_of(params)["requestId"])
    except (wire.NotJson, KeyError):
        return b""


def _agreed_version(answer: bytes) -> str:
    """`result.protocolVersion` of an answer to initialize; "" where it is an error."""
    try:
        body = bytes(wire.read_envelope(answer).result)
        text = bytes(wire.object_of(body)["protocolVersion"]).decode() if body else ""
    except (wire.NotJson, KeyError, UnicodeDecodeError):
        return ""
    version = text.strip('"')
    return version if re.fullmatch(r"[A-Za-z0-9.-]{1,32}", version) else ""


def _response_in(body: bytes) -> wire.Envelope | None:
    try:
        envelope = wire.read_envelope(body)
    except wire.NotJson:
        return None
    return envelope if wire.is_response(envelope) else None
