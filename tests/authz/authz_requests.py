"""Certificates, requests as Envoy sends them, and answers taken apart."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3 import external_auth_pb2
from prometheus_client import CollectorRegistry

from authz_service.checker import Checker
from authz_service.identity import IdentityReader
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.pipeline import Pipeline
from authz_service.policy import Policy, load_policy
from authz_service.server import METHOD
from authz_service.settings import AuthzSettings
from authz_service.steps.identity import IdentityStep
from authz_service.steps.message import MessageStep
from authz_service.steps.policy import PolicyStep
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

MODEL = AuthzSettings.model_fields["model_file"].default.read_bytes()
POLICY = b"""
p, role:reader, tools/call, get_current_time, allow
p, role:writer, tools/call, git_*, allow
p, model-c, tools/call, git_commit, deny
p, role:reader, tools/list, *, allow
g, model-a, role:reader
g, model-c, role:writer
"""
CALL = "/secure_mcp_grpc.v1.McpTransport/Call"
_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(*uris: str, days: float = 1, serial: int = 0x0ABC, dns: str = "") -> str:
    """A self-signed certificate with `uris` as SAN, as Envoy passes it on."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(_KEY.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(dns)] if dns else []
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = builder.sign(_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return quote(pem, safe="")


CERTIFICATES = {name: certificate(f"spiffe://mcp.internal/{name}") for name in ("model-a", "model-b", "model-c")}


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def mcp_request(method: str, name: str = "", **params: Any) -> bytes:
    """The gRPC body of a full-fidelity request."""
    if name:
        params = {("uri" if method.startswith("resources/") else "name"): name, **params}
    return frame(
        pb.Request(method=method, name=name, id_json=b"1", params_json=json.dumps(params).encode()).SerializeToString()
    )


def check_request(
    subject: str = "model-a",
    method: str = "tools/call",
    name: str = "get_current_time",
    *,
    body: bytes | None = None,
    path: str = CALL,
    headers: dict[str, str] | None = None,
    arguments: dict[str, Any] | None = None,
) -> external_auth_pb2.CheckRequest:
    """What Envoy sends for one call; tests change what they attack."""
    request = external_auth_pb2.CheckRequest()
    source, http = request.attributes.source, request.attributes.request.http
    source.certificate = CERTIFICATES[subject]
    source.principal = f"spiffe://mcp.internal/{subject}"
    http.method, http.path = "POST", path
    params = {"arguments": arguments} if arguments is not None else {}
    http.raw_body = mcp_request(method, name, **params) if body is None else body
    http.size = len(http.raw_body)
    http.headers.update({"content-type": "application/grpc", "x-request-id": "request-1", **(headers or {})})
    return request


def policy_of(text: bytes) -> Policy:
    return load_policy(MODEL, text, model_name="model.conf", policy_name="policy.csv", cached=100)


def checker_of(policy: Policy, journal: Journal) -> Checker:
    """A checker that wants a client certificate, as by default."""
    identities = IdentityReader(["mcp.internal", "partner.example"], 16)
    steps = (IdentityStep("mtls", identities, ()), MessageStep(1_000_000), PolicyStep())
    return Checker(policy, Pipeline(steps, timeout_s=1), journal, Metrics(CollectorRegistry()))


@dataclass
class Answered:
    """A CheckResponse, taken apart."""

    response: external_auth_pb2.CheckResponse

    @property
    def code(self) -> int:
        return int(self.response.status.code)

    @property
    def metadata(self) -> dict[str, str]:
        return {key: value.string_value for key, value in self.response.dynamic_metadata.fields.items()}

    @property
    def headers(self) -> dict[str, str]:
        """Headers towards the bridge, or towards the client."""
        part = self.response.ok_response if self.response.HasField("ok_response") else self.response.denied_response
        assert all(option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD for option in part.headers)
        return {option.header.key: option.header.value for option in part.headers}


def answered(content: bytes) -> Answered:
    return Answered(external_auth_pb2.CheckResponse.FromString(content))


def records(directory: Path) -> list[dict[str, Any]]:
    """Every record of a journal."""
    return [json.loads(line) for path in sorted(directory.glob("journal-*")) for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def authorization(socket: Path) -> AsyncIterator[Callable[[external_auth_pb2.CheckRequest], Any]]:
    """A stub to a running service."""
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = channel.unary_unary(
            METHOD,
            request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
            response_deserializer=external_auth_pb2.CheckResponse.FromString,
        )

        async def check(request: external_auth_pb2.CheckRequest) -> Answered:
            return Answered(await stub(request, timeout=5, wait_for_ready=True))

        yield check


async def until(condition: Callable[[], bool], *, timeout_s: float = 5) -> None:
    """Wait for what another process does, where there is nothing to subscribe to."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
