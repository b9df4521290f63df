"""Plain HTTP switched off, over HTTP/2, with tokens for certificates, over limits, and with its neighbours away."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import mcp
import pytest
import raw_client
import yaml
from chain_stack import Stack, run_cli, until
from mcp.client.streamable_http import streamable_http_client
from plain_kit import (
    HANDSHAKE,
    PLAIN_POLICY,
    Wire,
    client,
    echo,
    exchange,
    http1,
    message,
    mirrors,
    plain_stack,
    tls,
    url,
)

QUIET = ("store", "sink")
LIST = message("tools/list")
DISCOVER = message("server/discover")


def test_switched_off_nothing_of_it_is_there() -> None:
    """Issue 4: without streamable_http the port speaks HTTP/2 and gRPC only, and the bridge has one socket."""
    with plain_stack({"common": {"streamable_http": False}}, QUIET) as stack:
        for method in ("POST", "GET", "DELETE", "PUT"):
            base = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", "/mcp")]
            answer = raw_client.request(stack.address, stack.home.certs / "model-a", instead=base)
            assert answer.headers[":status"] == "404"
        try:
            reply = exchange(stack, http1(LIST))
        except OSError:
            reply = None
        assert reply is None or reply.closed
        assert not (stack.home.run_dir / "bridge-http.sock").exists()


@pytest.fixture(scope="module")
def tight() -> Iterator[Stack]:
    """Small limits, and one origin that is allowed."""
    limits = {"per_client_per_second": 1000, "per_tool_per_second": 1, "per_tool_burst": 2}
    authz: dict[str, Any] = {"allowed_origins": ["https://app.example"]}
    with plain_stack({"limits": limits, "authz": authz}, QUIET) as stack:
        yield stack


async def test_client_over_http2_works(tight: Stack) -> None:
    """Issue 4: the endpoint speaks HTTP/2, too."""
    async with (
        httpx2.AsyncClient(verify=tls(tight, "model-a"), http2=True, timeout=30) as http_client,
        mcp.Client(streamable_http_client(url(tight), http_client=http_client)) as one,
    ):
        answer = await one.call_tool("echo", {"text": "two"})
    assert answer.content[0].text == "two"


def test_limit_by_tool_says_when_to_come_back(tight: Stack) -> None:
    """Issue 4: rate limits; RFC 9110, 10.2.3: 429 with retry-after, as JSON."""
    with Wire(tight, "model-c") as wire:
        replies = [wire.send(http1(echo("limit"))).read() for _ in range(4)]
    limited = [reply for reply in replies if reply.status == 429]
    assert limited
    assert limited[0].headers["retry-after"] == "1"
    assert (limited[0].error["code"], limited[0].error["data"]) == (-32012, {"grpcStatus": "RESOURCE_EXHAUSTED"})
    assert tight.recorded().count("echo limit") == 4 - len(limited)


def test_allowed_origin_is_judged_like_any_client(tight: Stack) -> None:
    """Ours: allowed_origins; exact values, and no CORS headers."""
    allowed = exchange(tight, http1(LIST, {**mirrors(LIST), "origin": "https://app.example"}))
    assert allowed.status == 200
    assert "access-control-allow-origin" not in allowed.headers
    for other in ("https://app.example.evil", "http://app.example", "https://app.example:444", "https://APP.example"):
        assert exchange(tight, http1(LIST, {**mirrors(LIST), "origin": other})).status == 403


def test_bridge_away_is_unavailable_as_json(tight: Stack) -> None:
    """Ours: what Envoy itself says at the endpoint is JSON-RPC, too. The bridge comes back by itself."""
    os.kill(tight.pid("bridge"), signal.SIGKILL)
    reply = exchange(tight, http1(DISCOVER))  # other tests leave room for it within the limit
    assert (reply.status, reply.error["data"]) == (503, {"grpcStatus": "UNAVAILABLE"})
    assert reply.headers["content-type"] == "application/json"
    until(lambda: exchange(tight, http1(LIST)).status == 200)


def test_authz_away_refuses_everything(tight: Stack) -> None:
    """Design: a service that does not answer refuses everything, as unavailable."""
    os.kill(tight.pid("authz"), signal.SIGSTOP)
    try:
        reply = exchange(tight, http1(echo("unjudged")))
    finally:
        os.kill(tight.pid("authz"), signal.SIGCONT)
    assert (reply.status, reply.error["data"]) == (503, {"grpcStatus": "UNAVAILABLE"})
    assert "authorization is unavailable" in reply.error["message"]
    assert "echo unjudged" not in tight.recorded()
    until(lambda: exchange(tight, http1(LIST)).status == 200)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Clients show a token and no certificate."""
    root = tmp_path_factory.mktemp("issuer")
    keys = yaml.safe_load(run_cli("token", "keys", "--dir", str(root)).stdout)
    changes = {
        "common": {"auth_type": "jwt"},
        "authz": keys["authz"],
        "server": {"authorization_servers": ["https://login.example"], "resource": "https://tools.example/mcp"},
    }
    with plain_stack(changes, QUIET) as stack:
        stack.auth_type = "jwt"
        stack.set_policy(PLAIN_POLICY + "g, user:dev:alice, role:user\n")
        stack.repository = root
        alice = {**mirrors(DISCOVER), "authorization": f"Bearer {token(stack, 'alice')}"}
        until(lambda: exchange(stack, http1(DISCOVER, alice), None).status == 200)  # the policy is in force
        yield stack


