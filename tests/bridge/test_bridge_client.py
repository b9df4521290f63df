"""The SDK transport: what an application sees of refusals, failures and lost connections."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import full_server
import grpc
import mcp
import pytest
from bridge_harness import serving
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcp_bridge.client import Identity, grpc_transport
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

Handler = Callable[[str, pb.Request, grpc.aio.ServicerContext], Any]


class FakeSidecar:
    """A gRPC server that answers Call and Stream as a test says."""

    def __init__(self, call: Handler) -> None:
        self.server = grpc.aio.server()
        self.requests: list[tuple[str, str]] = []
        self._call = call
        handlers = {
            "Call": grpc.unary_unary_rpc_method_handler(self._unary, pb.Request.FromString),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream, pb.Request.FromString),
        }
        service = grpc.method_handlers_generic_handler(TRANSPORT.strip("/"), handlers)
        self.server.add_generic_rpc_handlers((service,))

    async def _unary(self, request: pb.Request, context: Any) -> bytes:
        self.requests.append(("Call", request.method))
        response: pb.Response = await self._call("Call", request, context)
        return response.SerializeToString()

    async def _stream(self, request: pb.Request, context: Any) -> AsyncIterator[bytes]:
        self.requests.append(("Stream", request.method))
        await self._call("Stream", request, context)
        return
        yield b""


@contextlib.asynccontextmanager
async def sidecar(tmp_path: Path, call: Handler) -> AsyncIterator[tuple[FakeSidecar, str]]:
    fake = FakeSidecar(call)
    address = f"unix:{tmp_path}/s.sock"
    fake.server.add_insecure_port(address)
    await fake.server.start()
    try:
        yield fake, address
    finally:
        await fake.server.stop(None)


async def discover(request: pb.Request) -> pb.Response:
    body = (
        b'{"jsonrpc":"2.0","id":%b,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},'
        b'"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":'
        b'{"name":"fake","version":"1"}}}}'
    )
    return pb.Response(message_json=body % request.id_json)


def no_tools(request: pb.Request) -> pb.Response:
    body = b'{"jsonrpc":"2.0","id":%b,"result":{"tools":[],"resultType":"complete","ttlMs":0,"cacheScope":"private"}}'
    return pb.Response(message_json=body % request.id_json)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, -32011),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, -32012),
        (grpc.StatusCode.UNAVAILABLE, -32013),
        (grpc.StatusCode.NOT_FOUND, -32015),
        (grpc.StatusCode.DATA_LOSS, -32019),
    ],
)
async def test_refusal_of_a_call_names_status_and_reason(tmp_path: Path, status: Any, code: int) -> None:
    """Ours: a hop's refusal is told from a server's error, and its sentence arrives whole."""

    async def call(rpc: str, request: pb.Request, context: Any) -> pb.Response:
        if request.method == "server/discover":
            return await discover(request)
        await context.abort(status, "model-b may not call git_commit: no rule allows it — ü")
        raise AssertionError

    async with sidecar(tmp_path, call) as (_, address), mcp.Client(grpc_transport(address)) as client:
        with pytest.raises(mcp.MCPError) as refused:
            await client.call_tool("git_commit", {})

    assert refused.value.error.code == code
    assert refused.value.error.message == "model-b may not call git_commit: no rule allows it — ü"
    assert refused.value.error.data == {"grpcStatus": status.name}


@pytest.mark.parametrize(
    ("status", "tried"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, ["server/discover"]),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ["server/discover"]),
        (grpc.StatusCode.PERMISSION_DENIED, ["server/discover", "initialize"]),
    ],
)
async def test_refused_discover_ends_with_its_reason(tmp_path: Path, status: Any, tried: list[str]) -> None:
    """Ours: the SDK falls back to the handshake on any error; the person still reads why discover was refused."""

    async def call(rpc: str, request: pb.Request, context: Any) -> pb.Response:
        await context.abort(status, f"model-b may not call {request.method}: no rule allows it")
        raise AssertionError

    async with sidecar(tmp_path, call) as (fake, address):
        with pytest.raises(Exception) as failed:
            async with mcp.Client(grpc_transport(address)):
                pass

    error: Any = failed.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert error.error.message == "model-b may not call server/discover: no rule allows it"
    assert error.error.data == {"grpcStatus": status.name}
    assert [method for _, method in fake.requests] == tried


async def test_nobody_there_is_unavailable_at_once(tmp_path: Path) -> None:
    """Ours: no endless wait, and no attempt at the older protocol that hides it."""
    async with asyncio.timeout(5):
        with pytest.raises(Exception) as failed:
            async with mcp.Client(grpc_transport(f"unix:{tmp_path}/nobody.sock")):
                pass
    error: Any = failed.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert error.error.data == {"grpcStatus": "UNAVAILABLE"}


async def test_stream_without_a_response_ends_in_an_error(tmp_path: Path) -> None:
    """Design: the SDK waits for ever when a stream ends without a response; synthesize an error."""

    async def call(rpc: str, request: pb.Request, context: Any) -> pb.Response:
        return await discover(request)

    async def note(*_: Any) -> None: ...

    async with (
        sidecar(tmp_path, call) as (fake, address),
        mcp.Client(grpc_transport(address)) as client,
        asyncio.timeout(5),
    ):
        with pytest.raises(mcp.MCPError, match="the stream ended without a response"):
            await client.call_tool("anything", {}, progress_callback=note)
    assert fake.requests[-1] == ("Stream", "tools/call")


async def test_calls_succeed_again_when_the_bridge_is_back(tmp_path: Path) -> None:
    """Issue 2: clear UNAVAILABLE while the bridge is away, then calls succeed with no reconnect by hand."""

    async def call(rpc: str, request: pb.Request, context: Any) -> pb.Response:
        if request.method == "server/discover":
            return await discover(request)
        return no_tools(request)

    async with contextlib.AsyncExitStack() as later, contextlib.AsyncExitStack() as first:
        _, address = await first.enter_async_context(sidecar(tmp_path, call))
        async with mcp.Client(grpc_transport(address), cache=None) as client:
            await client.list_tools()
            await first.aclose()
            with pytest.raises(mcp.MCPError) as away:
                await client.list_tools()
            await later.enter_async_context(sidecar(tmp_path, call))
            async with asyncio.timeout(5):
                while not await answers(client):
                    await asyncio.sleep(0.05)
    assert away.value.error.data == {"grpcStatus": "UNAVAILABLE"}


async def answers(client: mcp.Client) -> bool:
    try:
        await client.list_tools()
    except mcp.MCPError:
        return False
    return True


async def test_session_is_ended_when_the_client_leaves() -> None:
    """Ours: the handshake era keeps state at the server; it is let go."""
    async with serving(InProcessUpstream("full", full_server.server)) as bridge:
        async with mcp.Client(bridge.transport(), mode="legacy") as client:
            await client.list_tools()
            assert len(bridge.executor._sessions) == 1
        assert len(bridge.executor._sessions) == 0
        assert bridge.upstream._sessions == {}


async def test_plaintext_is_for_loopback_only() -> None:
    """Ours: forgetting the identity must not send tool calls over the network in the clear."""
    with pytest.raises(UserError, match="without an identity only loopback"):
        async with grpc_transport("example.org:8443"):
            pass


async def test_missing_identity_file_is_named(tmp_path: Path) -> None:
    """Issue 2: one clear line that names the thing."""
    with pytest.raises(UserError, match=r"tls\.crt cannot be read: No such file"):
        async with grpc_transport("localhost:1", identity=tmp_path):
            pass


class Ca:
    """A throw-away CA that writes identities as `secure-mcp-grpc certs` does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.cert = self._sign(self.name, self.key.public_key(), [(x509.BasicConstraints(True, None), True)])

    def issue(self, directory: Path, spiffe_id: str) -> Path:
        directory.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id), x509.DNSName("localhost")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.rpartition("/")[2])])
        cert = self._sign(subject, key.public_key(), [(names, False)])
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / "tls.crt").write_bytes(cert.public_bytes(pem))
        (directory / "tls.key").write_bytes(private)
        (directory / "ca.crt").write_bytes(self.cert.public_bytes(pem))
        return directory

    def _sign(self, subject: x509.Name, key: Any, extensions: list[Any]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())


