"""One record for each MCP message the bridge executed or refused to: for the sink, the metrics and the spans."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import grpc
import msgspec

from mcp_bridge import wire
from mcp_bridge.capture.capture import Capture, Captured, Message
from mcp_bridge.capture.trace import Trace, entered, read, write_meta
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Caller, Exchange
from mcp_bridge.metrics import BridgeMetrics
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.records import InteractionRecord, timestamp

__all__ = ["ENDED_BY", "Recorder", "Spans", "Visit"]

logger = logging.getLogger(__name__)

_REFUSED = frozenset(
    {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT}
)

_NO_META = wire.Meta()
_LABELS = 1024

ENDED_BY: Final[ContextVar[Callable[[], HopError | None] | None]] = ContextVar("ended_by", default=None)
"""Whoever may cancel what runs in this context tells here why it did; otherwise it passes for the client's cancel."""


@dataclass(slots=True)
class Visit:
    """One message from its arrival to its record."""

    rpc: str
    caller: Caller
    request_bytes: int
    started_ns: int
    call: McpCall | None = None
    session_id: str = ""
    server: str = ""
    upstream_from: float = 0.0
    upstream_s: float = 0.0
    streamed: int = 0
    finding: str = ""
    params: bytes = b""
    """As they came; of a reply the whole response."""
    id_json: bytes = b""
    trace: Trace | None = None


class Spans(Protocol):
    """Where finished spans go; must neither block nor raise."""

    def ended(self, record: InteractionRecord, started_ns: int, ended_ns: int, request_id: str, flags: str) -> None: ...


