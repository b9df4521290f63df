"""Chains of calls: what is read of trace context, and one that goes through two sidecars."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from bridge_harness import send, serving, stdio, tool
from capture_servers import SECRET_TEXT, answering, relaying
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator

from mcp_bridge.capture import lineage, trace
from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.upstreams.inprocess import InProcessUpstream

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", PARENT[:-1], PARENT.upper(), f"{PARENT}-x", f"ff{PARENT[2:]}", 7, None, ["x"], "x" * 10_000),
        *("00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01", PARENT.replace("f", "g")),
    ],
)
def test_malformed_parent_is_no_parent(text: Any) -> None:
    """W3C Trace Context, 3.2: what is not of its form is ignored, and a trace begun instead."""
    assert trace.read(text, "a=b") is None
    assert trace.entered(trace.read(text)).parent_span_id == ""


def test_later_version_is_read_by_its_first_fields() -> None:
    """W3C Trace Context, 3.2.4."""
    found = trace.read(f"cc{PARENT[2:]}-what-comes")
    assert found is not None
    assert found.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_child_keeps_what_others_said() -> None:
    """W3C Trace Context, 3.3: members of others stay, ours stands first."""
    above = trace.read(PARENT, "congo=t61rcWkgMzE,smg=2;job-42,rojo=00f067aa0ba902b7")
    assert above is not None
    here = trace.entered(above)

    assert (here.hops, here.correlation_id, here.parent_span_id) == (3, "job-42", "00f067aa0ba902b7")
    assert here.tracestate == "smg=3;job-42,congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


@given(st.text(max_size=80), st.text(max_size=600), st.text(max_size=80))
def test_any_text_makes_headers_that_can_be_sent(parent: str, state: str, chosen: str) -> None:
    """Ours: what comes from a client never breaks the next hop."""
    for given_parent in (parent, PARENT):
        above = trace.read(given_parent, state, chosen)
        for value in trace.entered(above, chosen).headers().values():
            assert value.isascii()
            assert value.isprintable()
            assert len(value) < 700


@pytest.fixture
def without_opentelemetry() -> Iterator[None]:
    """The SDK's own spans carry the trace to what a handler calls; here they do not."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("without_opentelemetry")
async def test_tool_in_process_continues_the_trace_without_opentelemetry() -> None:
    """Issue 4: a model calling from inside a tool continues the trace, with nothing done for it."""
    async with (
        serving(InProcessUpstream("b", answering())) as b,
        serving(InProcessUpstream("a", relaying(b))) as a,
        Client(a.transport("model-a")) as client,
    ):
        with trace.continuing(correlation_id="job-43"):
            assert not (await client.call_tool("relay", {"text": "x"})).is_error
        await asyncio.sleep(0)
        relay = next(record for record in a.records if record.tool == "relay")
        keep = next(record for record in b.records if record.tool == "keep")

    assert (keep.trace_id, keep.parent_span_id) == (relay.trace_id, relay.span_id)
    assert (keep.correlation_id, keep.hops) == ("job-43", 2)


