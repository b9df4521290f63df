"""How a client that has no token yet learns where to get one (RFC 9728), over HTTP/1.1 and HTTP/2."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from envoy_harness import (
    CALL,
    SESSION,
    Answer,
    Metadata,
    Pki,
    Pod,
    allow,
    call,
    client_tls,
    deny,
    get_http1,
    running_pod,
    unauthenticated,
)
from google.protobuf.text_format import MessageToString

from secure_mcp_grpc import envoy_config
from secure_mcp_grpc.envoy_auth import METADATA_PATH, resource_metadata
from secure_mcp_grpc.envoy_config import EnvoySettings

RESOURCE = "https://tools.example:8443/mcp"
FULL = {
    "resource": RESOURCE,
    "resource_name": 'the "tools"',
    "authorization_servers": ("https://id.example/realms/a", "https://id.example/b"),
    "scopes_supported": ("mcp", "mcp:admin"),
}
SAID = {
    "resource": RESOURCE,
    "authorization_servers": ["https://id.example/realms/a", "https://id.example/b"],
    "bearer_methods_supported": ["header"],
    "scopes_supported": ["mcp", "mcp:admin"],
    "resource_name": 'the "tools"',
}
WHERE = 'resource_metadata="https://tools.example:8443/.well-known/oauth-protected-resource/mcp"'


@pytest.fixture
async def open_pod(root: Path, pki: Pki) -> AsyncIterator[Pod]:
    async with running_pod(root, pki, auth_type="jwt", **FULL) as pod:
        yield pod


async def http1(pod: Pod, path: str, *, method: str = "GET", **headers: str) -> Answer:
    return await asyncio.to_thread(get_http1, pod.port, pod.pki.ca, path, method=method, **headers)


async def http2(pod: Pod, path: str, *, method: str = "GET", identity: Path | None = None) -> Answer:
    """One request over HTTP/2 as a browser or curl sends it."""
    tls = client_tls(pod.pki.ca, ["h2", "http/1.1"], identity)
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=tls, server_hostname="127.0.0.1")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    fields = {":method": method, ":scheme": "https", ":authority": "127.0.0.1", ":path": path}
    connection.send_headers(1, list(fields.items()), end_stream=True)
    writer.write(connection.data_to_send())
    headers: Metadata = {}
    body = b""
    async with asyncio.timeout(5):
        while True:
            for event in connection.receive_data(await reader.read(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    headers = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    writer.close()
                    return Answer(int(headers.pop(":status")), headers, body)


@pytest.mark.parametrize("path", [METADATA_PATH, f"{METADATA_PATH}/mcp", f"{METADATA_PATH}?x=1"])
async def test_the_metadata_are_where_rfc_9728_looks_for_them(open_pod: Pod, path: str) -> None:
    """RFC 9728, 3.1 and 3.2: JSON, also before the path of the resource; to both HTTP versions; without a token."""
    for answer in (await http1(open_pod, path), await http2(open_pod, path)):
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert json.loads(answer.body) == SAID
        assert answer.headers["access-control-allow-origin"] == "*"
    assert open_pod.authz.requests == []


async def test_who_has_no_identity_yet_is_not_held_to_the_limits_of_those_who_have(root: Path, pki: Pki) -> None:
    """Ours: what Envoy answers itself counts for the network address only."""
    limits = {"per_client_per_second": 1, "per_client_burst": 1, "per_tool_per_second": 1, "per_tool_burst": 1}
    async with running_pod(root, pki, auth_type="jwt", **FULL, **limits) as pod:
        assert [(await http1(pod, METADATA_PATH)).status for _ in range(5)] == [200] * 5
        assert [(await http1(pod, "/x")).status for _ in range(5)] == [404] * 5


async def test_with_certificate_and_token_they_are_told_to_those_with_a_certificate(root: Path, pki: Pki) -> None:
    """Issue 3: in every token mode; the TLS of `mtls+jwt` lets nobody else that far."""
    async with running_pod(root, pki, auth_type="mtls+jwt", **FULL) as pod:
        answer = await http2(pod, METADATA_PATH, identity=pki.root / "model-a")

    assert json.loads(answer.body) == SAID


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (f"{METADATA_PATH}/other", "GET"),
        (f"{METADATA_PATH}/mcp/", "GET"),
        (f"{METADATA_PATH}x", "GET"),
        (METADATA_PATH, "POST"),
        (METADATA_PATH, "DELETE"),
        ("/", "GET"),
        ("/.well-known/", "GET"),
        ("/.well-known/oauth-authorization-server", "GET"),
        ("/secure_mcp_grpc.v1.McpTransport/", "GET"),
    ],
)
async def test_everything_else_is_not_found_over_http1(open_pod: Pod, path: str, method: str) -> None:
    """Issue 3: 404 for everything else, and nobody behind Envoy is asked."""
    assert (await http1(open_pod, path, method=method)).status == 404
    assert open_pod.authz.requests == open_pod.bridge.calls == []


@pytest.mark.parametrize(
    "path",
    [
        CALL,
        SESSION,
        "/secure_mcp_grpc.v1.McpTransport/Stream",
        "/secure_mcp_grpc.v1.McpTransport/Listen",
        "/model_context_protocol.Mcp/CallMethod",
        f"/x/..{CALL}",
        f"/{CALL}",
        f"{CALL}?x",
        f"https://127.0.0.1{CALL}",
    ],
)
async def test_calls_do_not_get_past_envoy_over_http1(open_pod: Pod, path: str) -> None:
    """Issue 3: gRPC is HTTP/2; no second parser gets to see a call. What a client says of its protocol is stripped."""
    forged = {"x_mcp_http": "HTTP/2", "x_mcp_subject": "root", "authorization": "Bearer top-secret"}
    answer = await http1(open_pod, path, method="POST", content_type="application/grpc", te="trailers", **forged)

    assert answer.status == 404 or answer.headers["grpc-status"] == "12"
    assert open_pod.authz.requests == open_pod.bridge.calls == []
    entry = await asyncio.wait_for(open_pod.sink.http.get(), 5)
    assert "top-secret" not in MessageToString(entry)


@pytest.mark.parametrize("path", [CALL.replace("/Call", "%2FCall"), f"/x%5c..{CALL}"])
async def test_paths_with_escaped_slashes_are_refused_over_http1(open_pod: Pod, path: str) -> None:
    """Ours: path normalisation is that of HTTP/2."""
    assert (await http1(open_pod, path, method="POST")).status == 400
    assert open_pod.authz.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx_mcp_http: HTTP/2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: \r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"POST " + CALL.encode() + b" HTTP/1.1\r\nhost: x\r\nx-mcp-http : HTTP/2\r\ncontent-length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_odd_http1_is_refused(open_pod: Pod, raw: bytes) -> None:
    """Ours: a second protocol is a second way in; each oddity ends at Envoy with an error."""
    tls = client_tls(open_pod.pki.ca, ["http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", open_pod.port, ssl=tls, server_hostname="127.0.0.1")
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(65536), 5)
    writer.close()

    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert open_pod.authz.requests == open_pod.bridge.calls == []


@pytest.mark.parametrize("options", [{"auth_type": "mtls"}, {"auth_type": "none", "allow_no_auth": True}])
async def test_without_tokens_there_is_neither_metadata_nor_http1(
    root: Path, pki: Pki, options: dict[str, object]
) -> None:
    """Ours: nothing is open that nobody needs."""
    async with running_pod(root, pki, **options, **FULL) as pod:
        assert (await http2(pod, METADATA_PATH, identity=pki.root / "model-a")).status == 404
        tls = client_tls(pki.ca, ["http/1.1"], pki.root / "model-a")
        reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=tls, server_hostname="127.0.0.1")
        writer.write(f"GET {METADATA_PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert not (await asyncio.wait_for(reader.read(65536), 5)).startswith(b"HTTP/1.1 2")
        writer.close()


@pytest.mark.parametrize("auth_type", ["mtls+jwt", "jwt", "oauth2"])
@pytest.mark.parametrize(
    ("shown", "challenge"),
    [({}, f"Bearer {WHERE}"), ({"authorization": "Bearer x"}, f'Bearer error="invalid_token", {WHERE}')],
)
async def test_a_refusal_for_want_of_a_token_says_where_to_get_one(
    root: Path, pki: Pki, auth_type: str, shown: dict[str, str], challenge: str
) -> None:
    """RFC 9728, 5.1; RFC 6750, 3.1: an error code only for a token that was shown. The sentence stays authz's."""
    async with running_pod(root, pki, auth_type=auth_type, **FULL) as pod, pod.channel() as channel:
        pod.authz.answer = unauthenticated
        started = channel.unary_unary(CALL)(b"", metadata=tuple(shown.items()), timeout=10)
        assert await started.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await started.details() == "a bearer token is required"
        said = {**dict(await started.initial_metadata() or ()), **dict(await started.trailing_metadata() or ())}

    assert said["www-authenticate"] == challenge


