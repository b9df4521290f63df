"""The classes of the announcement, used as it shows them: real Envoy and authz_service around a real SDK server."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import mcp
import pytest
from mcp.server.mcpserver import MCPServer

from secure_mcp_grpc import (
    InteractionTracer,
    JWTAuthProvider,
    MTLSAuthProvider,
    OAuth2AuthProvider,
    RBACAuthorization,
    SecureMCPClient,
    SecureMCPServer,
    certs,
)

DOMAIN = "api.test"
SECRET = b"0123456789abcdef0123456789abcdef"


def base_server() -> MCPServer:
    server = MCPServer("base")

    @server.tool()
    def analyze_sentiment(text: str) -> str:
        """Whether a text is kind."""
        return "kind" if "love" in text else "unkind"

    @server.tool()
    def forget(everything: bool) -> str:
        """Not for everybody."""
        return str(everything)

    @server.resource("note://today")
    def today() -> str:
        """A note."""
        return "sunny"

    return server


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("api-certs")
    certs.init_ca(directory / "ca", DOMAIN)
    certs.issue(directory / "ca", directory / "server", "server", dns=["localhost"], ips=["127.0.0.1"])
    for model in ("model-a", "model-b"):
        certs.issue(directory / "ca", directory / model, model)
    return directory


def mtls(ca: Path, name: str) -> MTLSAuthProvider:
    return MTLSAuthProvider(
        cert_path=ca / name / "tls.crt", key_path=ca / name / "tls.key", ca_path=ca / name / "ca.crt"
    )


@contextlib.asynccontextmanager
async def client(address: str, provider: Any, **options: Any) -> AsyncIterator[SecureMCPClient]:
    host, _, port = address.rpartition(":")
    one = SecureMCPClient(host=host, port=int(port), auth_provider=provider, **options)
    await one.connect()
    try:
        yield one
    finally:
        await one.close()


async def test_mtls_server_lets_each_model_use_its_own_tools(ca: Path, tmp_path: Path) -> None:
    """Seed: `SecureMCPServer` with MTLSAuthProvider and RBACAuthorization; `send_request` calls a tool by its name."""
    server = SecureMCPServer(
        mcp_server=base_server(),
        auth_provider=mtls(ca, "server"),
        authorization=RBACAuthorization(
            default_policy="deny",
            access_control={"model-a": ["analyze_sentiment"], "model-b": ["forget", "resources/read note://*"]},
        ),
        port=0,
        home=tmp_path / "home",
    )
    tracer = InteractionTracer(storage_path=tmp_path / "traces", export_format="jsonl", sanitize_fields=["text"])
    async with server.running() as address:
        async with client(address, mtls(ca, "model-a"), tracer=tracer) as a:
            response = await a.send_request(method="analyze_sentiment", params={"text": "I love secure AI systems!"})
            with pytest.raises(mcp.MCPError) as refused:
                await a.send_request("forget", {"everything": True})
            listed = await a.send_request("tools/list")
        async with client(address, mtls(ca, "model-b"), server_id=f"spiffe://{DOMAIN}/server") as b:
            forgotten = await b.send_request("forget", {"everything": True})
            note = await b.send_request("resources/read", {"uri": "note://today"})

    assert response.result == "kind"
    assert refused.value.error.data == {"grpcStatus": "PERMISSION_DENIED"}
    assert [tool["name"] for tool in listed.result["tools"]] == ["analyze_sentiment"]
    assert forgotten.result == "True"
    assert note.result["contents"][0]["text"] == "sunny"
    (path,) = (tmp_path / "traces").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["request", "response"] * 3
    assert "secure AI" not in path.read_text()
    assert lines[1]["request_id"] == lines[0]["request_id"]
    assert lines[3]["error"] == "MCPError"


async def test_jwt_server_needs_no_certificates_from_anybody(tmp_path: Path) -> None:
    """Seed: `JWTAuthProvider` with a shared secret on the server, with a token on the client."""
    secret = tmp_path / "jwt_secret.key"
    secret.write_bytes(SECRET)
    server = SecureMCPServer(
        mcp_server=base_server(),
        auth_provider=JWTAuthProvider(secret_key_path=secret, audience="mcp-clients", issuer="auth.example.com"),
        authorization=RBACAuthorization({"model-a": ["analyze_sentiment"]}),
        port=0,
        home=tmp_path / "home",
        rate_limit_enabled=True,
        rate_limit_requests_per_minute=3,
    )

    def provider(subject: str) -> JWTAuthProvider:
        claims = {"sub": subject, "aud": "mcp-clients", "iss": "auth.example.com", "exp": 4102444800, "iat": 1}
        ca_file = server.home.certs / "sidecar" / "ca.crt"
        return JWTAuthProvider(token=jwt.encode(claims, SECRET, "HS256"), ca_path=ca_file)

    async with server.running() as address:
        async with client(address, provider("model-a")) as a:
            answers = [(await a.send_request("analyze_sentiment", {"text": "no"})).result for _ in range(3)]
            with pytest.raises(mcp.MCPError) as limited:
                await a.send_request("analyze_sentiment", {"text": "no"})
        with pytest.raises(mcp.MCPError) as refused:
            async with client(address, provider("model-z")):
                pass

    assert answers == ["unkind"] * 3
    assert limited.value.error.data == {"grpcStatus": "RESOURCE_EXHAUSTED"}
    assert refused.value.error.data == {"grpcStatus": "PERMISSION_DENIED"}


async def test_oauth2_client_gets_its_tokens_from_a_real_provider(tmp_path: Path) -> None:
    """Seed: `OAuth2AuthProvider`; the server introspects opaque tokens, the client asks for them by its credentials."""
    secret = tmp_path / "client-secret"
    secret.write_text("provider-secret\n")
    with provider(tmp_path) as issuer:
        both = OAuth2AuthProvider(
            issuer=issuer,
            client_id="mcp-gateway",
            client_secret_path=secret,
            audience="mcp-gateway",
            introspection_url=f"{issuer}/oauth/introspect",
            subject_claim="client_id",
        )
        server = SecureMCPServer(
            base_server(),
            both,
            RBACAuthorization({"mcp-gateway": ["analyze_sentiment"]}),
            port=0,
            home=tmp_path / "home",
        )
        async with server.running() as address:
            with_ca = dataclasses.replace(both, ca_path=server.home.certs / "sidecar" / "ca.crt")
            async with client(address, with_ca) as a:
                response = await a.send_request("analyze_sentiment", {"text": "love"})
    assert response.result == "kind"


@contextlib.contextmanager
def provider(directory: Path) -> Iterator[str]:
    """The issuer URL of Canaille, an OpenID provider."""
    script = Path(__file__).parents[1] / "tokens" / "run_provider.py"
    with subprocess.Popen(
        (sys.executable, str(script), str(directory)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def test_without_authorization_nothing_is_allowed(ca: Path, tmp_path: Path) -> None:
    """Ours: nothing starts out allowed; the policy in the server's directory decides, and is read again."""
    server = SecureMCPServer(base_server(), mtls(ca, "server"), port=0, home=tmp_path / "home")
    async with server.running() as address:
        with pytest.raises(mcp.MCPError) as refused:
            async with client(address, mtls(ca, "model-a")):
                pass
    assert refused.value.error.data == {"grpcStatus": "PERMISSION_DENIED"}


