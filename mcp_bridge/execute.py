"""From an authorized message to an upstream and back: what every RPC of both gRPC services goes through.

Nothing is executed but what authz_service authorized: the call is read from
the message itself and must equal `x-mcp-target`. Outcomes are values, an
answer or a `HopError`; only a cancel is raised.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from mcp_bridge import wire
from mcp_bridge.capture import trace
from mcp_bridge.errors import HopError, malformed, session_unknown, timed_out, too_large
from mcp_bridge.exchange import Caller, Exchange, Note, Outbox, Session, Upstream
from mcp_bridge.guards import Guard, chained
from mcp_bridge.recording import Recorder, Visit
from mcp_bridge.sessions import Sessions, using
from secure_mcp_grpc import headers, logs
from secure_mcp_grpc.calls import Malformed, McpCall

__all__ = ["Executor", "caller_of"]

logger = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]
Read = Callable[[], Exchange]

_READ = frozenset(
    {
        *(headers.SUBJECT, headers.USER, headers.USER_ROLES, headers.DECISION, headers.REQUEST_ID),
        *(trace.TRACEPARENT, trace.TRACESTATE, trace.CORRELATION),
    }
)
_ENDLESS = frozenset({"subscriptions/listen"})
_BUG = HopError(grpc.StatusCode.INTERNAL, "the bridge failed; its log says more")
_NO_SESSION = "no session: send initialize first, or state io.modelcontextprotocol/protocolVersion in _meta"


def caller_of(metadata: Any) -> Caller:
    """The sender as the headers of Envoy and authz_service tell it."""
    values: dict[str, str] = {}
    targets: list[str] = []
    for key, value in metadata or ():
        if key == headers.TARGET:
            targets.append(str(value))
        elif key in _READ:
            values[key] = str(value)
    chain, _, seq = values.get(headers.DECISION, "").rpartition(":")
    return Caller(
        subject=headers.decode_value(values.get(headers.SUBJECT, "")),
        user=headers.decode_value(values.get(headers.USER, "")),
        user_roles=headers.decode_list(values.get(headers.USER_ROLES, "")),
        request_id=values.get(headers.REQUEST_ID, ""),
        chain=chain,
        seq=int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 19 else 0,
        targets=tuple(targets),
        traceparent=values.get(trace.TRACEPARENT, ""),
        tracestate=values.get(trace.TRACESTATE, ""),
        correlation_id=values.get(trace.CORRELATION, ""),
    )


class Executor:
    def __init__(
        self,
        upstream: Upstream,
        sessions: Sessions,
        recorder: Recorder,
        guards: Sequence[Guard],
        *,
        request_timeout_s: float,
        max_answer_bytes: int,
    ) -> None:
        self.upstream = upstream
        self._sessions = sessions
        self._recorder = recorder
        self._guards = guards
        self._request_timeout_s = request_timeout_s
        self.max_answer_bytes = max_answer_bytes
        self._endless: set[Outbox] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self.in_flight = 0

    def outbox(self) -> Outbox:
        return Outbox(self.max_answer_bytes)

    async def request(
        self, rpc: str, metadata: Any, size: int, read: Read, outbox: Outbox | None = None
    ) -> tuple[bytes | HopError, Visit, Session | None]:
        """Execute the request that `read` finds in a message of `size` bytes; the session is the one it opened."""
        visit = self._recorder.arrive(rpc, caller_of(metadata), size)
        opened: Session | None = None
        answer: bytes | HopError | None = None
        self.in_flight += 1
        try:
            exchange = self._admit(visit, read)
            exchange.outbox = outbox
            opened = exchange.session if exchange.opens_session else None
            span = self._recorder.join(visit, exchange)
            with trace.within(None if opened else span):  # a session outlives the request that opened it
                answer = await self._ask(exchange, visit)
        except HopError as error:
            answer = error
        except Exception:  # noqa: BLE001 - top of the servicer: a bug becomes a refusal
            logs.event(logger, logging.ERROR, "request_failed", rpc=rpc)
            answer = _BUG
        finally:
            self.in_flight -= 1
            visit.streamed = outbox.taken if outbox is not None else 0
            self._recorder.leave(visit, answer)
            if opened is not None and not _opened(answer):
                await asyncio.shield(self._end(opened))
                opened = None
        return answer, visit, opened

    async def notify(
        self, metadata: Any, size: int, read: Callable[[], tuple[McpCall, bytes]], rpc: str = "Notify"
    ) -> HopError | None:
        async def work(visit: Visit) -> None:
            call, params = read()
            visit.params = params
            session = self._authorize(visit, call)
            note = Note(call.method, params, visit.caller.owner, session)
            with using(session):
                await self._timed(visit, self.upstream.notify(note), endless=False)

        return await self._simple(rpc, metadata, size, work)

    async def reply(
        self, metadata: Any, size: int, read: Callable[[], tuple[McpCall, bytes]], rpc: str = "Reply"
    ) -> HopError | None:
        """Pass on a response. Rebuilt from its parts, so that no request can travel as a reply."""

        async def work(visit: Visit) -> None:
            call, message = read()
            visit.params = message
            session = self._authorize(visit, call)
            if session is None:
                raise session_unknown()
            try:
                envelope = wire.read_envelope(message)
            except wire.NotJson:
                raise malformed("message_json is not JSON-RPC") from None
            if not wire.is_response(envelope) or not bytes(envelope.id):
                raise malformed("message_json must be a JSON-RPC response with an id")
            response = wire.response_with_id(envelope, bytes(envelope.id))
            await self._timed(visit, self.upstream.reply(session, response), endless=False)

        return await self._simple(rpc, metadata, size, work)

    def record(self, rpc: str, metadata: Any, size: int, call: McpCall | None, outcome: bytes | HopError) -> None:
        """Record a message that was refused, or that its servicer dealt with itself."""
        visit = self._recorder.arrive(rpc, caller_of(metadata), size)
        if call is not None:
            visit.call, visit.session_id = call, call.session_id
        self._recorder.leave(visit, outcome)

    async def end_session(self, metadata: Any, size: int, read: Callable[[], McpCall]) -> HopError | None:
        async def work(visit: Visit) -> None:
            session = self._authorize(visit, read())
            if session is not None:
                await self._end(session)

        return await self._simple("EndSession", metadata, size, work)

    async def listen(self, metadata: Any, size: int, read: Callable[[], McpCall]) -> AsyncIterator[bytes]:
        """What a session's server says outside of requests, until the session ends. One listener at a time.

        Raises `HopError`.
        """
        visit = self._recorder.arrive("Listen", caller_of(metadata), size)
        answer: bytes | HopError | None = None
        try:
            session = self._authorize(visit, read())
            if session is None:
                raise session_unknown()
            if session.listening:
                raise HopError(grpc.StatusCode.ALREADY_EXISTS, "somebody listens to this session already")
            session.listening = True
            try:
                with using(session):
                    while (message := await session.queue.get()) is not None:
                        visit.streamed += 1
                        yield message
            finally:
                session.listening = False
            answer = b""
        except HopError as error:
            answer = error
            raise
        except Malformed as error:
            answer = malformed(str(error))
            raise answer from None
        finally:
            self._recorder.leave(visit, answer)

    async def reap(self, idle_s: float) -> None:
        for session in self._sessions.idle(idle_s):
            await self._end(session)
        await self.upstream.reap(idle_s)

    def stop_streams(self) -> None:
        """End what would never end by itself, so that the drain can."""
        for session in self._sessions.all():
            session.queue.close()
        for outbox in self._endless:
            outbox.close()

    async def _ask(self, exchange: Exchange, visit: Visit) -> bytes:
        if exchange.session is None and not exchange.meta.is_modern:
            return wire.error(exchange.id_json, wire.INVALID_REQUEST, _NO_SESSION)
        endless = exchange.call.method in _ENDLESS
        if endless and exchange.outbox is not None:
            self._endless.add(exchange.outbox)

        async def ask(one: Exchange) -> bytes:
            try:
                answer: bytes = await self._timed(visit, self.upstream.request(one), endless=endless)
            finally:
                visit.server = one.server
            self._check_size(answer)
            return answer

        try:
            with using(exchange.session):
                answer = await chained(self._guards, visit.caller, ask)(exchange)
        finally:
            visit.finding = exchange.finding
            visit.server = exchange.server or visit.server  # a guard's own list has another
            if endless and exchange.outbox is not None:
                self._endless.discard(exchange.outbox)
        self._check_size(answer)
        return answer

    def _check_size(self, answer: bytes) -> None:
        if len(answer) > self.max_answer_bytes:
            raise too_large("the answer", self.max_answer_bytes)

    async def _timed(self, visit: Visit, work: Any, *, endless: bool) -> Any:
        visit.upstream_from = time.perf_counter()
        try:
            async with asyncio.timeout(None if endless else self._request_timeout_s):
                return await work
        except TimeoutError:
            raise timed_out(f"no answer from the MCP server within {self._request_timeout_s:g} s") from None
        finally:
            visit.upstream_s = time.perf_counter() - visit.upstream_from

    async def _simple(self, rpc: str, metadata: Any, size: int, work: Callable[[Visit], Any]) -> HopError | None:
        """For RPCs whose answer is only that it was done."""
        visit = self._recorder.arrive(rpc, caller_of(metadata), size)
        answer: bytes | HopError | None = None
        try:
            await work(visit)
            answer = b""
        except HopError as error:
            answer = error
        except Malformed as error:
            answer = malformed(str(error))
        except Exception:  # noqa: BLE001 - top of the servicer: a bug becomes a refusal
            logs.event(logger, logging.ERROR, "request_failed", rpc=rpc)
            answer = _BUG
        finally:
            self._recorder.leave(visit, answer)
        return answer if isinstance(answer, HopError) else None

    def _admit(self, visit: Visit, read: Read) -> Exchange:
        """Read, compare with what was authorized, find the session: in this order."""
        try:
            exchange = read()
        except Malformed as error:
            raise malformed(str(error)) from None
        exchange.owner = visit.caller.owner
        exchange.session = self._authorize(visit, exchange.call)
        if exchange.session is None and exchange.call.method == "initialize":
            exchange.session = self._sessions.open(visit.caller.owner)
            self._end_crowded_out()
            exchange.opens_session = True
            visit.session_id = exchange.session.id
        return exchange

    def _authorize(self, visit: Visit, call: McpCall) -> Session | None:
        visit.call = call
        visit.session_id = call.session_id
        if visit.caller.targets != (call.target,):
            logs.event(logger, logging.WARNING, "not_what_was_authorized", request_id=visit.caller.request_id)
            raise HopError(grpc.StatusCode.PERMISSION_DENIED, "this is not what was authorized")
        return self._sessions.find(call.session_id, visit.caller.owner) if call.session_id else None

    def _end_crowded_out(self) -> None:
        for session in self._sessions.crowded_out:
            ending = asyncio.create_task(self._end(session), name="end session")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._sessions.crowded_out.clear()

    async def _end(self, session: Session) -> None:
        self._sessions.drop(session)
        try:
            await self.upstream.end_session(session)
        except HopError:
            logs.event(logger, logging.INFO, "session_end_failed")


def _opened(answer: bytes | HopError | None) -> bool:
    return isinstance(answer, bytes) and wire.outcome_of("initialize", answer).outcome == "ok"