async def test_a_client_finds_its_way_from_a_refusal_to_the_authorization_server(open_pod: Pod) -> None:
    """RFC 9728, 5: 401, the challenge, the metadata, whose `resource` is the URL that was asked for in the first place.

    The client here speaks plain HTTP and knows nothing of gRPC.
    """
    open_pod.authz.answer = unauthenticated
    refused = await http2(open_pod, CALL, method="POST")
    assert refused.status == 401
    scheme, _, where = refused.headers["www-authenticate"].partition(" resource_metadata=")
    assert scheme == "Bearer"
    path = where.strip('"').removeprefix("https://tools.example:8443")
    found = json.loads((await http2(open_pod, path)).body)
    assert found["resource"] == RESOURCE
    assert found["authorization_servers"][0] == "https://id.example/realms/a"


async def test_a_challenge_of_authz_itself_stays(open_pod: Pod) -> None:
    """Ours: authz_service knows more of a token than Envoy."""

    def precise(request: object) -> object:
        answer = unauthenticated(request)
        header = answer.denied_response.headers.add().header
        header.key, header.value = "www-authenticate", 'Bearer error="insufficient_scope"'
        return answer

    open_pod.authz.answer = precise
    async with open_pod.channel(certificate=False) as channel:
        started = channel.unary_unary(CALL)(b"", timeout=10)
        await started.code()
        said = [value for name, value in await started.initial_metadata() or () if name == "www-authenticate"]
        said += [value for name, value in await started.trailing_metadata() or () if name == "www-authenticate"]

    assert said == ['Bearer error="insufficient_scope"']


