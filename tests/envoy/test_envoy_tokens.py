"""Authentication types without client certificates: who is believed to be who, and whose bucket is whose."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_harness import (
    CALL,
    SESSION,
    Pki,
    Pod,
    allow_bearer,
    call,
    client_tls,
    deny,
    handshake,
    running_pod,
    unauthenticated,
)
from google.protobuf.text_format import MessageToString

from secure_mcp_grpc import certs, envoy_config, headers
from secure_mcp_grpc.envoy_config import EnvoySettings

OK = grpc.StatusCode.OK
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(params=["jwt", "oauth2", "none"])
async def open_pod(root: Path, pki: Pki, request: pytest.FixtureRequest) -> AsyncIterator[Pod]:
    """Envoy with an authentication type that asks for no certificate."""
    async with running_pod(root, pki, auth_type=request.param, allow_no_auth=True) as pod:
        yield pod


async def test_no_certificate_is_asked_for_and_one_that_is_offered_is_not_believed(open_pod: Pod) -> None:
    """Issue 3: server certificate only. A client with a certificate is nobody more than one without."""
    for certificate in (False, True):
        async with open_pod.channel(certificate=certificate) as channel:
            assert (await call(channel))[0] is OK

    for check in open_pod.authz.requests:
        assert (check.attributes.source.principal, check.attributes.source.certificate) == ("", "")
    entry = await asyncio.wait_for(open_pod.sink.http.get(), 5)
    peer = entry.common_properties.tls_properties.peer_certificate_properties
    assert (list(peer.subject_alt_name), peer.subject) == ([], "")


async def test_a_certificate_of_another_ca_is_not_looked_at(open_pod: Pod) -> None:
    """Ours: no CertificateRequest goes out, so nothing is verified that could be mistaken for an identity."""
    stranger = open_pod.pki.write("stranger", certs.make_ca("evil.mcp"), ["spiffe://evil.mcp/root"])
    async with open_pod.channel(stranger) as channel:
        assert (await call(channel))[0] is OK

    assert open_pod.authz.requests[0].attributes.source.principal == ""


async def test_with_certificate_and_token_the_certificate_is_demanded_as_ever(root: Path, pki: Pki) -> None:
    """Issue 3: `mtls+jwt` has the TLS of `mtls`."""
    async with running_pod(root, pki, auth_type="mtls+jwt") as pod:
        assert await asyncio.to_thread(handshake, pod.port, pki.ca, None) != "accepted"
        pod.authz.answer = allow_bearer
        async with pod.channel() as channel:
            assert (await call(channel, metadata={"authorization": "Bearer one"}))[0] is OK

    attributes = pod.authz.requests[0].attributes
    assert attributes.source.principal == "spiffe://test.mcp/model-a"
    assert attributes.request.http.headers["authorization"] == "Bearer one"


async def test_a_token_over_its_rate_is_refused_and_another_is_not(root: Path, pki: Pki) -> None:
    """Issue 3: limits keyed by the token's identity, over all connections and tools."""
    limits = {"per_client_per_second": 1, "per_client_burst": 3}
    async with running_pod(root, pki, auth_type="jwt", **limits) as pod:
        answers = []
        for number in range(6):
            pod.authz.answer = lambda request, tool=f"tool{number}": allow_bearer(request, tool=tool)
            async with pod.channel(certificate=False) as channel:
                answers.append(await call(channel, metadata={"authorization": "Bearer one"}))
        async with pod.channel(certificate=False) as channel:
            other = await call(channel, metadata={"authorization": "Bearer two"})

    assert [code for code, _ in answers].count(OK) in (3, 4)
    assert answers[-1] == (EXHAUSTED, "too many requests; try again in a second")
    assert other[0] is OK


async def test_a_bad_token_cannot_use_up_the_bucket_of_a_good_one(root: Path, pki: Pki) -> None:
    """Ours: the bucket is known only once the token is believed."""
    limits = {"per_client_per_second": 1, "per_client_burst": 3}
    async with running_pod(root, pki, auth_type="jwt", **limits) as pod, pod.channel(certificate=False) as channel:
        pod.authz.answer = deny
        for _ in range(10):
            await call(channel, metadata={"authorization": "Bearer one"})
        pod.authz.answer = allow_bearer
        assert (await call(channel, metadata={"authorization": "Bearer one"}))[0] is OK


@pytest.mark.parametrize("forged", ["x-forwarded-for", "forwarded", "x-real-ip", "x-envoy-external-address"])
async def test_an_address_over_its_rate_is_refused_before_authz_whatever_it_says_of_itself(
    root: Path, pki: Pki, forged: str
) -> None:
    """Issue 3: the direct remote address, never XFF; checking tokens costs."""
    limits = {"per_address_per_second": 1, "per_address_burst": 3}
    async with running_pod(root, pki, auth_type="jwt", **limits) as pod:
        pod.authz.answer = deny
        answers = []
        for number in range(8):
            metadata = {forged: f"10.0.0.{number}", "authorization": f"Bearer {number}"}
            async with pod.channel(certificate=False) as channel:
                answers.append((await call(channel, metadata=metadata))[0])

    assert answers[-1] is EXHAUSTED
    assert len(pod.authz.requests) in (3, 4)