@contextlib.asynccontextmanager
async def tls_sidecar(identity: Path) -> AsyncIterator[tuple[FakeSidecar, str]]:
    async def call(rpc: str, request: pb.Request, context: Any) -> pb.Response:
        if request.method == "server/discover":
            return await discover(request)
        if request.method == "tools/list":
            return no_tools(request)
        token = dict(context.invocation_metadata()).get("authorization", "")
        peer = context.auth_context()["x509_common_name"][0].decode()
        text = f'[{{"type":"text","text":"{peer} {token}"}}]'.encode()
        body = b'{"jsonrpc":"2.0","id":%b,"result":{"content":%b,"resultType":"complete"}}' % (request.id_json, text)
        return pb.Response(message_json=body)

    fake = FakeSidecar(call)
    key, cert, ca = ((identity / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt"))
    credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    port = fake.server.add_secure_port("localhost:0", credentials)
    await fake.server.start()
    try:
        yield fake, f"localhost:{port}"
    finally:
        await fake.server.stop(None)


async def test_mutual_tls_with_a_directory_and_a_token(tmp_path: Path) -> None:
    """Issue 2: `grpc_transport("host:8443", identity=…)`; the server's SPIFFE ID is checked where one is asked for."""
    ca = Ca()
    async with tls_sidecar(ca.issue(tmp_path / "server", "spiffe://mcp.internal/sidecar")) as (_, address):
        client_dir = ca.issue(tmp_path / "client", "spiffe://mcp.internal/model-a")
        transport = grpc_transport(
            address, identity=client_dir, server_id="spiffe://mcp.internal/sidecar", token=lambda: "abc"
        )
        async with mcp.Client(transport) as client:
            result = await client.call_tool("who", {})
        assert result.content[0].text == "model-a Bearer abc"

        with pytest.raises(
            ConnectionError, match=r"is spiffe://mcp\.internal/sidecar, not spiffe://mcp\.internal/other"
        ):
            async with grpc_transport(address, identity=client_dir, server_id="spiffe://mcp.internal/other"):
                pass


async def test_server_of_another_ca_is_not_trusted(tmp_path: Path) -> None:
    """Ours: with and without `server_id`."""
    async with tls_sidecar(Ca().issue(tmp_path / "server", "spiffe://mcp.internal/sidecar")) as (_, address):
        stranger = Identity.from_directory(Ca().issue(tmp_path / "client", "spiffe://mcp.internal/model-a"))
        with pytest.raises(ConnectionError, match="is not trusted"):
            async with grpc_transport(address, identity=stranger, server_id="spiffe://mcp.internal/sidecar"):
                pass
        with pytest.raises(Exception) as failed:
            async with mcp.Client(grpc_transport(address, identity=stranger)):
                pass
    assert "'grpcStatus': 'UNAVAILABLE'" in repr(failed.value)


async def test_renewed_identity_is_used_after_a_lost_connection(tmp_path: Path) -> None:
    """Ours: certificates live for a day; a client that outlives its own picks up the new files."""
    ca, other = Ca(), Ca()
    async with tls_sidecar(ca.issue(tmp_path / "server", "spiffe://mcp.internal/sidecar")) as (_, address):
        identity = other.issue(tmp_path / "client", "spiffe://mcp.internal/old")
        (identity / "ca.crt").write_bytes((tmp_path / "server" / "ca.crt").read_bytes())
        async with grpc_transport(address, identity=identity) as (incoming, outgoing):
            session = mcp.ClientSession(incoming, outgoing)
            async with session:
                with pytest.raises(mcp.MCPError):
                    await session.send_discover("2026-07-28")
                ca.issue(identity, "spiffe://mcp.internal/new")
                with pytest.raises(mcp.MCPError):
                    await session.send_discover("2026-07-28")
                await session.send_discover("2026-07-28")
