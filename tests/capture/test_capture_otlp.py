"""Spans by OTLP: to a real gRPC collector, and to none."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from bridge_harness import serving
from capture_servers import answering
from mcp import Client
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb

from mcp_bridge.capture.otlp import OtlpSpans, exporting, headers_of
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import InteractionRecord


class Collector:
    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.came = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:
        for of_resource in request.resource_spans:
            self.resources.append(of_resource.resource)
            # xds-protos has an OTLP of its own, which calls the same field by the name that it had before 1.0.
            of_scopes = getattr(of_resource, "scope_spans", None) or of_resource.instrumentation_library_spans
            for of_scope in of_scopes:
                self.spans += of_scope.spans
        self.came.set()
        return pb.ExportTraceServiceResponse()


def serve(server: grpc.aio.Server, export: Any) -> None:
    """TraceService of OTLP, read by the messages of xds-protos, which are not ours."""
    handler = grpc.unary_unary_rpc_method_handler(
        export, pb.ExportTraceServiceRequest.FromString, pb.ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    server = grpc.aio.server()
    collector = Collector()
    serve(server, collector.Export)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _attributes(span: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


async def test_each_request_is_one_span_without_its_content() -> None:
    """Issue 4: OpenTelemetry spans by OTLP, with the names of the semantic conventions for MCP."""
    async with (
        collecting() as (collector, endpoint),
        exporting(endpoint, "pod-1") as spans,
        serving(InProcessUpstream("b", answering()), spans=spans) as bridge,
    ):
        async with Client(bridge.transport("model-a")) as client:
            await client.call_tool("keep", {"text": "never in a span"})
            await client.call_tool("none", {})
        async with asyncio.timeout(10):
            while sum(span.name.startswith("tools/call") for span in collector.spans) < 2:
                collector.came.clear()
                await collector.came.wait()
    record = next(record for record in bridge.records if record.tool == "keep")
    span = next(span for span in collector.spans if span.name == "tools/call keep")
    failed = next(span for span in collector.spans if span.name == "tools/call none")
    named = _attributes(span)

    assert span.kind == span.SPAN_KIND_SERVER
    assert (span.trace_id.hex(), span.span_id.hex()) == (record.trace_id, record.span_id)
    assert span.parent_span_id.hex() == record.parent_span_id
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 10**10
    assert (named["mcp.method.name"], named["gen_ai.tool.name"]) == ("tools/call", "keep")
    assert (named["gen_ai.operation.name"], named["mcp.protocol.version"]) == ("execute_tool", "2026-07-28")
    assert "error.type" not in named
    assert "error.type" in _attributes(failed)
    assert failed.status.code == 2
    assert "never in a span" not in str(collector.spans)
    assert {one.key for one in collector.resources[0].attributes} >= {"service.name", "service.instance.id"}


class Refusing:
    async def Export(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "forged\nline")


async def test_failed_export_is_an_event_with_a_status(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: logs are events with fields; the collector's sentences are none. What it does not take is not kept."""
    server = grpc.aio.server()
    serve(server, Refusing().Export)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            exporting(f"http://127.0.0.1:{port}", "pod-1") as spans,
            serving(InProcessUpstream("b", answering()), spans=spans) as bridge,
            Client(bridge.transport("model-a")) as client,
        ):
            await client.call_tool("keep", {"text": "x"})
            async with asyncio.timeout(10):
                while not (said := [one for one in caplog.records if one.msg == "otlp_export_failed"]):
                    await asyncio.sleep(0.02)
    finally:
        await server.stop(0)
    fields = said[0].fields  # type: ignore[attr-defined]
    assert (fields["status"], fields["tries_again"]) == ("PERMISSION_DENIED", False)
    assert fields["dropped"] > 0
    assert "forged" not in caplog.text


async def test_spans_wait_for_a_collector_up_to_a_bound_and_are_told_rarely(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a collector that is away for a day costs bounded memory and does not fill the log."""
    now = [100.0]
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    spans = OtlpSpans(channel, "pod-1", delay_s=0.01, clock=lambda: now[0])
    record = InteractionRecord(
        ts="", request_id="r", method="tools/call", tool="t", trace_id="ab" * 16, span_id="cd" * 8
    )
    for _ in range(3000):
        spans.ended(record, 1, 2, "1", "01")
    spans.ended(record, 1, 2, "1", "00")
    for expected in (1, 2):
        async with asyncio.timeout(20):
            while sum(one.msg == "otlp_export_failed" for one in caplog.records) < expected:
                await asyncio.sleep(0.01)
        now[0] += 10
    await spans.close()
    told = [one.fields for one in caplog.records if one.msg == "otlp_export_failed"]  # type: ignore[attr-defined]
    assert told[0] == {"status": "UNAVAILABLE", "tries_again": True, "dropped": 952}


@pytest.mark.parametrize(
    ("endpoint", "environ", "sentence"),
    [
        ("collector:4317", {}, "must be like http://collector:4317"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_HEADERS": "novalue"}, "name=value pairs"),
        ("https://c:1", {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/none.pem"}, "/none.pem cannot be read"),
    ],
)
async def test_what_cannot_be_used_is_named(endpoint: str, environ: dict[str, str], sentence: str) -> None:
    """Ours: the standard variables count, and a bad one stops the start."""
    with pytest.raises(UserError, match=sentence):
        async with exporting(endpoint, "pod-1", environ):
            pass


def test_headers_are_those_of_the_standard_variable() -> None:
    """OTLP exporter, "Specifying headers via environment variables"."""
    assert headers_of("X-Key=a%2Cb, tenant=1") == (("x-key", "a,b"), ("tenant", "1"))


async def test_collector_that_is_away_delays_nothing() -> None:
    """Issue 4: an endpoint that is away never blocks or fails requests, nor the stop."""
    began = time.monotonic()
    async with (
        exporting("http://127.0.0.1:1", "pod-1") as spans,
        serving(InProcessUpstream("b", answering()), spans=spans) as bridge,
        Client(bridge.transport("model-a")) as client,
    ):
        for _ in range(50):
            assert not (await client.call_tool("keep", {"text": "x"})).is_error

    assert time.monotonic() - began < 8
    assert len(bridge.records) > 50


async def test_without_an_endpoint_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a sidecar without spans pays nothing for them."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    async with exporting("", "pod-1") as spans:
        assert spans is None