def test_digests_follow_whole_values() -> None:
    """Issue 4: texts, leaves of JSON inside of text, and files; short texts tell nothing."""
    keyed = Keyed(b"k" * 16)
    long, inner = "a text of some length", "another text of length"
    one = lineage.digests(
        {"content": [{"type": "text", "text": f" {long} "}, {"type": "text", "text": "short"}]}, keyed
    )
    two = lineage.digests({"q": long, "mimeType": "application/octet-stream", "n": 5, "x": ["short"]}, keyed)
    three = lineage.digests(
        [f'{{"deep":["{inner}"],"n":1}}', {"uri": "f", "blob": "YW5vdGhlciB0ZXh0IG9mIGxlbmd0aA=="}], keyed
    )

    assert one == two
    assert len(one) == 1
    assert lineage.digests(inner, keyed)[0] in three
    assert len(three) == 2
    assert len(lineage.digests([f"text number {n:010}" for n in range(500)], keyed)) == 32
    assert lineage.digests({"q": long}, Keyed(b"o" * 16)) != two


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_chain_through_two_sidecars_is_one_trace(mode: str, tmp_path: Any) -> None:
    """Issue 4: one trace through any number of hops, and what data went where: a result of A is an argument of B."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    capture = build_capture(CaptureSettings(capture_key_file=key))
    async with (
        serving(InProcessUpstream("b", answering()), capture=capture) as b,
        serving(InProcessUpstream("a", relaying(b)), capture=capture) as a,
    ):
        async with Client(a.transport("model-a"), mode=mode) as client:
            with trace.continuing(correlation_id="job-42"):
                read = await client.call_tool("look_up", {"topic": "weather"})
                result = await client.call_tool("relay", {"text": read.content[0].text})
        assert not result.is_error, result
        await asyncio.sleep(0)
        looked_up = next(record for record in a.records if record.tool == "look_up")
        relay = next(record for record in a.records if record.tool == "relay")
        keep = next(record for record in b.records if record.tool == "keep")

    assert looked_up.trace_id == relay.trace_id == keep.trace_id
    assert keep.parent_span_id == relay.span_id
    assert relay.parent_span_id == looked_up.parent_span_id
    assert len({looked_up.span_id, relay.span_id, keep.span_id}) == 3
    assert (relay.correlation_id, relay.hops) == ("job-42", 1)
    assert (keep.correlation_id, keep.hops) == ("job-42", 2)
    assert set(looked_up.digests_out) & set(relay.digests_in) & set(keep.digests_in)
    assert SECRET_TEXT not in str((looked_up.digests_out, relay.digests_in))


async def test_stdio_server_is_told_the_trace_in_meta() -> None:
    """SEP-414: `traceparent` and `tracestate` in `_meta`; malformed ones are replaced."""
    async with serving(stdio("meta", "-c", META_SERVER)) as bridge:
        async with bridge.channel() as channel:
            ask = tool("meta")
            headers = [("traceparent", PARENT), ("tracestate", "x=y")]
            told = (await send(channel, "Call", ask, metadata=headers))["result"]["structuredContent"]
            bad = (await send(channel, "Call", ask, metadata=[("traceparent", "00-zz")]))["result"]["structuredContent"]
        first, second = bridge.records

    assert told["traceparent"] == f"00-{PARENT[3:35]}-{first.span_id}-01"
    assert told["tracestate"] == "smg=1;,x=y"
    assert first.parent_span_id == PARENT[36:52]
    assert bad["traceparent"] == f"00-{second.trace_id}-{second.span_id}-01"
    assert (second.parent_span_id, second.correlation_id) == ("", second.trace_id)
    assert told["secure-mcp-grpc/correlationId"] == first.correlation_id


META_SERVER = """
from mcp.server.mcpserver import Context, MCPServer
server = MCPServer("meta")
@server.tool()
def meta(context: Context) -> dict[str, str]:
    found = context.request_context.meta or {}
    return {key: str(value) for key, value in found.items()}
server.run()
"""


async def test_meta_goes_before_headers_and_values_survive() -> None:
    """SEP-414: the message's own context counts; what else stands in `_meta` and arguments is as it was."""
    from mcp_bridge.wire import read_meta

    params = b'{"arguments":{"n":123456789012345678901234567890,"t":"\\u00e4"},"_meta":{"traceparent":"x","a/b":1.0}}'
    span = trace.new()
    written = trace.write_meta(params, span)

    assert written.startswith(b'{"arguments":{"n":123456789012345678901234567890,"t":"\\u00e4"},"_meta":{')
    assert b'"a/b":1.0' in written
    meta = read_meta(written)
    assert trace.read(meta.traceparent, meta.tracestate, meta.correlation_id) == span
    assert trace.write_meta(b"[1]", span) == b"[1]"
    assert trace.write_meta(b'{"_meta":3}', span) == b'{"_meta":3}'
    assert b"traceparent" in trace.write_meta(b"", span)


async def test_http_server_gets_the_trace_in_headers() -> None:
    """Issue 4: HTTP headers to HTTP upstreams, the same that `_meta` says."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        body = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
        return httpx2.Response(200, json=body)

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    upstream = HttpUpstream("http", "http://127.0.0.1:1/mcp", max_message_bytes=1 << 20, client=client)
    async with serving(upstream) as bridge, bridge.channel() as channel:
        await send(channel, "Call", tool("x"), metadata=[("traceparent", PARENT), ("x-correlation-id", "job-7")])
        record = bridge.records[-1]
    call = seen[-1]

    assert call.headers["traceparent"] == f"00-{PARENT[3:35]}-{record.span_id}-01"
    assert call.headers["x-correlation-id"] == record.correlation_id == "job-7"
    assert call.headers["traceparent"] in call.content.decode()
