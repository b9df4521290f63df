"""Many requests over one connection to an MCP server: ids kept apart, answers and notifications brought home.

Used by upstreams that hold a connection (a stdio child, an in-process
session). Clients of one identity share a child and choose ids without knowing
of each other, so each request travels under an id of our own; its progress
token becomes the same number, and both are put back on the way home.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError, overloaded
from mcp_bridge.exchange import Exchange, Outbox, Session
from mcp_bridge.upstreams.rare import Rare

__all__ = ["Multiplex"]

logger = logging.getLogger(__name__)

_LISTEN = "subscriptions/listen"
_PATIENCE_S = 2.0
"""How long the connection is not read on while a caller has no room for a message of its request."""


@dataclass(slots=True)
class _Pending:
    exchange: Exchange
    answer: asyncio.Future[bytes]


class Multiplex:
    """One connection. `write` sends a message without waiting; `session` is None where requests are stateless.

    `own_words`: what comes is JSON of our own making, which needs no strict reading.
    """

    def __init__(
        self, server: str, write: Callable[[bytes], None], session: Session | None, *, own_words: bool = False
    ) -> None:
        self._read = wire.read_envelope if own_words else wire.read_answer
        self._server = server
        self._write = write
        self._session = session
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._failure: HopError | None = None
        self._log = Rare(logger, server=server)
        self.has_spoken = False
        self.last_used = time.monotonic()

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    async def request(self, exchange: Exchange) -> bytes:
        """Send a request and wait for its response; a cancel is passed on as `notifications/cancelled`."""
        if self._failure is not None:
            raise self._failure
        self._last_id += 1
        number = self._last_id
        pending = _Pending(exchange, asyncio.get_running_loop().create_future())
        self._pending[number] = pending
        self.last_used = time.monotonic()
        try:
            self._write(wire.request(exchange.call.method, b"%d" % number, _outgoing(exchange, number)))
            return await pending.answer
        except asyncio.CancelledError:
            self._cancel(number, exchange)
            raise
        except HopError as error:
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._cancel(number, exchange)
            raise
        finally:
            self._pending.pop(number, None)
            self.last_used = time.monotonic()

    def notify(self, method: str, params: bytes) -> None:
        if method != "notifications/cancelled":
            self._write(wire.notification(method, params))
            return
        for number, pending in list(self._pending.items()):
            if _names(params, pending.exchange.id_json):
                self._write(wire.notification(method, wire.with_params(params, {"requestId": b"%d" % number})))
                _settle(pending, HopError(grpc.StatusCode.CANCELLED, "the client cancelled this request"))

    def reply(self, message: bytes) -> None:
        self._write(message)

    async def received(self, message: bytes, related: int | None = None) -> None:
        """Take a message from the server; `related` is the request that it belongs to, where the connection says so.

        Read the connection on only after this: it waits for a caller who reads slowly, for a while.
        """
        try:
            envelope = self._read(message)
        except wire.NotJson:
            self.broken(message, message)
            return
        self.has_spoken = True
        if wire.is_response(envelope):
            self._answered(envelope)
        elif envelope.method and (id_json := bytes(envelope.id)):
            if id_json[:1] in b'"-0123456789':
                self._asked(envelope, message, related)
            else:
                self._log.event(logging.WARNING, "upstream_garbage", bytes=len(message))
        elif envelope.method:
            await self._notified(envelope, message, related)
        else:
            self.broken(message, message)

    def broken(self, head: bytes, tail: bytes, error: HopError | None = None) -> None:
        """Something that is no message came, starting and ending so: fail the request it answers, if it tells which."""
        number = _id_near_an_end(head, tail)
        self._log.event(logging.WARNING, "upstream_garbage", bytes=len(head))
        pending = self._pending.get(number) if number is not None else None
        if pending is None and len(self._pending) == 1 and head.lstrip()[:1] == b"{":
            pending = next(iter(self._pending.values()))
        if pending is not None:
            sentence = f"the MCP server {self._server} answered with something that is not JSON-RPC"
            _settle(pending, error or HopError(grpc.StatusCode.UNAVAILABLE, sentence))

    def fail(self, error: HopError, *, ends_session: bool = True) -> None:
        """The connection ended: every request in flight, and every later one, fails.

        Without `ends_session` the session goes on without this connection.
        """
        self._failure = error
        for pending in self._pending.values():
            _settle(pending, error)
        if self._session is not None and ends_session:
            self._session.queue.close()

    def _cancel(self, number: int, exchange: Exchange) -> None:
        """2025-11-25, "Cancellation": `initialize` must not be cancelled. Its session ends anyway."""
        if self._failure is None and not exchange.opens_session:
            self._write(
                wire.notification("notifications/cancelled", b'{"requestId":%d,"reason":"caller is gone"}' % number)
            )

    def _answered(self, envelope: wire.Envelope) -> None:
        pending = self._pending.get(_number(bytes(envelope.id)))
        if pending is None:
            self._log.event(logging.WARNING, "upstream_answered_unasked")
            return
        exchange = pending.exchange
        response = wire.response_with_id(envelope, exchange.id_json)
        if exchange.call.method == _LISTEN and bytes(envelope.result):
            body = _restamped(bytes(envelope.result), exchange.id_json)
            response = wire.result(exchange.id_json, body)
        if not pending.answer.done():
            pending.answer.set_result(response)

    def _asked(self, envelope: wire.Envelope, message: bytes, related: int | None) -> None:
        outbox = self._outbox_of(related) or (self._session.queue if self._session is not None else None)
        if outbox is None or not outbox.offer(message):
            sentence = "the client cannot be asked: it is not listening, or this protocol version has no such requests"
            self._write(wire.error(bytes(envelope.id), wire.METHOD_NOT_FOUND, sentence))

    async def _notified(self, envelope: wire.Envelope, message: bytes, related: int | None) -> None:
        params = bytes(envelope.params)
        if envelope.method == "notifications/progress":
            await self._progressed(params)
            return
        meta = wire.read_meta(params)
        if subscription := bytes(meta.subscription_id):
            pending = self._pending.get(_number(subscription))
            if pending is not None:
                restamped = _restamped(params, pending.exchange.id_json)
                await self._deliver(pending, wire.notification(envelope.method, restamped))
            return
        if (pending := self._pending.get(related or 0)) is not None and pending.exchange.outbox is not None:
            await self._deliver(pending, message)
        elif self._session is not None:
            self._session.queue.offer(message)
        elif (pending := self._asked_for_logs()) is not None:
            await self._deliver(pending, message)

    async def _progressed(self, params: bytes) -> None:
        try:
            members = wire.object_of(params)
            pending = self._pending.get(_number(bytes(members["progressToken"])))
        except (wire.NotJson, KeyError):
            return
        # Without a token of its own a request never asked for progress, whatever number the server guessed.
        if pending is not None and (token := bytes(pending.exchange.meta.progress_token)):
            restored = wire.with_params(params, {"progressToken": token})
            await self._deliver(pending, wire.notification("notifications/progress", restored))

    def _asked_for_logs(self) -> _Pending | None:
        """A stateless stdio connection does not say whose a log message is: the last that asked for logs gets it."""
        for pending in reversed(self._pending.values()):
            if pending.exchange.outbox is not None and bytes(pending.exchange.meta.log_level):
                return pending
        return None

    def _outbox_of(self, related: int | None) -> Outbox | None:
        pending = self._pending.get(related or 0)
        return pending.exchange.outbox if pending is not None else None

    async def _deliver(self, pending: _Pending, message: bytes) -> None:
        outbox = pending.exchange.outbox
        if outbox is None or pending.answer.done():
            return
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await outbox.put(message)
        except TimeoutError:
            outbox.overflowed = True
            _settle(pending, overloaded("the caller reads this request's messages too slowly"))


def _outgoing(exchange: Exchange, number: int) -> bytes:
    if not bytes(exchange.meta.progress_token):
        return exchange.params_json
    return wire.replace_meta(exchange.params_json, {wire.PROGRESS_TOKEN: b"%d" % number})


def _restamped(body: bytes, id_json: bytes) -> bytes:
    """A subscription is named by its request's id, which the server knows under our number."""
    try:
        return wire.replace_meta(body, {wire.SUBSCRIPTION_ID: id_json})
    except (wire.NotJson, KeyError):
        return body


def _settle(pending: _Pending, error: HopError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
        pending.answer.exception()  # a caller that is gone does not fetch it


def _names(params: bytes, id_json: bytes) -> bool:
    try:
        named = bytes(wire.object_of(params)["requestId"])
        return bool(msgspec.json.decode(named) == msgspec.json.decode(id_json) and named[:1] == id_json[:1])
    except (wire.NotJson, KeyError, msgspec.MsgspecError):
        return False


def _number(id_json: bytes) -> int:
    """Our number in an id that a server sent back; 0, which no request has, for any other."""
    return int(id_json) if id_json.isdigit() and len(id_json) < 20 else 0


def _id_near_an_end(head: bytes, tail: bytes) -> int | None:
    """Servers write the id first or last: look there only, since values in between may hold anything."""
    start = head[:64].replace(b" ", b"").removeprefix(b'{"jsonrpc":"2.0",')
    if start.startswith((b'"id":', b'{"id":')):
        digits = start.partition(b":")[2].partition(b",")[0]
        return _number(digits) or None
    end = tail[-64:].replace(b" ", b"").rstrip().removesuffix(b',"jsonrpc":"2.0"}').removesuffix(b"}")
    return _number(end.rpartition(b'"id":')[2]) or None