class Recorder:
    """`offer` takes a record's time and JSON (see `AlsSender.offer`)."""

    def __init__(
        self,
        offer: Callable[[int, bytes], bool],
        metrics: BridgeMetrics,
        capture: Capture,
        *,
        spans: Spans | None = None,
        tells_upstream: bool = True,
    ) -> None:
        """`tells_upstream`: whether requests to upstreams carry their trace in `_meta`."""
        self._offer = offer
        self._metrics = metrics
        # Finding the counter of its labels costs more than counting.
        self._requests = lru_cache(_LABELS)(metrics.requests.labels)
        self._upstream_seconds = lru_cache(_LABELS)(metrics.upstream_seconds.labels)
        self._tokens = lru_cache(_LABELS)(metrics.tokens.labels)
        self._capture = capture
        self._spans = spans
        self._tells_upstream = tells_upstream

    def arrive(self, rpc: str, caller: Caller, request_bytes: int) -> Visit:
        return Visit(rpc, caller, request_bytes, time.time_ns())

    def join(self, visit: Visit, exchange: Exchange) -> Trace:
        """Give an admitted request its place in its chain: a span below the one it came with, told to the upstream."""
        visit.params, visit.id_json = exchange.params_json, exchange.id_json
        visit.trace = span = _span(visit.caller, exchange.meta)
        if self._tells_upstream:
            exchange.trace = span
            exchange.params_json = write_meta(exchange.params_json, span)
        return span

    def leave(self, visit: Visit, answer: bytes | HopError | None) -> None:
        """Record how `visit` ended: with a response, a refusal or failure, or cancelled (None).

        The work is done after the answer is on its way.
        """
        if answer is None and (why := ENDED_BY.get()) is not None:
            answer = why()
        # Two turns of the loop: what ends in this one is told to whoever writes the answer in the next one.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._record, visit, answer, time.time_ns())

    def _record(self, visit: Visit, answer: bytes | HopError | None, ended_ns: int) -> None:
        summary = _summary(visit, answer)
        method = self._metrics.method_class(visit.call.method if visit.call else "")
        self._requests(visit.rpc, method, summary.outcome).inc()
        if visit.upstream_s:
            self._upstream_seconds(visit.server, method).observe(visit.upstream_s)
        if visit.streamed:
            self._metrics.streamed.inc(visit.streamed)
        span = visit.trace or _span(visit.caller, _NO_META)
        record = self._write(visit, span, summary, answer, (ended_ns - visit.started_ns) // 1000)
        if record.tokens_source:
            self._tokens("in", record.tokens_source).inc(record.tokens_in)
            self._tokens("out", record.tokens_source).inc(record.tokens_out)
        if self._spans is not None:
            request_id = self._capture.name(visit.id_json.decode("utf-8", "replace"))
            self._spans.ended(record, visit.started_ns, ended_ns, request_id, span.flags)
        if not self._offer(visit.started_ns, msgspec.json.encode(record)):
            logs.event(logger, logging.WARNING, "record_lost", request_id=visit.caller.request_id)

    def _write(
        self, visit: Visit, span: Trace, summary: wire.Summary, answer: bytes | HopError | None, duration_us: int
    ) -> InteractionRecord:
        caller, call = visit.caller, visit.call
        captured = self._captured(Message(call, visit.params, visit.server, span.trace_id, answer))
        return InteractionRecord(
            ts=timestamp(visit.started_ns // 1000),
            request_id=caller.request_id,
            chain=caller.chain,
            seq=caller.seq,
            identity=caller.subject,
            user=caller.user,
            server=visit.server,
            rpc=visit.rpc,
            method=call.method if call else "",
            tool=self._capture.name(call.name) if call else "",
            session_id=visit.session_id,
            protocol_version=call.protocol_version if call else "",
            outcome=summary.outcome,
            error_code=summary.error_code,
            grpc_status=_grpc_status(answer),
            reason=answer.reason if isinstance(answer, HopError) else "",
            duration_us=max(0, duration_us),
            upstream_us=round(visit.upstream_s * 1e6),
            request_bytes=visit.request_bytes,
            response_bytes=len(answer) if isinstance(answer, bytes) else 0,
            notifications=visit.streamed,
            finding=visit.finding,
            arguments=captured.arguments,
            request=captured.request,
            response=captured.response,
            payload_encoding=captured.payload_encoding,
            trace_id=span.trace_id,
            span_id=span.span_id,
            parent_span_id=span.parent_span_id,
            correlation_id=span.correlation_id,
            hops=span.hops,
            resources=captured.resources,
            digests_in=captured.digests_in,
            digests_out=captured.digests_out,
            tokens_in=captured.tokens_in,
            tokens_out=captured.tokens_out,
            tokens_source=captured.tokens_source,
        )

    def _captured(self, message: Message) -> Captured:
        try:
            return self._capture.of(message)
        except Exception:  # noqa: BLE001 - whatever a payload holds, that the message came and went is recorded
            logs.event(logger, logging.ERROR, "capture_failed")
            return Captured()


def _span(caller: Caller, meta: wire.Meta) -> Trace:
    """What the message itself says goes before the headers, which a proxy on the way may have added."""
    chosen = meta.correlation_id if meta.correlation_id is not None else caller.correlation_id
    above = read(meta.traceparent, meta.tracestate, chosen) or read(caller.traceparent, caller.tracestate, chosen)
    return entered(above, chosen)


def _summary(visit: Visit, answer: bytes | HopError | None) -> wire.Summary:
    if answer is None:
        return wire.Summary("cancelled")
    if isinstance(answer, bytes):
        return wire.outcome_of(visit.call.method if visit.call else "", answer) if answer else wire.Summary("ok")
    if answer.code is grpc.StatusCode.CANCELLED:
        return wire.Summary("cancelled")
    if answer.code is grpc.StatusCode.UNAVAILABLE:
        return wire.Summary("failed")
    return wire.Summary("refused" if answer.reason or answer.code in _REFUSED else "failed")


def _grpc_status(answer: bytes | HopError | None) -> int:
    if isinstance(answer, bytes):
        return 0
    code = grpc.StatusCode.CANCELLED if answer is None else answer.code
    number: int = code.value[0]
    return number