def token(stack: Stack, subject: str) -> str:
    issued = run_cli("token", "issue", "--subject", subject, "--dir", str(stack.repository))
    assert issued.returncode == 0, issued.stderr
    return issued.stdout.strip()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_bearer_token_is_the_identity(tokens: Stack, mode: str) -> None:
    """Issue 4: with auth types jwt and oauth2 a bearer token, no certificate; in both eras."""
    async with client(tokens, None, mode=mode, token=token(tokens, "alice")) as one:
        answer = await one.call_tool("echo", {"text": f"token {mode}"})
        with pytest.raises(mcp.MCPError) as refused:
            await one.call_tool("forbidden", {"text": "x"})
    assert answer.content[0].text == f"token {mode}"
    assert refused.value.error.message == "user:dev:alice may not call forbidden: no rule allows it"


def test_request_without_a_good_token_is_told_where_to_get_one(tokens: Stack) -> None:
    """RFC 9728, 5.1 and RFC 6750, 3: 401 with a challenge; the body is JSON-RPC under the request's id."""
    nothing = exchange(tokens, http1(echo("none", number="n1")), None)
    assert (nothing.status, nothing.json["id"], nothing.error["code"]) == (401, "n1", -32010)
    where = 'resource_metadata="https://tools.example/.well-known/oauth-protected-resource/mcp"'
    assert nothing.headers["www-authenticate"] == f"Bearer {where}"
    bad = exchange(tokens, http1(echo("none"), {**mirrors(echo("none")), "authorization": "Bearer x.y.z"}), None)
    assert bad.status == 401
    assert bad.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    metadata = exchange(tokens, http1(b"", method="GET", path="/.well-known/oauth-protected-resource/mcp"), None)
    assert metadata.json["resource"] == "https://tools.example/mcp"
    assert not [line for line in tokens.recorded() if "none" in line]


def test_session_of_another_user_is_no_session(tokens: Stack) -> None:
    """Ours: sessions belong to the user of the token."""
    hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    tokens.set_policy(PLAIN_POLICY + "g, user:dev:alice, role:user\ng, user:dev:bob, role:user\n")
    alice, bob = ({"authorization": f"Bearer {token(tokens, name)}"} for name in ("alice", "bob"))
    until(lambda: exchange(tokens, http1(LIST, {**mirrors(LIST), **bob}), None).status == 200)
    opened = exchange(tokens, http1(message("initialize", hello, modern=False), alice), None)
    session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": HANDSHAKE}
    call = echo("theirs", modern=False)
    assert exchange(tokens, http1(call, {**session, **bob}), None).status == 404
    assert exchange(tokens, http1(b"", {**session, **bob}, method="DELETE"), None).status == 404
    assert "echo theirs" not in tokens.recorded()
    assert exchange(tokens, http1(call, {**session, **alice}), None).status == 200
