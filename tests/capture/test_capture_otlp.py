"""Spans by OTLP: to a real gRPC collector, and to none."""

import asyncio
import logging
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
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

from mcp_bridge.capture.otlp import exporting
from mcp_bridge.capture.otlp_logs import ExporterEvents
from mcp_bridge.upstreams.inprocess import InProcessUpstream


class Collector(rpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.came = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:
        for of_resource in request.resource_spans:
            self.resources.append(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        self.came.set()
        return pb.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    server = grpc.aio.server()
    collector = Collector()
    rpc.add_TraceServiceServicer_to_server(collector, server)
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


class Refusing(rpc.TraceServiceServicer):
    async def Export(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "forged\nline")


class Log(logging.Handler):
    """What reaches the root's handlers, and so the log; caplog also takes what does not."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def test_failed_export_is_an_event_with_a_status() -> None:
    """Ours: logs are events with fields; OpenTelemetry's sentences, with the collector's in them, are none."""
    server = grpc.aio.server()
    rpc.add_TraceServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    log = Log()
    logging.getLogger().addHandler(log)
    theirs = logging.getLogger("opentelemetry")
    for handler in [one for one in theirs.handlers if isinstance(one, ExporterEvents)]:
        theirs.removeHandler(handler)  # else what another test did in this process counts for the rate
    try:
        async with (
            exporting(f"http://127.0.0.1:{port}", "pod-1") as spans,
            serving(InProcessUpstream("b", answering()), spans=spans) as bridge,
            Client(bridge.transport("model-a")) as client,
        ):
            await client.call_tool("keep", {"text": "x"})
            async with asyncio.timeout(10):
                while not (said := [one for one in log.records if one.msg == "otlp_export_failed"]):
                    await asyncio.sleep(0.02)
    finally:
        await server.stop(0)
        logging.getLogger().removeHandler(log)
    assert said[0].fields == {"status": "PERMISSION_DENIED", "tries_again": False, "left_out": 0}
    assert not [one for one in log.records if one.name.startswith("opentelemetry") or "forged" in one.getMessage()]


def test_failed_exports_are_told_rarely_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a collector that is away for a day does not fill the log."""
    now = [100.0]
    handler = ExporterEvents(lambda: now[0])
    failed = logging.makeLogRecord(
        {"msg": "error code: %s", "args": (grpc.StatusCode.UNAVAILABLE,), "levelno": logging.WARNING}
    )
    dropped = logging.makeLogRecord({"msg": "Queue full, dropping %s.", "args": ("x",), "levelno": logging.WARNING})
    for one in (failed, dropped, *[failed] * 50):
        handler.handle(one)
    now[0] += 10
    handler.handle(failed)
    assert [(one.msg, one.fields["left_out"]) for one in caplog.records] == [  # type: ignore[attr-defined]
        ("otlp_export_failed", 0),
        ("otlp_trouble", 0),
        ("otlp_export_failed", 50),
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
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