def test_start_serves_until_a_signal_and_leaves_nothing(ca: Path, tmp_path: Path) -> None:
    """Seed: `secure_server.start()`."""
    script = tmp_path / "app.py"
    script.write_text(
        f"""
from mcp.server.mcpserver import MCPServer
from secure_mcp_grpc import MTLSAuthProvider, RBACAuthorization, SecureMCPServer
server = MCPServer("base")
SecureMCPServer(
    server,
    MTLSAuthProvider({str(ca / "server" / "tls.crt")!r}, {str(ca / "server" / "tls.key")!r},
                     {str(ca / "server" / "ca.crt")!r}),
    RBACAuthorization({{}}), port=0, home={str(tmp_path / "home")!r}).start()
"""
    )
    with subprocess.Popen((sys.executable, str(script)), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = list(itertools.takewhile(lambda line: "address" not in line, process.stderr))
        process.terminate()
        lines += process.stderr
    assert process.returncode == 0, "".join(lines)
    assert not list((tmp_path / "home" / "run").glob("*.sock"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RBACAuthorization({}, default_policy="allow"), "only deny is possible"),
        (lambda: RBACAuthorization({"model-a": "tool"}), "expected a list of names"),
        (lambda: JWTAuthProvider(token="t").serving(), "needs issuer and audience"),
        (lambda: JWTAuthProvider(issuer="i", audience="a").calling(), "either token or token_path"),
        (lambda: MTLSAuthProvider("none.crt", "none.key", "none.ca").serving(), "none.crt does not exist"),
        (lambda: SecureMCPServer(None, None, rate_limit_requests_per_minute=0), "at least 1"),
    ],
)
def test_what_is_wrong_is_named(make: Any, sentence: str) -> None:
    """Ours: bad input gets a clear error that names the thing."""
    from secure_mcp_grpc.errors import UserError

    with pytest.raises(UserError, match=sentence):
        make()


async def test_a_client_that_cannot_connect_says_so_and_can_be_closed(ca: Path) -> None:
    """Ours: `connect` fails in the task that called it, and leaves nothing running."""
    one = SecureMCPClient(host="127.0.0.1", port=1, auth_provider=mtls(ca, "model-a"))
    with pytest.raises(mcp.MCPError) as failed:
        await one.connect()
    await one.close()
    assert failed.value.error.data == {"grpcStatus": "UNAVAILABLE"}
    assert len(asyncio.all_tasks()) == 1