@pytest.mark.parametrize("answer", [allow, deny])
async def test_other_answers_carry_no_challenge(open_pod: Pod, answer: object) -> None:
    """RFC 9110, 11.6.1: a challenge belongs to 401."""
    open_pod.authz.answer = answer  # type: ignore[assignment]
    async with open_pod.channel(certificate=False) as channel:
        started = channel.unary_unary(CALL)(b"", timeout=10)
        await started.code()
        said = {**dict(await started.initial_metadata() or ()), **dict(await started.trailing_metadata() or ())}

    assert "www-authenticate" not in said


async def test_without_certificates_no_challenge_names_a_place_nobody_knows(root: Path, pki: Pki) -> None:
    """Ours: on a port that the system chooses the URL is unknown; then there is a bare challenge and no HTTP/1.1."""
    async with running_pod(root, pki, auth_type="jwt") as pod, pod.channel(certificate=False) as channel:
        pod.authz.answer = unauthenticated
        started = channel.unary_unary(CALL)(b"", timeout=10)
        await started.code()
        said = {**dict(await started.initial_metadata() or ()), **dict(await started.trailing_metadata() or ())}
        assert said["www-authenticate"] == "Bearer"
        assert (await call(channel, path=METADATA_PATH))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("options", "resource"),
    [
        ({}, "https://127.0.0.1:8443"),
        ({"host": "::1", "port": 1}, "https://[::1]:1"),
        ({"host": "0.0.0.0"}, None),
        ({"host": "::"}, None),
        ({"port": 0}, None),
        ({"port": 0, "resource": "https://tools.example/"}, "https://tools.example/"),
    ],
)
def test_a_resource_is_named_by_its_url_or_not_at_all(options: dict[str, object], resource: str | None) -> None:
    """RFC 9728, 2 and 3.3: clients compare `resource` with what they asked for; unset members are left out."""
    settings = EnvoySettings(auth_type="jwt", **options)
    found = resource_metadata(settings)

    assert found == ({"resource": resource, "bearer_methods_supported": ["header"]} if resource else None)
    assert ("oauth-protected-resource" in envoy_config.render(settings)) == bool(resource)
