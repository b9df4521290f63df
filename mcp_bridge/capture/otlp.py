"""One OpenTelemetry span for each MCP request, sent by OTLP in a thread of its own where an endpoint is set.

Names follow the semantic conventions for MCP and generative AI (development
status, 2026). Nothing of a message's content is in a span. Spans that find no
room or no collector are dropped: requests never wait.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from mcp_bridge.capture import otlp_logs
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import InteractionRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["OtlpSpans", "exporting"]

logger = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CLOSE_S: Final = 0.8
_EXPORT_S: Final = 5
_FAILED: Final = frozenset({"tool_error", "mcp_error", "refused", "failed", "cancelled"})


@asynccontextmanager
async def exporting(endpoint: str, node_id: str) -> AsyncIterator["OtlpSpans | None"]:
    """Spans for `endpoint`, else for the one the standard variables name; None without any.

    Raises `UserError` where OpenTelemetry is not installed.
    """
    if not endpoint and not any(os.environ.get(name) for name in _ENDPOINTS):
        yield None
        return
    spans = await asyncio.to_thread(OtlpSpans, endpoint, node_id)
    try:
        yield spans
    finally:
        await spans.close()


class OtlpSpans:
    """See `mcp_bridge.recording.Spans`."""

    def __init__(self, endpoint: str, node_id: str, *, delay_s: float = 1.0) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError:
            raise UserError("otlp_endpoint needs OpenTelemetry: install secure-mcp-grpc with the extra otel") from None
        otlp_logs.as_events()
        self._span = ReadableSpan
        self._scope = InstrumentationScope("secure-mcp-grpc")
        self._resource = Resource.create({"service.name": "mcp_bridge", "service.instance.id": node_id})
        exporter = OTLPSpanExporter(endpoint=endpoint or None, timeout=_EXPORT_S)
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=delay_s * 1000)
        logs.event(logger, logging.INFO, "spans_exported", to=endpoint or "the standard variables' endpoint")

    def ended(self, record: InteractionRecord, started_ns: int, ended_ns: int, request_id: str, flags: str) -> None:
        """Hand over the span of one request; what was not sampled upstream (W3C flags) is not sent."""
        try:
            self._processor.on_end(self._span_of(record, started_ns, ended_ns, request_id, flags))
        except Exception:  # noqa: BLE001 - somebody else's code; a span is not worth a record
            logs.event(logger, logging.WARNING, "span_lost")

    async def close(self) -> None:
        """Send what is left, within a second; a collector that is away is not waited for."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):  # the loop ended before
                loop.call_soon_threadsafe(closed.set)

        # Not a thread of the loop's pool: the end of the process would wait for that.
        threading.Thread(target=stop, name="spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await closed.wait()

    def _span_of(
        self, record: InteractionRecord, started_ns: int, ended_ns: int, request_id: str, flags: str
    ) -> "ReadableSpan":
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        context = SpanContext(
            int(record.trace_id, 16), int(record.span_id, 16), is_remote=False, trace_flags=TraceFlags(int(flags, 16))
        )
        parent = None
        if record.parent_span_id:
            parent = SpanContext(context.trace_id, int(record.parent_span_id, 16), is_remote=True)
        target = record.tool if record.method in ("tools/call", "prompts/get") else ""
        return self._span(
            name=f"{record.method or record.rpc} {target}".strip(),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes(record, request_id),
            kind=SpanKind.SERVER,
            instrumentation_scope=self._scope,
            status=Status(StatusCode.ERROR if record.outcome in _FAILED else StatusCode.UNSET),
            start_time=started_ns,
            end_time=ended_ns,
        )


def attributes(record: InteractionRecord, request_id: str) -> dict[str, Any]:
    """Semantic conventions for MCP: span attributes of a server; absent ones are left out."""
    named: dict[str, Any] = {
        "mcp.method.name": record.method,
        "mcp.protocol.version": record.protocol_version,
        "mcp.session.id": record.session_id,
        "jsonrpc.request.id": request_id.strip('"'),
        "network.transport": "unix",
        "network.protocol.name": "grpc",
        "enduser.id": record.identity,
        "secure_mcp.server": record.server,
        "secure_mcp.request_id": record.request_id,
        "secure_mcp.correlation_id": record.correlation_id,
        "secure_mcp.outcome": record.outcome,
    }
    if record.method == "tools/call":
        named |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": record.tool}
    elif record.method == "prompts/get":
        named["gen_ai.prompt.name"] = record.tool
    elif record.method.startswith("resources/"):
        named["mcp.resource.uri"] = record.resources[0] if record.resources else ""
    if record.error_code:
        named["rpc.response.status_code"] = str(record.error_code)
    if record.outcome in _FAILED:
        named["error.type"] = str(record.error_code) if record.error_code else record.outcome
    if record.tokens_source == "reported":
        named |= {"gen_ai.usage.input_tokens": record.tokens_in, "gen_ai.usage.output_tokens": record.tokens_out}
    return {name: value for name, value in named.items() if value != ""}
