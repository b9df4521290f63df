"""A real Envoy with small neighbours: an ext_authz service, a bridge and a sink that do what the test says."""

import asyncio
import contextlib
import datetime
import http.client
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.config.core.v3 import base_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.rpc import code_pb2

from secure_mcp_grpc import certs, envoy_config, headers
from secure_mcp_grpc.envoy_admin import AdminError
from secure_mcp_grpc.envoy_config import EnvoySettings
from secure_mcp_grpc.health import Health

DOMAIN = "test.mcp"
CALL = "/secure_mcp_grpc.v1.McpTransport/Call"
SESSION = "/secure_mcp_grpc.v1.McpTransport/Session"
Metadata = dict[str, str]


def allow(request: Any, **metadata: str) -> Any:
    """An allowing answer with the metadata and headers that authz_service sends."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = code_pb2.OK
    subject = request.attributes.source.principal.rpartition("/")[2]
    values = {"decision": "allow", "subject": subject, "method": "tools/call", "tool": "echo", **metadata}
    answer.dynamic_metadata.update(values)
    option = answer.ok_response.headers.add(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key, option.header.value = headers.SUBJECT, subject
    return answer


def allow_bearer(request: Any, **metadata: str) -> Any:
    """As authz_service answers a good token, `Bearer <user>.<secret>`: the user is the subject, the token ends here."""
    token = request.attributes.request.http.headers["authorization"].removeprefix("Bearer ")
    answer = allow(request, subject=f"user:test:{token.partition('.')[0]}", **metadata)
    answer.ok_response.headers_to_remove.append("authorization")
    return answer


def unauthenticated(_: Any) -> Any:
    """As authz_service refuses a token, or its absence."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = code_pb2.UNAUTHENTICATED
    answer.denied_response.status.code = 401
    for key, value in (("grpc-status", "16"), ("grpc-message", "a bearer token is required")):
        option = answer.denied_response.headers.add(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = key, value
    return answer


def deny(_: Any) -> Any:
    """A refusal as authz_service writes it."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = code_pb2.PERMISSION_DENIED
    answer.denied_response.status.code = 403
    for key, value in (("grpc-status", "7"), ("grpc-message", "model-a may not call echo: no rule allows it")):
        option = answer.denied_response.headers.add(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = key, value
    answer.dynamic_metadata.update({"decision": "deny", "reason": "not_permitted"})
    return answer


def over_quota(_: Any) -> Any:
    """A refusal for a quota that authz_service keeps."""
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = code_pb2.RESOURCE_EXHAUSTED
    answer.denied_response.status.code = 429
    for key, value in (("grpc-status", "8"), ("grpc-message", "the quota of model-a is used up")):
        option = answer.denied_response.headers.add(append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = key, value
    return answer


class Authz(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.answer: Callable[[Any], Any] = allow
        self.requests: list[Any] = []

    async def Check(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return self.answer(request)


class Bridge(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with its own bytes, and remembers the metadata it came with."""

    def __init__(self) -> None:
        self.calls: list[Metadata] = []
        self.silent = False
        """Never answer."""
        self.arrived = asyncio.Event()

    def service(self, details: Any) -> Any:
        if details.method == SESSION:
            return grpc.stream_stream_rpc_method_handler(self._session)
        return grpc.unary_unary_rpc_method_handler(self._call)

    async def _call(self, request: bytes, context: Any) -> bytes:
        self.calls.append(dict(context.invocation_metadata()))
        self.arrived.set()
        if self.silent:
            await asyncio.Event().wait()
        await context.send_initial_metadata(((headers.SERVER, "clock"),))
        return request

    async def _session(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.calls.append(dict(context.invocation_metadata()))
        if self.silent:
            await asyncio.Event().wait()
        async for request in requests:
            yield request


class Sink(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.http: asyncio.Queue[Any] = asyncio.Queue()
        self.tcp: asyncio.Queue[Any] = asyncio.Queue()

    async def StreamAccessLogs(self, requests: AsyncIterator[Any], context: Any) -> Any:
        names: dict[str, asyncio.Queue[Any]] = {headers.LOG_ENVOY_HTTP: self.http, headers.LOG_ENVOY_TCP: self.tcp}
        queue: asyncio.Queue[Any] | None = None
        async for message in requests:
            if message.HasField("identifier"):
                queue = names[message.identifier.log_name]
            for entry in (*message.http_logs.log_entry, *message.tcp_logs.log_entry):
                assert queue is not None
                queue.put_nowait(entry)
        return als_pb2.StreamAccessLogsResponse()


def plain_ca(name: str = "plain", signer: Any = None) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA as others make it: no name constraints, so that only Envoy's own checks stand between.

    Self-signed, or an intermediate one of `signer` (certificate and key).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = signer[0].subject if signer else subject
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), serial, now - hour, now + hour)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if signer else 1), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(signer[1] if signer else key, hashes.SHA256()), key


@dataclass
class Pki:
    """A CA and the identity directories that it issued."""

    root: Path
    ca: Path = field(init=False)

    def __post_init__(self) -> None:
        self.ca = self.root / "ca"
        certs.init_ca(self.ca, DOMAIN)
        self.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])

    def issue(self, name: str, **options: Any) -> Path:
        certs.issue(self.ca, self.root / name, name, DOMAIN, **options)
        return self.root / name

    def write(self, directory: str, ca: tuple[Any, Any], uris: list[str], **options: Any) -> Path:
        """An identity that `issue` would refuse to make."""
        certificate, key = certs.make_leaf(*ca, uris, **options)
        files = {
            certs.TLS_CRT: certs.pem(certificate),
            certs.TLS_KEY: certs.key_pem(key),
            certs.CA_CRT: certs.pem(ca[0]),
        }
        certs.replace_identity(self.root / directory, files)
        return self.root / directory

    def signer(self) -> tuple[Any, Any]:
        return certs.load_ca(self.ca)


