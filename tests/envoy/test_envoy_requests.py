"""What happens to a request on its way through the filters of the ingress listener."""

import asyncio
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2
from envoy_harness import CALL, SESSION, Pki, Pod, allow, call, call_in_full, deny, eventually, over_quota, running_pod
from google.protobuf.json_format import MessageToDict

from secure_mcp_grpc import headers

OK = grpc.StatusCode.OK


async def test_an_allowed_call_arrives_with_what_authz_said_of_it(pod: Pod) -> None:
    """Design, contracts: headers from authz to bridge, peer certificate and body to authz."""
    async with pod.channel() as channel:
        assert await call(channel) == (OK, "")

    (check,) = pod.authz.requests
    assert pod.bridge.calls[0][headers.SUBJECT] == "model-a"
    assert check.attributes.source.principal == "spiffe://test.mcp/model-a"
    assert check.attributes.source.certificate.startswith("-----BEGIN%20CERTIFICATE")
    assert check.attributes.request.http.raw_body == b"\0\0\0\0\5hello"
    assert check.attributes.request.http.path == CALL


async def test_what_a_client_says_of_itself_is_stripped(pod: Pod) -> None:
    """Issue: a client's own x-mcp-subject is ignored; design, filter 2."""
    forged = {
        "x-mcp-subject": "root",
        "x-mcp-target": "tools/call anything",
        "x-mcp-invented": "1",
        "x-envoy-max-retries": "9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-forwarded-client-cert": "URI=spiffe://test.mcp/root",
        "x-forwarded-for": "10.0.0.1",
        "x-request-id": "mine",
        "x-real-ip": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
    }
    async with pod.channel() as channel:
        assert (await call(channel, metadata={**forged, "traceparent": "00-1-2-01"}))[0] is OK

    seen = pod.bridge.calls[0]
    checked = pod.authz.requests[0].attributes.request.http.headers
    assert seen["x-mcp-subject"] == "model-a"
    assert "x-mcp-subject" not in checked
    assert not {name: seen[name] for name in seen if seen.get(name) == forged.get(name)}
    assert not {name: checked[name] for name in checked if checked[name] == forged.get(name)}
    assert "x-mcp-invented" not in seen
    assert seen["traceparent"] == "00-1-2-01"
    assert len(seen["x-request-id"]) == 36


async def test_a_header_with_an_underscore_is_refused(pod: Pod) -> None:
    """Ours: x_mcp_subject could become x-mcp-subject in some server."""
    async with pod.channel() as channel:
        assert (await call(channel, metadata={"x_mcp_subject": "root"}))[0] is not OK

    assert pod.bridge.calls == []


async def test_a_refusal_reaches_the_client_with_its_sentence(pod: Pod) -> None:
    """Issue: PERMISSION_DENIED with the sentence; the server never saw it."""
    pod.authz.answer = deny
    async with pod.channel() as channel:
        answer = await call(channel)

    assert answer == (grpc.StatusCode.PERMISSION_DENIED, "model-a may not call echo: no rule allows it")
    assert pod.bridge.calls == []
    entry = await asyncio.wait_for(pod.sink.http.get(), 5)
    metadata = entry.common_properties.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE]
    assert metadata["reason"] == "not_permitted"
    assert entry.common_properties.custom_tags["grpc_status"] == "7"


async def test_a_quota_of_authz_keeps_its_own_sentence(pod: Pod) -> None:
    """Ours: the sentence for Envoy's limits replaces Envoy's words only."""
    pod.authz.answer = over_quota
    async with pod.channel() as channel:
        assert await call(channel) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the quota of model-a is used up")


@pytest.mark.parametrize("decision", [None, "", "deny", "ALLOW"])
async def test_without_an_explicit_decision_nothing_passes(pod: Pod, decision: str | None) -> None:
    """Design, filter 5: an empty CheckResponse counts as OK for ext_authz."""
    answer = external_auth_pb2.CheckResponse()
    if decision is not None:
        answer.dynamic_metadata.update({"decision": decision})
    pod.authz.answer = lambda _: answer
    async with pod.channel() as channel:
        answer = await call(channel)

    assert answer == (grpc.StatusCode.PERMISSION_DENIED, "refused: authorization gave no decision")
    assert pod.bridge.calls == []


async def test_authz_may_set_no_headers_but_its_own(pod: Pod) -> None:
    """Ours: a mistake in authz_service cannot rewrite a request."""

    def rewrite(request: external_auth_pb2.CheckRequest) -> external_auth_pb2.CheckResponse:
        answer = allow(request)
        answer.ok_response.headers.add().header.key = "content-type"
        answer.ok_response.headers[1].header.value = "text/plain"
        return answer

    pod.authz.answer = rewrite
    async with pod.channel() as channel:
        assert (await call(channel))[0] is not OK

    assert pod.bridge.calls == []


