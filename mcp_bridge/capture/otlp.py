"""One OpenTelemetry span for each MCP request, sent by OTLP over gRPC where an endpoint is set.

Names follow the semantic conventions for MCP and generative AI (development
status, 2026). Nothing of a message's content is in a span. Spans that find no
room or no collector are dropped: requests never wait.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import grpc

from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import InteractionRecord
from secure_mcp_grpc.v1 import otlp_trace_pb2 as pb

__all__ = ["OtlpSpans", "attributes", "exporting", "headers_of"]

logger = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_CERTIFICATE: Final = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_MAX_WAITING: Final = 2048
_MAX_BATCH: Final = 512
_EXPORT_S: Final = 5.0
_CLOSE_S: Final = 0.8
_TOLD_EVERY_S: Final = 10.0
_FAILED: Final = frozenset({"tool_error", "mcp_error", "refused", "failed", "cancelled"})
_AGAIN: Final = frozenset(
    {
        *(grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        *(grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNAVAILABLE),
        grpc.StatusCode.DATA_LOSS,
    }
)
"""OTLP 1.x, "OTLP/gRPC Response": statuses after which a client may try again."""


@asynccontextmanager
async def exporting(
    endpoint: str, node_id: str, environ: Mapping[str, str] = os.environ
) -> AsyncIterator["OtlpSpans | None"]:
    """Spans for `endpoint`, else for the one the standard variables name; None without any.

    Raises `UserError` for an endpoint, headers or a certificate that cannot be used.
    """
    endpoint = endpoint or _first(environ, _ENDPOINTS)
    if not endpoint:
        yield None
        return
    spans = OtlpSpans(_channel(endpoint, environ), node_id, headers_of(_first(environ, _HEADERS)))
    logs.event(logger, logging.INFO, "spans_exported", to=endpoint)
    try:
        yield spans
    finally:
        await spans.close()


class OtlpSpans:
    """See `mcp_bridge.recording.Spans`. At most 2048 spans wait; `clock` counts seconds."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        node_id: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        delay_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._headers = headers
        self._delay_s = delay_s
        self._clock = clock
        resource = {"service.name": "mcp_bridge", "service.instance.id": node_id}
        self._resource = pb.SpanResource(attributes=_pairs(resource))
        self._export = channel.unary_unary(
            _EXPORT, pb.ExportTraceServiceRequest.SerializeToString, pb.ExportTraceServiceResponse.FromString
        )
        self._waiting: deque[pb.Span] = deque()
        self._dropped = 0
        self._told_at = float("-inf")
        self._closing = asyncio.Event()
        self._sending = asyncio.create_task(self._run(), name="spans")

    def ended(self, record: InteractionRecord, started_ns: int, ended_ns: int, request_id: str, flags: str) -> None:
        """Hand over the span of one request; what was not sampled upstream (W3C flags) is not sent."""
        if not int(flags, 16) & 1:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(_span(record, started_ns, ended_ns, request_id, int(flags, 16)))

    async def close(self) -> None:
        """Send what is left, within a second; a collector that is away is not waited for."""
        self._closing.set()
        await asyncio.wait([self._sending], timeout=_CLOSE_S)
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await self._channel.close(None)

    async def _run(self) -> None:
        while not self._closing.is_set() or self._waiting:
            if not await self._send() and self._closing.is_set():
                return
            if len(self._waiting) < _MAX_BATCH:
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._delay_s):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _send(self) -> bool:
        """The next batch, which stays where it is after a failure that may pass. Whether that went well."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]
        if not batch:
            return True
        spans = pb.ScopeSpans(scope=pb.SpanScope(name="secure-mcp-grpc"), spans=batch)
        request = pb.ExportTraceServiceRequest(
            resource_spans=[pb.ResourceSpans(resource=self._resource, scope_spans=[spans])]
        )
        try:
            await self._export(request, metadata=self._headers, timeout=_EXPORT_S)
        except grpc.aio.AioRpcError as error:
            tries_again = error.code() in _AGAIN
            if tries_again:
                self._waiting.extendleft(reversed(batch))
            else:
                self._dropped += len(batch)
            self._tell(error.code(), tries_again=tries_again)
            return False
        return True

    def _tell(self, status: grpc.StatusCode, *, tries_again: bool) -> None:
        """Once in ten seconds: a collector that is away would fill the log. Its own sentences are not written."""
        if self._clock() - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = self._clock()
        logs.event(
            logger,
            logging.WARNING,
            "otlp_export_failed",
            status=status.name,
            tries_again=tries_again,
            dropped=self._dropped,
        )


def headers_of(text: str) -> tuple[tuple[str, str], ...]:
    """`OTEL_EXPORTER_OTLP_HEADERS`: `name=value` pairs, comma-separated, values percent-encoded. Raises `UserError`."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise UserError(f"{_HEADERS[1]} must be name=value pairs, comma-separated")
    return tuple((name.strip().lower(), unquote(value.strip())) for name, _, value in pairs)


def _channel(endpoint: str, environ: Mapping[str, str]) -> grpc.aio.Channel:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise UserError(f"the OTLP endpoint must be like http://collector:4317, not {endpoint!r}")
    target = url.netloc if url.port else f"{url.netloc}:4317"
    if url.scheme == "http":
        return grpc.aio.insecure_channel(target)
    path = _first(environ, _CERTIFICATE)
    try:
        roots = Path(path).read_bytes() if path else None
    except OSError as error:
        raise UserError(f"{_CERTIFICATE[1]} {path} cannot be read: {error.strerror}") from None
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(roots))


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name))), "")


def _span(record: InteractionRecord, started_ns: int, ended_ns: int, request_id: str, flags: int) -> pb.Span:
    target = record.tool if record.method in ("tools/call", "prompts/get") else ""
    failed = record.outcome in _FAILED
    return pb.Span(
        trace_id=bytes.fromhex(record.trace_id),
        span_id=bytes.fromhex(record.span_id),
        parent_span_id=bytes.fromhex(record.parent_span_id),
        name=f"{record.method or record.rpc} {target}".strip(),
        kind=pb.SPAN_KIND_SERVER,
        start_time_unix_nano=started_ns,
        end_time_unix_nano=ended_ns,
        attributes=_pairs(attributes(record, request_id)),
        status=pb.SpanStatus(code=pb.STATUS_CODE_ERROR if failed else pb.STATUS_CODE_UNSET),
        flags=flags,
    )


def _pairs(values: Mapping[str, Any]) -> list[pb.KeyValue]:
    return [
        pb.KeyValue(key=key, value=pb.AnyValue(int_value=value) if isinstance(value, int) else _text(value))
        for key, value in values.items()
    ]


def _text(value: str) -> pb.AnyValue:
    return pb.AnyValue(string_value=value.encode("utf-8", "replace").decode())


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
