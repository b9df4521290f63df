"""Where `connect` has its tokens from: files, variables, an OpenID provider in a process of its own."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import full_server
import httpx2
import pytest
from bridge_harness import serving
from connect_kit import ROOT, Sidecar, command, connected, mirrors, modern, sidecar

from mcp_bridge.connect.oauth import ClientCredentials, Grant
from mcp_bridge.connect.tokens import FileToken, FixedToken, NoToken
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from secure_mcp_grpc.errors import UserError

CALL = modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with serving(InProcessUpstream("full", full_server.server)) as bridge, sidecar(bridge, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The issuer URL of Canaille."""
    directory = tmp_path_factory.mktemp("provider")
    script = ROOT / "tests" / "tokens" / "run_provider.py"
    with subprocess.Popen(
        (sys.executable, str(script), str(directory)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def ask(url: str) -> Any:
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        return (await client.post(url, json=CALL, headers=mirrors(CALL))).json()


async def test_client_credentials_of_a_real_provider(side: Sidecar, provider: str, tmp_path: Path) -> None:
    """Issue 4: OAuth 2.0 client credentials; the token endpoint is found from the issuer."""
    secret = tmp_path / "secret"
    secret.write_text("provider-secret\n")
    who = ("--oauth-issuer", provider, "--oauth-client-id", "mcp-gateway", "--oauth-client-secret-file", str(secret))
    async with connected(side.address, *who) as one:
        assert (await ask(one.url))["result"]["content"][0]["text"] == "3"
        assert (await ask(one.url))["result"]["content"][0]["text"] == "3"
    tokens = {metadata["authorization"] for _, metadata in side.seen}
    assert len(tokens) == 1
    assert tokens.pop().startswith("Bearer ")


async def test_wrong_secret_is_said_and_not_shown(side: Sidecar, provider: str) -> None:
    """Ours: the caller reads that the issuer refused; no secret in any log or answer."""
    who = ("--oauth-issuer", provider, "--oauth-client-id", "mcp-gateway")
    async with connected(side.address, *who, env={"MCP_OAUTH_CLIENT_SECRET": "not-the-secret"}) as one:
        answer = await ask(one.url)
    assert answer["error"]["data"] == {"grpcStatus": "UNAUTHENTICATED"}
    assert "the token endpoint refused with invalid_client" in answer["error"]["message"]
    assert "not-the-secret" not in json.dumps([answer, one.log])
    assert side.seen == []


async def test_token_file_is_read_again_when_it_changed(side: Sidecar, tmp_path: Path) -> None:
    """Issue 4: tokens from a file; those that Kubernetes projects are replaced every hour."""
    file = tmp_path / "token"
    file.write_text("first\n")
    async with connected(side.address, "--token-file", str(file)) as one:
        await ask(one.url)
        (tmp_path / "new").write_text("second\n")
        (tmp_path / "new").replace(file)
        await ask(one.url)
    sent = [metadata["authorization"] for _, metadata in side.seen]
    assert (sent[0], sent[-1], set(sent)) == ("Bearer first", "Bearer second", {"Bearer first", "Bearer second"})


async def test_token_of_a_variable_and_the_trace_are_sent_and_nothing_else(side: Sidecar) -> None:
    """Issue 4: tokens from an environment variable; ours: headers of local clients are no metadata of the sidecar's."""
    hostile = {"x-mcp-subject": "root", "authorization": "Bearer stolen", "x-mcp-target": "a b"}
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = mirrors(CALL) | hostile | {"traceparent": trace}
    async with (
        connected(side.address, "--token-env", "MY_TOKEN", env={"MY_TOKEN": "abc"}) as one,
        httpx2.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        await client.post(one.url, json=CALL, headers=headers)
    _, metadata = side.seen[-1]
    assert metadata["authorization"] == "Bearer abc"
    assert metadata["traceparent"].split("-")[1] == trace.split("-")[1]
    assert not [name for name in metadata if name.startswith("x-mcp")]


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (("--token-env", "NOT_THERE"), {}, "$NOT_THERE is not set"),
        ((), {"MCP_TOKEN": "two words"}, "$MCP_TOKEN does not hold a token"),
        (("--token-file", "/nowhere/token"), {}, "token file /nowhere/token cannot be read"),
        (("--oauth-client-id", "a"), {}, "name who issues tokens"),
        (("--oauth-issuer", "https://issuer.example"), {}, "say who asks for tokens"),
        (
            ("--oauth-issuer", "http://issuer.example", "--oauth-client-id", "a"),
            {"MCP_OAUTH_CLIENT_SECRET": "s"},
            "an issuer is reached over https",
        ),
        (("--oauth-issuer", "https://issuer.example", "--oauth-client-id", "a"), {}, "the client's secret is missing"),
        (("--cert", "a.pem"), {}, "--cert and --key need --ca"),
        (("--as", "/nowhere"), {}, "/nowhere"),
        (("--http", "nonsense"), {}, "--http expects HOST:PORT"),
        (("--allow-host", "a"), {}, "belong to --http"),
        (("--http", "192.0.2.1:1"), {}, "cannot listen on 192.0.2.1:1"),
        (("--log-level", "loud"), {}, "--log-level expects"),
    ],
)
def test_what_a_person_can_mend_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], sentence: str
) -> None:
    """Ours: exit code 2 and a line that names the thing."""
    process = subprocess.run(
        (*command(f"unix:{tmp_path}/s.sock"), *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SECURE_MCP_GRPC_HOME": str(tmp_path), **env},
        timeout=30,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert sentence in process.stderr
    assert process.stdout == ""


class Issuer:
    """Answers like a token endpoint, from memory."""

    def __init__(self, life_s: Any = 100, document: dict[str, Any] | None = None) -> None:
        self.life_s = life_s
        self.document = document
        self.issued = 0
        self.forms: list[str] = []
        self.broken = False

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)
        if request.method == "GET":
            found = self.document is not None and "openid" not in request.url.path
            return httpx2.Response(200, json=self.document) if found else httpx2.Response(404)
        self.forms.append((await request.aread()).decode())
        if self.broken:
            return httpx2.Response(503)
        self.issued += 1
        answer = {"access_token": f"t{self.issued}", "token_type": "Bearer", "expires_in": self.life_s}
        return httpx2.Response(200, json=answer)


@contextlib.asynccontextmanager
async def credentials(issuer: Issuer, /, **grant: Any) -> AsyncIterator[tuple[ClientCredentials, list[float]]]:
    now = [1000.0]
    grant = {"token_url": "https://issuer.example/token"} | grant
    one = ClientCredentials(Grant("id", "sec:ret", **grant), client=issuer.client(), clock=lambda: now[0])
    try:
        yield one, now
    finally:
        await one.close()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_token_is_renewed_before_it_expires_and_nobody_waits() -> None:
    """Issue 4: refreshed before expiry; ours: by one question, beside the calls."""
    issuer = Issuer(life_s=100)
    async with credentials(issuer) as (one, now):
        assert await asyncio.gather(*(one.token() for _ in range(10))) == ["t1"] * 10
        now[0] += 80
        assert await asyncio.gather(*(one.token() for _ in range(10))) == ["t1"] * 10
        await settled()
        assert await one.token() == "t2"
        assert issuer.issued == 2
        issuer.broken = True
        now[0] += 80
        assert await one.token() == "t2"
        await settled()
        assert [await one.token() for _ in range(5)] == ["t2"] * 5
        assert len(issuer.forms) == 3, "a failing issuer is not asked with every call"
        now[0] += 30
        with pytest.raises(NoToken, match="refused with HTTP status 503"):
            await one.token()
        issuer.broken = False
        assert await one.token() == "t3"
        one.refused()
        assert await one.token() == "t4"


async def test_issuer_that_wants_the_secret_in_the_form_gets_it_there() -> None:
    """RFC 8414: the metadata names the endpoint and how clients say who they are."""
    document = {
        "issuer": "https://issuer.example/realm",
        "token_endpoint": "https://issuer.example/other/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    }
    issuer = Issuer(document=document)
    where = {"token_url": "", "issuer": "https://issuer.example/realm", "scope": "a b", "audience": "mcp"}
    async with credentials(issuer, **where) as (one, _):
        assert await one.token() == "t1"
    assert "client_secret=sec%3Aret" in issuer.forms[0]
    assert "scope=a+b" in issuer.forms[0]
    assert "audience=mcp" in issuer.forms[0]


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example"},
        {"token_endpoint": "http://issuer.example/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"token_endpoint": 5},
    ],
)
async def test_metadata_of_another_issuer_is_not_used(change: dict[str, Any]) -> None:
    """RFC 8414, 3.3: the issuer must be the one asked; ours: and its endpoint is reached over https."""
    document = {"issuer": "https://issuer.example", "token_endpoint": "https://issuer.example/token"} | change
    issuer = Issuer(document=document)
    async with credentials(issuer, token_url="", issuer="https://issuer.example") as (one, _):
        with pytest.raises(NoToken):
            await one.token()
    assert issuer.forms == []


def test_secret_does_not_show_in_what_is_printed() -> None:
    """Ours: a grant in a traceback or a log says nothing of its secret."""
    assert "sec:ret" not in repr(Grant("id", "sec:ret", token_url="https://issuer.example"))


async def test_file_that_loses_its_token_stops_calls_and_not_the_process(tmp_path: Path) -> None:
    """Ours: fail closed: no call goes out without the token it should have."""
    file = tmp_path / "token"
    file.write_text("abc")
    source = FileToken(file)
    assert await source.token() == "abc"
    time.sleep(0.01)
    file.write_text("")
    with pytest.raises(NoToken):
        await source.token()
    with pytest.raises(UserError):
        FixedToken("a\nb", "X")
