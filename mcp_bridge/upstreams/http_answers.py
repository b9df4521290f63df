"""Reading what an HTTP server answers, whatever it is: bounded, strict, and only for the request that asked."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import httpx2
import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError, too_large, unavailable
from mcp_bridge.exchange import Exchange, Session
from mcp_bridge.upstreams.events import EventReader, EventTooLarge, Position
from mcp_bridge.upstreams.rare import Rare

__all__ = ["Answers", "Broken", "Silent"]

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""What httpx unpacks piece by piece, so that a small answer cannot become a large one before it is counted."""


class Broken(HopError):
    """The connection broke after the request was sent: the server may have executed it."""

    def __init__(self, server: str) -> None:
        sentence = f"the connection to the MCP server {server} broke before it answered"
        super().__init__(grpc.StatusCode.UNAVAILABLE, sentence)


class Silent(Exception):
    """Nothing came for as long as was allowed."""


class Answers:
    """Of one server; no answer, and no event, may be larger than `max_bytes`, unpacked.

    `refuse` sends an answer of our own to a request of the server that nobody can take.
    """

    def __init__(
        self, server: str, max_bytes: int, log: Rare, refuse: Callable[[Session, bytes], Awaitable[None]]
    ) -> None:
        self._server = server
        self._refuse = refuse
        self._max_bytes = max_bytes
        self._log = log

    async def read(
        self, response: httpx2.Response, exchange: Exchange, position: Position, silence_s: float | None = None
    ) -> bytes | None:
        """The response under the exchange's id; None if the stream ended before it, or the status has to tell.

        Raises `HopError` for an answer that is none, `Silent` when an event stream has no event for `silence_s`.
        """
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream" and response.is_success:
            return await self._streamed(response, exchange, position, silence_s)
        if kind == "application/json":
            return self._single(await self._body(response), response, exchange)
        if response.status_code == httpx2.codes.NOT_FOUND and exchange.session is None:
            return wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, "the MCP server does not know this method")
        if response.is_success:
            raise self._nonsense()
        return None

    async def unasked(self, response: httpx2.Response, position: Position) -> AsyncIterator[bytes]:
        """What a server says outside of requests: its own requests and notifications."""
        async for message in self._events(response, position):
            try:
                envelope = wire.read_answer(message)
            except wire.NotJson:
                self._log.event(logging.WARNING, "upstream_garbage", bytes=len(message))
                continue
            if envelope.method:
                yield message
            else:
                self._log.event(logging.WARNING, "upstream_answered_unasked")

    def _single(self, body: bytes, response: httpx2.Response, exchange: Exchange) -> bytes | None:
        try:
            envelope = wire.read_answer(body)
        except wire.NotJson:
            envelope = None
        if envelope is not None and wire.is_response(envelope) and self._answers(envelope, exchange):
            return wire.response_with_id(envelope, exchange.id_json)
        if response.is_success:
            raise self._nonsense()
        return None

    async def _streamed(
        self, response: httpx2.Response, exchange: Exchange, position: Position, silence_s: float | None
    ) -> bytes | None:
        async for message in self._events(response, position, silence_s):
            try:
                envelope = wire.read_answer(message)
            except wire.NotJson:
                raise self._nonsense() from None
            if envelope.method:
                await self._deliver(envelope, message, exchange)
            elif wire.is_response(envelope) and self._answers(envelope, exchange):
                return wire.response_with_id(envelope, exchange.id_json)
        return None

    async def _deliver(self, envelope: wire.Envelope, message: bytes, exchange: Exchange) -> None:
        """The event stream is read no faster than the caller reads."""
        if envelope.method == "notifications/progress" and not _is_own_progress(envelope, exchange):
            return
        if exchange.outbox is not None:
            await exchange.outbox.put(message)
        elif exchange.session is not None and not exchange.session.queue.offer(message) and bytes(envelope.id):
            sentence = "the client takes no more requests for now: it is not listening"
            await self._refuse(exchange.session, wire.error(bytes(envelope.id), wire.METHOD_NOT_FOUND, sentence))

    def _answers(self, envelope: wire.Envelope, exchange: Exchange) -> bool:
        """Whether this answers the exchange. A request that a server could not read has no id in its error."""
        id_json = bytes(envelope.id)
        if id_json == exchange.id_json or _same(id_json, exchange.id_json):
            return True
        if bytes(envelope.error) and (id_json in (b"", b"null") or id_json.startswith(b'"')):
            return True
        self._log.event(logging.WARNING, "upstream_answered_unasked")
        return False

    async def _body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for chunk in self._chunks(response):
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    async def _events(
        self, response: httpx2.Response, position: Position, silence_s: float | None = None
    ) -> AsyncIterator[bytes]:
        reader = EventReader(self._max_bytes, position)
        chunks = self._chunks(response)
        clock = asyncio.get_running_loop()
        heard_s = clock.time()
        try:
            while True:
                try:
                    async with asyncio.timeout_at(None if silence_s is None else heard_s + silence_s):
                        chunk = await anext(chunks, None)
                except TimeoutError:
                    raise Silent from None
                if chunk is None:
                    return
                before = position.last_id
                for event in reader.feed(chunk):
                    if event.kind == b"message" and event.data:
                        yield event.data
                        heard_s = clock.time()
                if reader.is_inside or position.last_id != before:  # comments, which keep a stream alive, are no news
                    heard_s = clock.time()
        except EventTooLarge:
            raise self._too_large() from None

    def _chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
            raise unavailable(f"the MCP server {self._server} answered in an encoding that it was not offered")
        chunks: AsyncIterator[bytes] = response.aiter_bytes()
        return chunks

    def _nonsense(self) -> HopError:
        return unavailable(f"the MCP server {self._server} answered with something that is not JSON-RPC")

    def _too_large(self) -> HopError:
        return too_large(f"an answer of the MCP server {self._server}", self._max_bytes)


def _same(one: bytes, other: bytes) -> bool:
    """Equal as JSON values: strings may be escaped differently."""
    try:
        return one[:1] == other[:1] == b'"' and bool(msgspec.json.decode(one) == msgspec.json.decode(other))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _is_own_progress(envelope: wire.Envelope, exchange: Exchange) -> bool:
    try:
        token = bytes(wire.object_of(bytes(envelope.params))["progressToken"])
    except (wire.NotJson, KeyError):
        return False
    own = bytes(exchange.meta.progress_token)
    return token == own or _same(token, own)