async def test_while_authz_is_dead_every_request_is_unavailable_and_then_calls_succeed_again(pod: Pod) -> None:
    """Issue: kill authz_service: only refusals until it is back; then calls succeed with no reconnect by hand."""
    async with pod.channel() as channel:
        assert (await call(channel))[0] is OK
        await pod.stop("authz")
        answer = await call(channel)
        assert answer == (grpc.StatusCode.UNAVAILABLE, "authorization is unavailable; try again in a second")
        assert len(pod.bridge.calls) == 1
        await pod.start("authz")

        async def works() -> bool:
            return (await call(channel))[0] is OK

        await eventually(works, within_s=1.5)


async def test_while_the_bridge_is_dead_calls_are_unavailable_and_then_succeed_again(pod: Pod) -> None:
    """Issue: kill the bridge: clear UNAVAILABLE."""
    async with pod.channel() as channel:
        await pod.stop("bridge")
        answer = await call(channel)
        assert answer == (grpc.StatusCode.UNAVAILABLE, "the MCP bridge is unavailable; try again in a second")
        await pod.start("bridge")

        async def works() -> bool:
            return (await call(channel))[0] is OK

        await eventually(works, within_s=1.5)


async def test_a_dead_sink_stops_nothing(pod: Pod) -> None:
    """Issue: kill the sink: calls keep working; entries come again once it is back."""
    async with pod.channel() as channel:
        await pod.stop("sink")
        assert (await call(channel))[0] is OK
        await pod.start("sink")

        async def logged() -> bool:
            await call(channel)
            return not pod.sink.http.empty()

        await eventually(logged, every_s=0.1)


async def test_too_large_a_message_is_refused_with_a_sentence(root: Path, pki: Pki) -> None:
    """Ours: RESOURCE_EXHAUSTED is what gRPC says of a message over the limit."""
    async with running_pod(root, pki, max_request_bytes=100_000) as pod, pod.channel() as channel:
        assert (await call(channel, b"x" * 99_995))[0] is OK
        answer = await call(channel, b"x" * 150_000)

        assert answer == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the message is too large: the limit is 100000 bytes",
        )
        assert len(pod.bridge.calls) == 1


@pytest.mark.parametrize("over", [1, 100, 10_000])
async def test_a_message_just_over_the_limit_is_refused_or_marked_as_partial(root: Path, pki: Pki, over: int) -> None:
    """Known gap of ext_authz: the last chunk may cross the limit. authz_service refuses what is marked so."""
    async with running_pod(root, pki, max_request_bytes=100_000) as pod, pod.channel() as channel:
        code, _ = await call(channel, b"x" * (100_000 - 5 + over))

    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert pod.authz.requests[0].attributes.request.http.headers["x-envoy-auth-partial-body"] == "true"


async def test_a_deadline_ends_a_call_and_is_told_from_a_cancel(root: Path, pki: Pki) -> None:
    """Ours: grpc-timeout counts in Envoy, so the log says DEADLINE_EXCEEDED for unary and streaming calls alike."""
    async with running_pod(root, pki) as pod, pod.channel() as channel:
        pod.bridge.silent = True
        for path in (CALL, SESSION):
            details = set()
            for _ in range(5):  # a busy machine may let the client's reset come first, now and then
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await channel.unary_unary(path)(b"x", timeout=0.2)
                assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                details.add((await asyncio.wait_for(pod.sink.http.get(), 5)).response.response_code_details)
            assert "max_duration_timeout" in details

        pod.bridge.arrived.clear()
        cancelled = channel.unary_unary(CALL)(b"x")
        await asyncio.wait_for(pod.bridge.arrived.wait(), 5)
        cancelled.cancel()
        entry = await asyncio.wait_for(pod.sink.http.get(), 5)
        assert entry.response.response_code_details == "downstream_remote_disconnect" or (
            entry.common_properties.response_flags.downstream_connection_termination
            or entry.common_properties.response_flags.downstream_remote_reset
        )


async def test_a_call_has_a_longest_duration(root: Path, pki: Pki) -> None:
    """Design, facts: route max_stream_duration."""
    async with running_pod(root, pki, max_call_s=0.3) as pod, pod.channel() as channel:
        pod.bridge.silent = True
        assert (await call(channel))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_message_of_a_mebibyte_passes(pod: Pod) -> None:
    """Ours: the default limit is 1 MiB, frame header included."""
    async with pod.channel() as channel:
        assert await call(channel, b"x" * (1_048_576 - 5)) == (OK, "")


