"""One record for each MCP message the bridge executed or refused to: for the sink, and for the metrics."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Caller
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.sanitize import sanitized
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.records import InteractionRecord, timestamp

__all__ = ["Recorder", "Visit"]

logger = logging.getLogger(__name__)

_REFUSED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT})


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


class Recorder:
    """`offer` takes a record's time and JSON (see `AlsSender.offer`)."""

    def __init__(self, offer: Callable[[int, bytes], bool], metrics: BridgeMetrics, max_argument_bytes: int) -> None:
        self._offer = offer
        self._metrics = metrics
        self._max_argument_bytes = max_argument_bytes

    def arrive(self, rpc: str, caller: Caller, request_bytes: int) -> Visit:
        return Visit(rpc, caller, request_bytes, time.time_ns())

    def leave(self, visit: Visit, answer: bytes | HopError | None) -> None:
        """Record how `visit` ended: with a response, a refusal or failure, or cancelled (None).

        The work is done after the answer is on its way.
        """
        asyncio.get_running_loop().call_soon(self._record, visit, answer)

    def _record(self, visit: Visit, answer: bytes | HopError | None) -> None:
        summary = _summary(visit, answer)
        method = self._metrics.method_class(visit.call.method if visit.call else "")
        self._metrics.requests.labels(visit.rpc, method, summary.outcome).inc()
        if visit.upstream_s:
            self._metrics.upstream_seconds.labels(visit.server, method).observe(visit.upstream_s)
        if visit.streamed:
            self._metrics.streamed.inc(visit.streamed)
        record = self._write(visit, summary, len(answer) if isinstance(answer, bytes) else 0)
        if not self._offer(visit.started_ns, record):
            logs.event(logger, logging.WARNING, "record_lost", request_id=visit.caller.request_id)

    def _write(self, visit: Visit, summary: wire.Summary, response_bytes: int) -> bytes:
        caller, call = visit.caller, visit.call
        record = InteractionRecord(
            ts=timestamp(visit.started_ns // 1000),
            request_id=caller.request_id,
            chain=caller.chain,
            seq=caller.seq,
            identity=caller.subject,
            user=caller.user,
            server=visit.server,
            rpc=visit.rpc,
            method=call.method if call else "",
            tool=call.name if call else "",
            session_id=visit.session_id,
            protocol_version=call.protocol_version if call else "",
            outcome=summary.outcome,
            error_code=summary.error_code,
            upstream_us=round(visit.upstream_s * 1e6),
            request_bytes=visit.request_bytes,
            response_bytes=response_bytes,
            notifications=visit.streamed,
            finding=visit.finding,
            arguments=sanitized(call.arguments, self._max_argument_bytes) if call else "",
        )
        return msgspec.json.encode(record)


def _summary(visit: Visit, answer: bytes | HopError | None) -> wire.Summary:
    if answer is None:
        return wire.Summary("cancelled")
    if isinstance(answer, bytes):
        return wire.outcome_of(visit.call.method if visit.call else "", answer) if answer else wire.Summary("ok")
    if answer.code is grpc.StatusCode.CANCELLED:
        return wire.Summary("cancelled")
    return wire.Summary("refused" if answer.code in _REFUSED else "failed")