async def test_addresses_have_buckets_of_their_own(root: Path, pki: Pki) -> None:
    """Ours: one noisy address does not silence others."""
    limits = {"per_address_per_second": 1, "per_address_burst": 2}
    async with running_pod(root, pki, auth_type="jwt", **limits) as pod:
        pod.authz.answer = deny
        async with pod.channel(certificate=False) as channel:
            for _ in range(5):
                await call(channel)
        before = len(pod.authz.requests)
        context = client_tls(pki.ca, ["h2"])
        for number in (2, 3, 4):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", pod.port, ssl=context, server_hostname="127.0.0.1", local_addr=(f"127.0.0.{number}", 0)
            )
            writer.write(bare_request())
            assert await asyncio.wait_for(reader.read(1), 5)
            await eventually_more(pod, before)
            before = len(pod.authz.requests)
            writer.close()


async def eventually_more(pod: Pod, before: int) -> None:
    async with asyncio.timeout(5):
        while len(pod.authz.requests) == before:
            await asyncio.sleep(0.02)


def bare_request() -> bytes:
    """An HTTP/2 connection with one POST to CALL; headers as literals without indexing (RFC 7541, 6.2.2)."""

    def literal(name: str, value: str) -> bytes:
        return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    fields = {":method": "POST", ":scheme": "https", ":path": CALL, ":authority": "x"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    block = b"".join(literal(name, value) for name, value in fields.items())
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    head = len(block).to_bytes(3, "big") + b"\1\4\0\0\0\1" + block
    return preface + head + b"\0\0\5\0\1\0\0\0\1" + b"\0\0\0\0\0"


@pytest.mark.parametrize("auth_type", ["mtls", "mtls+jwt", "jwt"])
@pytest.mark.parametrize("forgetful", [False, True])
async def test_a_token_never_reaches_the_bridge(root: Path, pki: Pki, auth_type: str, forgetful: bool) -> None:
    """Issue 3: tokens end at authz_service; Envoy strips them even if authz_service does not."""

    def keep(request: Any) -> Any:
        answer = allow_bearer(request)
        del answer.ok_response.headers_to_remove[:]
        return answer

    shown = {"authorization": "Bearer user.top-secret", "proxy-authorization": "Basic x", "cookie": "session=1"}
    async with running_pod(root, pki, auth_type=auth_type) as pod, pod.channel() as channel:
        pod.authz.answer = keep if forgetful else allow_bearer
        assert (await call(channel, metadata=shown))[0] is OK
        session = channel.stream_stream(SESSION)(metadata=tuple(shown.items()), timeout=10)
        await session.done_writing()
        assert await session.code() is OK
        entries = [await asyncio.wait_for(pod.sink.http.get(), 5) for _ in range(2)]

    for check, seen in zip(pod.authz.requests, pod.bridge.calls, strict=True):
        checked = check.attributes.request.http.headers
        assert checked["authorization"] == "Bearer user.top-secret"
        assert not {"proxy-authorization", "cookie"} & set(checked)
        assert not {"authorization", "proxy-authorization", "cookie", "x-mcp-http"} & set(seen)
        assert "top-secret" not in str(seen)
    assert all("top-secret" not in MessageToString(entry) for entry in entries)
    assert b"top-secret" not in (root / "run" / "envoy.log").read_bytes()


async def test_two_tokens_arrive_as_one_header_that_shows_both(root: Path, pki: Pki) -> None:
    """Measured: ext_authz joins repeated headers by a comma, so authz_service can refuse what is ambiguous."""
    async with running_pod(root, pki, auth_type="jwt") as pod, pod.channel(certificate=False) as channel:
        pod.authz.answer = deny
        metadata = (("authorization", "Bearer one"), ("authorization", "Bearer two"))
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(CALL)(b"", metadata=metadata, timeout=10)

    shown = pod.authz.requests[0].attributes.request.http.headers["authorization"]
    assert shown.replace(", ", ",") == "Bearer one,Bearer two"


async def test_who_shows_nothing_is_told_by_authz_and_gets_nowhere(root: Path, pki: Pki) -> None:
    """Issue 3: UNAUTHENTICATED and a sentence."""
    async with running_pod(root, pki, auth_type="jwt") as pod, pod.channel(certificate=False) as channel:
        pod.authz.answer = unauthenticated
        assert await call(channel) == (grpc.StatusCode.UNAUTHENTICATED, "a bearer token is required")

    assert pod.bridge.calls == []


async def test_a_refused_client_learns_when_to_come_back(root: Path, pki: Pki) -> None:
    """Ours: hints of Envoy's own limits; what authz_service says stays as it is."""
    async with (
        running_pod(root, pki, per_client_per_second=1, per_client_burst=1) as pod,
        pod.channel() as channel,
    ):
        for _ in range(5):
            started = channel.unary_unary(CALL)(b"", timeout=10)
            if await started.code() is EXHAUSTED:
                break
    assert await started.code() is EXHAUSTED
    said = {**dict(await started.initial_metadata() or ()), **dict(await started.trailing_metadata() or ())}
    assert (said["retry-after"], said["grpc-retry-pushback-ms"]) == ("1", "1000")
    assert not [name for name in said if name.startswith("x-ratelimit")]


def test_names_that_only_envoy_sets_are_stripped_from_requests() -> None:
    """Ours: x-mcp-http says the protocol, and clients' x-mcp-* are removed before it is set."""
    text = envoy_config.render(EnvoySettings(auth_type="jwt"))

    assert text.index("prefix: x-mcp-") < text.index("key: x-mcp-http")
    assert headers.SUBJECT.startswith("x-mcp-")
