"""MCP servers reached over streamable HTTP: each request is one POST, answered with JSON or with an event stream."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import grpc
import httpx2

from mcp_bridge import wire
from mcp_bridge.errors import HopError, session_unknown, unavailable
from mcp_bridge.exchange import Exchange, Note, Session
from mcp_bridge.upstreams.events import Position
from mcp_bridge.upstreams.http_answers import Answers, Broken, Silent
from mcp_bridge.upstreams.http_remote import (
    SESSION_ID,
    Remote,
    agreed_version,
    base_headers,
    is_stream,
    request_id,
    resuming,
)
from mcp_bridge.upstreams.mirrors import HEADER_MISMATCH, ParamMirrors, header_value, param_headers
from mcp_bridge.upstreams.rare import Rare
from mcp_bridge.upstreams.secrets import SecretHeaders
from secure_mcp_grpc.errors import UserError

__all__ = ["HttpUpstream", "header_value"]

logger = logging.getLogger(__name__)

_NAMED = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Methods whose name 2026-07-28 mirrors in `Mcp-Name`."""
_CONNECT_S = 5.0
_RETRY_S = 1.0
_LEAST_RETRY_S = 0.05
_MOST_RETRY_S = 30.0
_MAX_RESUMES = 5
"""Attempts to resume a stream without anything new coming of it."""
_SILENCE_S = 4.0
"""How long a resumed stream may say nothing before it is asked for again; doubled from one time to the next."""
_MOST_SILENCE_S = 30.0
_END_SESSION_S = 0.5
_MAX_LIST_PAGES = 20
_LEARN_S = 5.0
_MAX_OWNERS = 1000
_REFUSED = (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN)


