"""A running authz_service, and requests that show tokens, as Envoy passes them on."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from envoy.service.auth.v3 import external_auth_pb2

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

ROOT = Path(__file__).parents[2]
METHOD = "/envoy.service.auth.v3.Authorization/Check"


def call_of(name: str, authorization: str = "", certificate: Path | None = None) -> external_auth_pb2.CheckRequest:
    """A tools/call of `name`; `certificate` is the PEM that the client showed."""
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    body = pb.Request(method="tools/call", name=name, id_json=b"1", params_json=json.dumps({"name": name}).encode())
    message = body.SerializeToString()
    http.method, http.path = "POST", "/secure_mcp_grpc.v1.McpTransport/Call"
    http.raw_body = b"\0" + len(message).to_bytes(4, "big") + message
    http.size = len(http.raw_body)
    http.headers.update({"content-type": "application/grpc", "x-request-id": "r1"})
    if authorization:
        http.headers["authorization"] = authorization
    if certificate is not None:
        request.attributes.source.certificate = quote(certificate.read_text(), safe="")
        request.attributes.source.principal = f"spiffe://mcp.internal/{certificate.parent.name}"
    return request


@dataclass
class Answer:
    """A CheckResponse, taken apart."""

    code: int
    metadata: dict[str, str]
    sentence: str

    @classmethod
    def of(cls, response: external_auth_pb2.CheckResponse) -> "Answer":
        fields = response.dynamic_metadata.fields
        denied = {option.header.key: option.header.value for option in response.denied_response.headers}
        return cls(
            response.status.code,
            {name: value.string_value for name, value in fields.items()},
            denied.get("grpc-message", ""),
        )


@dataclass
class Service:
    """A running process. `check` judges one request."""

    check: Callable[[external_auth_pb2.CheckRequest], Any]
    journal: Path

    def records(self) -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.journal.glob("journal-*")) for line in path.read_bytes().splitlines()]
        return [record for line in lines if (record := json.loads(line)).get("kind") == "decision"]


def launch(directory: Path, policy: str, **environment: str) -> "subprocess.Popen[bytes]":
    (directory / "policy.csv").write_text(policy)
    return subprocess.Popen(
        [sys.executable, "-m", "authz_service"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MCP_RUN_DIR": str(directory / "run"),
            "MCP_AUTHZ_METRICS_PORT": "0",
            "MCP_AUTHZ_POLICY_FILE": str(directory / "policy.csv"),
            "MCP_AUTHZ_JOURNAL_DIR": str(directory / "journal"),
            "MCP_LOG_FORMAT": "json",
        }
        | environment,
        stderr=subprocess.PIPE,
    )


@asynccontextmanager
async def service(policy: str, **environment: str) -> AsyncIterator[Service]:
    """One with this policy (CSV) and these variables."""
    with tempfile.TemporaryDirectory(prefix="tok-") as path:
        directory = Path(path)
        process = launch(directory, policy, **environment)
        try:
            async with asyncio.timeout(30):
                while not (directory / "run" / "authz.json").exists():
                    assert process.poll() is None, "the service did not start"
                    await asyncio.sleep(0.02)
            async with grpc.aio.insecure_channel(f"unix:{directory / 'run' / 'authz.sock'}") as channel:
                stub = channel.unary_unary(
                    METHOD,
                    request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
                    response_deserializer=external_auth_pb2.CheckResponse.FromString,
                )

                async def check(request: external_auth_pb2.CheckRequest) -> Answer:
                    return Answer.of(await stub(request, timeout=10, wait_for_ready=True))

                yield Service(check, directory / "journal")
        finally:
            process.kill()
            _, log = process.communicate()
            sys.stderr.write(log.decode())