async def test_a_client_over_its_rate_is_refused_and_others_are_not(root: Path, pki: Pki) -> None:
    """Design, filter 3: a bucket for each client certificate, before authz."""
    async with running_pod(root, pki, per_client_per_second=1, per_client_burst=3) as pod:
        async with pod.channel() as channel:
            answers = [await call(channel) for _ in range(6)]
        async with pod.channel(pki.root / "model-b") as other:
            assert (await call(other))[0] is OK

    assert [code for code, _ in answers].count(OK) in (3, 4)
    assert answers[-1] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests; try again in a second")
    assert len(pod.authz.requests) == len(pod.bridge.calls)


async def test_renewing_a_certificate_does_not_refill_the_bucket(root: Path, pki: Pki) -> None:
    """Ours: the bucket belongs to the identity."""
    async with running_pod(root, pki, per_client_per_second=1, per_client_burst=3) as pod:
        async with pod.channel() as channel:
            for _ in range(4):
                await call(channel)
        pki.issue("model-a")
        async with pod.channel() as channel:
            answers = [await call(channel) for _ in range(3)]

    assert grpc.StatusCode.RESOURCE_EXHAUSTED in [code for code, _ in answers]


async def test_each_tool_of_a_subject_has_a_bucket_of_its_own(root: Path, pki: Pki) -> None:
    """Design, filter 6: (subject, tool), from what authz read in the message."""
    async with (
        running_pod(root, pki, per_tool_per_second=1, per_tool_burst=2) as pod,
        pod.channel() as channel,
        pod.channel(pki.root / "model-b") as other,
    ):
        answers = [(await call(channel))[0] for _ in range(5)]
        assert (await call(other))[0] is OK
        pod.authz.answer = lambda request: allow(request, tool="another")
        assert (await call(channel))[0] is OK
        pod.authz.answer = lambda request: allow(request, tool="", method="ping")
        rest = [(await call(channel))[0] for _ in range(5)]

    assert answers[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rest[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_bidirectional_session_streams_through(pod: Pod) -> None:
    """Design, facts: bidi routes need disable_request_body_buffering."""
    async with pod.channel() as channel:
        session = channel.stream_stream(SESSION)(timeout=10)
        for frame in (b"one", b"two"):
            await session.write(frame)
            assert await session.read() == frame
        await session.done_writing()
        assert await session.code() is OK

    assert pod.authz.requests[0].attributes.request.http.raw_body == b""


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/secure_mcp_grpc.v1.McpTransportX/Call", "/x"])
async def test_other_paths_are_unimplemented_and_recorded(pod: Pod, path: str) -> None:
    """Ours: only the two MCP services are reachable."""
    async with pod.channel() as channel:
        assert (await call(channel, path=path))[0] is grpc.StatusCode.UNIMPLEMENTED

    entry = await asyncio.wait_for(pod.sink.http.get(), 5)
    assert entry.request.path == path
    assert pod.bridge.calls == []


@pytest.mark.parametrize("path", [CALL.replace("/Call", "%2FCall"), "/x/.." + CALL.replace("/", "%5c", 1)])
async def test_paths_with_escaped_slashes_are_refused(pod: Pod, path: str) -> None:
    """Ours: authz, Envoy and the bridge must not read a path differently."""
    async with pod.channel() as channel:
        assert (await call(channel, path=path))[0] is not OK

    assert pod.bridge.calls == []


async def test_the_access_log_says_who_what_where_and_how(pod: Pod) -> None:
    """Contract with the sink: metadata of the decision, custom tags, verified peer, request id."""
    async with pod.channel() as channel:
        (_, answered) = await call_in_full(channel, metadata={"traceparent": "00-1-2-01"})

    entry = await asyncio.wait_for(pod.sink.http.get(), 5)
    common = entry.common_properties
    tags = dict(common.custom_tags)
    assert MessageToDict(common.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE])["decision"] == "allow"
    assert tags.pop("peer_serial")
    assert len(tags.pop("peer_fingerprint")) == 64
    assert tags == {"grpc_status": "0", "server": "clock", "traceparent": "00-1-2-01"}
    assert common.tls_properties.peer_certificate_properties.subject_alt_name[0].uri == "spiffe://test.mcp/model-a"
    assert entry.request.path == CALL
    assert entry.request.request_id == pod.bridge.calls[0]["x-request-id"] == answered["x-request-id"]
    assert {name for name in answered if name.startswith(("x-", "server"))} == {"x-request-id"}