class HttpUpstream:
    """See `mcp_bridge.exchange.Upstream`. `headers` are sources of static ones, see `SecretHeaders`."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        max_message_bytes: int,
        ca: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: httpx2.AsyncClient | None = None,
    ) -> None:
        self.name = name
        self._url = url
        self._max_message_bytes = max_message_bytes
        self._secrets = SecretHeaders(name, headers or {})
        self._client = client or httpx2.AsyncClient(
            verify=_trust(name, url, ca),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
            # All callers share this client: a cookie kept from one would travel with the others.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        # At INFO httpx writes a line for each request, with the URL.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._log = Rare(logger, server=name)
        self._answers = Answers(name, max_message_bytes, self._log, self.reply)
        self._mirrors: dict[str, ParamMirrors] = {}
        self._remotes: dict[str, Remote] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._secrets.load()

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        headers = await self._headers(exchange)
        if exchange.trace is not None:
            headers |= exchange.trace.headers()
        body = wire.request(exchange.call.method, exchange.id_json, exchange.params_json)
        try:
            answer = await self._exchange(exchange, body, headers)
        except asyncio.CancelledError:
            self._cancel_soon(exchange)
            raise
        except HopError:
            self._check_not_cancelled(exchange)
            raise
        self._check_not_cancelled(exchange)
        if exchange.opens_session and exchange.session is not None:
            self._remote(exchange.session).version = agreed_version(answer)
        self._observe(exchange, answer)
        return answer

    async def notify(self, note: Note) -> None:
        if note.session is None:
            return  # 2026-07-28 over HTTP has none: a cancel is the end of the request's own stream
        remote = self._remote(note.session)
        if note.method == "notifications/cancelled":
            remote.cancelled.append(request_id(note.params_json))
        body = wire.notification(note.method, note.params_json)
        async with self._send("POST", remote.headers(), body) as response:
            self._check_status(response, note.session)
        if note.method == "notifications/initialized" and remote.session_id and remote.listening is None:
            remote.listening = asyncio.create_task(self._listen(note.session, remote), name=f"{self.name} listen")

    async def reply(self, session: Session, message: bytes) -> None:
        async with self._send("POST", self._remote(session).headers(), message) as response:
            self._check_status(response, session)

    async def end_session(self, session: Session) -> None:
        remote = self._remotes.pop(session.id, None)
        if remote is None:
            return
        if remote.listening is not None:
            remote.listening.cancel()
            await asyncio.gather(remote.listening, return_exceptions=True)
        if remote.session_id:
            with contextlib.suppress(HopError, TimeoutError):
                async with asyncio.timeout(_END_SESSION_S), self._send("DELETE", remote.headers()):
                    pass

    async def reap(self, idle_s: float) -> None:
        return None

    async def close(self) -> None:
        listening = [remote.listening for remote in self._remotes.values() if remote.listening is not None]
        for task in (*listening, *self._cancelling):
            task.cancel()
        await asyncio.gather(*listening, *self._cancelling, return_exceptions=True)
        self._remotes.clear()
        await self._client.aclose()

    async def _exchange(self, exchange: Exchange, body: bytes, headers: dict[str, str]) -> bytes:
        """POST once; what breaks off afterwards is resumed (GET), where the server gave its events ids."""
        position = Position()
        answer: bytes | None = None
        try:
            async with self._send("POST", headers, body) as response:
                if exchange.opens_session and exchange.session is not None:
                    # Known from here on, so that the server's session ends even if its answer never comes.
                    session_id = response.headers.get(SESSION_ID, "")
                    self._remotes[exchange.session.id] = Remote(session_id)
                self._check_found(response, exchange.session)
                if response.status_code in _REFUSED or response.is_redirect:
                    self._check_status(response, exchange.session)
                answer = await self._answers.read(response, exchange, position)
                if answer is None and not response.is_success:
                    self._check_status(response, exchange.session)
        except Broken:
            if not _is_resumable(exchange, position):
                raise
        if answer is None and not _is_resumable(exchange, position):
            raise unavailable(f"the MCP server {self.name} ended its answer without a response")
        return await self._resumed(exchange, position) if answer is None else answer

    async def _resumed(self, exchange: Exchange, position: Position) -> bytes:
        """2025-11-25, "Resumability and Redelivery": GET with Last-Event-ID, after the time that the server asked for.

        A server may close on purpose and be polled, so only attempts that bring
        nothing count; `request_timeout_s` bounds the rest. What a server writes
        while it takes up a stream may be on none: the MCP SDK for Python looks
        first for what to send again, then says where the stream is now, and
        only then passes on what comes. So a stream that stays silent is asked
        for again, from the last event that carried a message.
        """
        if exchange.session is None:
            raise session_unknown()
        failures = silences = 0
        while failures < _MAX_RESUMES:
            wait_s = _RETRY_S if position.retry_s is None else max(_LEAST_RETRY_S, position.retry_s)
            await asyncio.sleep(min(wait_s * 2**failures, _MOST_RETRY_S))
            headers = self._remote(exchange.session).headers()
            before = position.last_id
            try:
                async with self._send("GET", resuming(headers, position)) as response:
                    self._check_found(response, exchange.session)
                    if response.is_client_error or response.is_redirect:
                        break
                    if response.is_success and is_stream(response):
                        silence_s = min(_SILENCE_S * 2**silences, _MOST_SILENCE_S)
                        answer = await self._answers.read(response, exchange, position, silence_s)
                        if answer is not None:
                            return answer
            except Broken:
                pass
            except Silent:
                failures, silences = 0, min(silences + 1, 8)
                position.last_id = position.message_id
                continue
            failures = 0 if position.last_id != before else failures + 1
        raise unavailable(f"the connection to the MCP server {self.name} broke before it answered; it was not resumed")

    async def _listen(self, session: Session, remote: Remote) -> None:
        """Keep the server's own stream (GET) open and pass on what comes; servers without one say 405."""
        position = Position()
        failures = 0
        while failures < _MAX_RESUMES:
            received = 0
            try:
                async with self._send("GET", resuming(remote.headers(), position)) as response:
                    self._check_found(response, session)
                    if not response.is_server_error and not (response.is_success and is_stream(response)):
                        return
                    if response.is_success:
                        async for message in self._answers.unasked(response, position):
                            received += 1
                            await session.queue.put(message)
            except HopError as error:
                if error.code is grpc.StatusCode.NOT_FOUND:
                    return
                self._log.event(logging.INFO, "upstream_stream_broke", code=error.code.name)
            failures = 0 if received else failures + 1
            wait_s = _RETRY_S if position.retry_s is None else max(_LEAST_RETRY_S, position.retry_s)
            await asyncio.sleep(min(wait_s * 2 ** max(0, failures - 1), _MOST_RETRY_S))
        self._log.event(logging.WARNING, "upstream_stream_given_up")

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

    async def _headers(self, exchange: Exchange) -> dict[str, str]:
        if exchange.session is not None and not exchange.opens_session:
            return self._remote(exchange.session).headers()
        headers = base_headers()
        if exchange.meta.is_modern:
            headers["mcp-protocol-version"] = exchange.call.protocol_version
            headers["mcp-method"] = exchange.call.method
            if exchange.call.method in _NAMED:
                headers["mcp-name"] = header_value(exchange.call.name)
            if exchange.call.method == "tools/call":
                headers |= await self._param_headers(exchange)
        return headers

    async def _param_headers(self, exchange: Exchange) -> dict[str, str]:
        mirrors = self._mirrors_of(exchange.owner)
        if mirrors.of(exchange.call.name) is None:
            async with mirrors.learning:
                if mirrors.of(exchange.call.name) is None:
                    await self._learn(exchange, mirrors)
        mirrored = mirrors.of(exchange.call.name)
        return param_headers(mirrored, exchange.params_json) if mirrored else {}

    async def _learn(self, exchange: Exchange, mirrors: ParamMirrors) -> None:
        """Ask for the tools as the caller would. What fails here, the server will say of the call itself."""
        meta = wire.object_of(bytes(wire.object_of(exchange.params_json)["_meta"]))
        meta = {key: value for key, value in meta.items() if key.startswith("io.modelcontextprotocol/")}
        params = wire.with_params(b"", {"_meta": wire.object_text(meta)})
        headers = base_headers() | {"mcp-protocol-version": exchange.call.protocol_version, "mcp-method": "tools/list"}
        asked = Exchange(exchange.call, b"0", params, exchange.meta, exchange.owner)
        cursor: bytes | None = None
        with contextlib.suppress(HopError, TimeoutError, wire.NotJson):
            async with asyncio.timeout(_LEARN_S):
                for number in range(_MAX_LIST_PAGES):
                    paged = wire.with_params(params, {"cursor": cursor}) if cursor else params
                    answer = await self._exchange(asked, wire.request("tools/list", b"0", paged), headers)
                    cursor = mirrors.observe(bytes(wire.read_envelope(answer).result), first_page=number == 0)
                    if cursor is None:
                        break
        mirrors.settle()

    def _observe(self, exchange: Exchange, answer: bytes) -> None:
        """Tools that pass by tell which of their arguments are mirrored; a mismatch tells that ours is old."""
        if exchange.session is not None or exchange.call.method not in ("tools/list", "tools/call"):
            return
        mirrors = self._mirrors_of(exchange.owner)
        if exchange.call.method == "tools/call":
            if b"%d" % HEADER_MISMATCH in answer[:512] and wire.outcome_of("", answer).error_code == HEADER_MISMATCH:
                mirrors.forget()
        elif result := bytes(wire.read_envelope(answer).result):
            mirrors.observe(result, first_page="cursor" not in wire.object_of(exchange.params_json or b"{}"))

    def _mirrors_of(self, owner: str) -> ParamMirrors:
        if owner not in self._mirrors and len(self._mirrors) >= _MAX_OWNERS:
            del self._mirrors[next(iter(self._mirrors))]
        return self._mirrors.setdefault(owner, ParamMirrors())

    def _remote(self, session: Session) -> Remote:
        remote = self._remotes.get(session.id)
        if remote is None:
            raise session_unknown()
        return remote

    @contextlib.asynccontextmanager
    async def _send(self, method: str, headers: dict[str, str], body: bytes = b"") -> AsyncIterator[httpx2.Response]:
        """Errors of the transport, also while the answer is read, are the hop's."""
        headers = {**self._secrets.values, **headers}
        try:
            async with self._client.stream(method, self._url, content=body or None, headers=headers) as response:
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise unavailable(f"the MCP server {self.name} cannot be reached") from None
        except httpx2.HTTPError:
            raise Broken(self.name) from None

    def _check_found(self, response: httpx2.Response, session: Session | None) -> None:
        """2025-11-25, "Session Management": 404 means that the server ended the session."""
        if session is None or response.status_code != httpx2.codes.NOT_FOUND:
            return
        remote = self._remotes.get(session.id)
        if remote is None or remote.session_id:
            self._remotes.pop(session.id, None)
            session.queue.close()
            raise session_unknown()

    def _check_status(self, response: httpx2.Response, session: Session | None) -> None:
        self._check_found(response, session)
        status = response.status_code
        if response.is_success:
            return
        self._log.event(logging.WARNING, "upstream_refused", http_status=status)
        if response.is_redirect:
            raise unavailable(f"the MCP server {self.name} answered with a redirect, which is not followed")
        if status in _REFUSED:
            with contextlib.suppress(UserError):
                self._secrets.load()  # the key may have been renewed; this request is not repeated
            raise unavailable(f"the MCP server {self.name} refused the sidecar (HTTP status {status})")
        raise unavailable(f"the MCP server {self.name} answered with HTTP status {status}")


def _trust(name: str, url: str, ca: str | None) -> ssl.SSLContext:
    """Who may sign the server's certificate: nobody for a plain URL, so that it cannot turn into another."""
    if not url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise UserError(f"upstream {name}: ca {ca} holds no certificates in PEM form") from None
    except OSError as error:
        raise UserError(f"upstream {name}: ca {ca} cannot be read: {error.strerror}") from None


def _is_resumable(exchange: Exchange, position: Position) -> bool:
    """2026-07-28 has no resumption: there a request that broke is over."""
    return exchange.session is not None and bool(position.last_id)