@dataclass
class Pod:
    """Envoy and its neighbours."""

    settings: EnvoySettings
    pki: Pki
    authz: Authz
    bridge: Bridge
    sink: Sink
    servers: dict[str, grpc.aio.Server] = field(default_factory=dict)
    healths: dict[str, Health] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def admin(self) -> Path:
        return envoy_config.admin_socket(self.settings.run_dir)

    @contextlib.asynccontextmanager
    async def channel(
        self, identity: Path | None = None, *, certificate: bool = True
    ) -> AsyncIterator[grpc.aio.Channel]:
        directory = identity or self.pki.root / "model-a"
        credentials = grpc.ssl_channel_credentials(
            (self.pki.ca / certs.CA_CRT).read_bytes(),
            (directory / certs.TLS_KEY).read_bytes() if certificate else None,
            (directory / certs.TLS_CRT).read_bytes() if certificate else None,
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            yield channel

    async def start(self, name: str) -> None:
        server = grpc.aio.server()
        health = Health()
        health.add_to(server)
        if name == "authz":
            external_auth_pb2_grpc.add_AuthorizationServicer_to_server(self.authz, server)
        elif name == "bridge":
            server.add_generic_rpc_handlers((self.bridge,))
        else:
            als_pb2_grpc.add_AccessLogServiceServicer_to_server(self.sink, server)
        path = self.settings.run_dir / f"{name}.sock"
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        await health.serving()
        self.servers[name], self.healths[name] = server, health

    async def stop(self, name: str) -> None:
        await self.servers.pop(name).stop(None)


async def call(
    channel: grpc.aio.Channel, body: bytes = b"hello", *, path: str = CALL, metadata: Metadata | None = None
) -> tuple[grpc.StatusCode, str]:
    """Status and message of one unary call."""
    done, _ = await call_in_full(channel, body, path=path, metadata=metadata)
    return done


async def call_in_full(
    channel: grpc.aio.Channel, body: bytes = b"hello", *, path: str = CALL, metadata: Metadata | None = None
) -> tuple[tuple[grpc.StatusCode, str], Metadata]:
    started = channel.unary_unary(path)(body, metadata=tuple((metadata or {}).items()), timeout=10)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await started
    return (await started.code(), await started.details() or ""), dict(await started.initial_metadata() or ())


async def eventually(outcome: Callable[[], Awaitable[bool]], *, within_s: float = 5.0, every_s: float = 0.02) -> None:
    """Asks another process until it says yes."""
    async with asyncio.timeout(within_s):
        while not await outcome():
            await asyncio.sleep(every_s)


@dataclass(frozen=True)
class Answer:
    """Of an HTTP/1.1 server."""

    status: int
    headers: Metadata
    body: bytes


def client_tls(ca: Path, protocols: list[str], identity: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca / certs.CA_CRT))
    context.set_alpn_protocols(protocols)
    if identity:
        context.load_cert_chain(identity / certs.TLS_CRT, identity / certs.TLS_KEY)
    return context


def get_http1(port: int, ca: Path, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """One request over HTTP/1.1 and TLS, without a client certificate. Underscores in names become dashes."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=client_tls(ca, ["http/1.1"]))
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, b"\0\0\0\0\0" if method == "POST" else None, sent)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


def handshake(port: int, ca: Path, identity: Path | None) -> str:
    """`accepted` when the server goes on to speak HTTP/2; otherwise how it refused."""
    context = client_tls(ca, ["h2"], identity)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(preface)
            return "accepted" if tls.recv(1) else "closed"
    except ssl.SSLError as error:
        return str(error.reason)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"


@contextlib.asynccontextmanager
async def envoy(settings: EnvoySettings) -> AsyncIterator[subprocess.Popen[bytes]]:
    """An Envoy process, ready; its log is in run_dir."""
    config = settings.run_dir / "envoy.yaml"
    config.write_text(envoy_config.render(settings))
    log = settings.run_dir / "envoy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(envoy_config.envoy_command(settings, config), stdout=output, stderr=output)

    async def listening() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            await asyncio.to_thread(envoy_config.listener_address, envoy_config.admin_socket(settings.run_dir))
        except AdminError:
            return False
        return True

    try:
        await eventually(listening, within_s=20)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def running_pod(root: Path, pki: Pki, **options: Any) -> AsyncIterator[Pod]:
    """A pod with its neighbours up and Envoy listening; `options` are settings."""
    run_dir = root / "run"
    run_dir.mkdir(mode=0o700)
    sidecar = pki.root / "sidecar"
    settings = EnvoySettings(
        **{
            "run_dir": run_dir,
            "port": 0,
            "node_id": "test",
            "trust_domains": [DOMAIN],
            "cert_path": sidecar / certs.TLS_CRT,
            "key_path": sidecar / certs.TLS_KEY,
            "ca_path": sidecar / certs.CA_CRT,
            **options,
        }
    )
    pod = Pod(settings, pki, Authz(), Bridge(), Sink())
    for name in ("authz", "bridge", "sink"):
        await pod.start(name)
    try:
        async with envoy(settings) as process:
            pod.process = process
            pod.port = (await asyncio.to_thread(envoy_config.listener_address, pod.admin))[1]
            yield pod
    finally:
        for name in list(pod.servers):
            await pod.stop(name)
