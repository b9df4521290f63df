"""Clients that show tokens, at the whole running stack: with a certificate, and without one."""

import base64
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from ssl import create_default_context

import pytest
import yaml
from chain_stack import POLICY, Stack, make_home, run_cli, running, until
from raw_client import Answer, frame, request

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

TOKEN_POLICY = (
    POLICY
    + """\
p, role:analyst, tools/call, echo, allow, len(args.text) <= 20
p, user:dev:bob, tools/call, forbidden, deny
g, user:dev:alice, role:session
g, user:dev:bob, role:session
"""
)


@pytest.fixture(scope="module", params=["mtls+jwt", "jwt"])
def stack(request: pytest.FixtureRequest, root: Path) -> Iterator[Stack]:
    """A sidecar that trusts the development issuer of its home."""
    home = make_home(root / request.param)
    home.policy.write_text(TOKEN_POLICY)
    issuer = yaml.safe_load(run_cli("token", "keys", "--dir", str(home.root)).stdout)
    changes = {
        "common": {"auth_type": request.param},
        "authz": issuer["authz"],
        "server": {"authorization_servers": ["https://login.example"], "resource": "https://tools.example/"},
    }
    with running(home.root, changes, home) as stack:
        stack.auth_type = request.param
        yield stack


def token(stack: Stack, subject: str, *options: str) -> str:
    issued = stack.cli("token", "issue", "--subject", subject, *options)
    assert issued.returncode == 0, issued.stderr
    return issued.stdout.strip()


def call(stack: Stack, bearer: str, text: str, tool: str = "echo") -> subprocess.CompletedProcess[str]:
    """`secure-mcp-grpc call` as model-a, or without a certificate where none is asked for."""
    as_ = ("--as", "model-a") if stack.auth_type == "mtls+jwt" else ()
    arguments = json.dumps({"text": text})
    command = ("call", tool, arguments, *as_, "--dir", str(stack.home.root))
    return run_cli(*command, env={"MCP_TOKEN": bearer})


def test_a_user_with_the_role_may_call_within_the_condition(stack: Stack) -> None:
    """Issue 3: roles from claims, conditions on arguments, recorded with user, workload and token."""
    analyst = token(stack, "alice", "--role", "analyst", "--act", "planner", "--act", "scheduler")

    answer = call(stack, analyst, "short enough")

    assert (answer.returncode, answer.stdout.strip()) == (0, "short enough"), answer.stderr
    sql = "SELECT identity, user, rule, record FROM decisions WHERE tool = 'echo' AND decision = 'allow'"
    identity, user, rule, record = until(lambda: stack.rows(sql))[0]
    assert user == "user:dev:alice"
    assert identity == ("model-a" if stack.auth_type == "mtls+jwt" else "user:dev:alice")
    assert "role:analyst" in rule
    decision = json.loads(record)
    assert decision["actors"] == ["user:dev:planner", "user:dev:scheduler"]
    assert decision["token_id"]
    assert "role:analyst" in decision["user_roles"]
    assert analyst not in record
    assert "short enough" not in record


@pytest.mark.parametrize(
    ("subject", "roles", "text", "sentence"),
    [
        (
            "alice",
            ("--role", "analyst"),
            "x" * 21,
            "user:dev:alice may not call echo: no rule allows it with these arguments",
        ),
        ("alice", (), "hello", "user:dev:alice may not call echo: no rule allows it"),
        ("bob", ("--role", "other"), "hello", "user:dev:bob may not call echo: no rule allows it"),
    ],
    ids=["beyond the condition", "without the role", "another user"],
)
def test_a_user_beyond_its_rights_is_refused(
    stack: Stack, subject: str, roles: tuple[str, ...], text: str, sentence: str
) -> None:
    """Issue 3: with a certificate and a token both identities must be allowed."""
    answer = call(stack, token(stack, subject, *roles), text)

    assert answer.returncode == 4
    assert sentence in answer.stderr
    assert not any(text in line for line in stack.recorded())


@pytest.mark.parametrize("stack", ["mtls+jwt"], indirect=True)
def test_a_user_with_every_right_is_no_help_to_a_workload_without(stack: Stack) -> None:
    """Issue 3: both must be allowed."""
    bearer = token(stack, "alice", "--role", "analyst")
    command = ("call", "echo", '{"text": "hi"}', "--as", "model-b", "--dir", str(stack.home.root))

    answer = run_cli(*command, env={"MCP_TOKEN": bearer})

    assert answer.returncode == 4
    assert "model-b may not call echo: no rule allows it" in answer.stderr


@pytest.mark.parametrize("stack", ["mtls+jwt"], indirect=True)
def test_a_bound_token_counts_with_its_certificate_only(stack: Stack) -> None:
    """RFC 8705, 3: cnf.x5t#S256 names the certificate that it may come with."""
    own = token(stack, "alice", "--role", "analyst", "--bound-to", "model-a")
    stolen = token(stack, "alice", "--role", "analyst", "--bound-to", "model-b")

    assert call(stack, own, "mine").returncode == 0
    refused = call(stack, stolen, "stolen")

    assert refused.returncode == 4
    assert "the token is bound to another client certificate" in refused.stderr
    assert "echo stolen" not in stack.recorded()


@pytest.mark.parametrize("stack", ["jwt"], indirect=True)
def test_a_certificate_is_not_believed_where_tokens_are_the_identity(stack: Stack) -> None:
    """Issue 3: server certificate only, identity from the token."""
    answer = raw(stack, [])

    assert answer.grpc_status == 16


def raw(stack: Stack, tokens: list[str]) -> Answer:
    body = pb.Request(method="tools/list", id_json=b"1").SerializeToString()
    headers = [("authorization", f"Bearer {one}") for one in tokens]
    return request(stack.address, stack.home.certs / "model-a", body=frame(body), headers=headers)


def test_without_a_token_a_client_learns_where_to_get_one(stack: Stack) -> None:
    """RFC 9728, 5.1: the challenge names the metadata, the metadata names the authorization server."""
    challenge = raw(stack, []).headers["www-authenticate"]
    context = create_default_context(cafile=str(stack.home.certs / "sidecar" / "ca.crt"))
    if stack.auth_type == "mtls+jwt":
        directory = stack.home.certs / "model-a"
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    url = f"https://{stack.address}/.well-known/oauth-protected-resource"
    with urllib.request.urlopen(url, context=context, timeout=5) as answer:
        metadata = json.load(answer)

    assert 'resource_metadata="https://tools.example/.well-known/oauth-protected-resource"' in challenge
    assert metadata["resource"] == "https://tools.example/"
    assert metadata["authorization_servers"] == ["https://login.example"]
    assert metadata["bearer_methods_supported"] == ["header"]


def test_two_tokens_are_one_too_many(stack: Stack) -> None:
    """Issue 3: another reader might take the other one."""
    good = token(stack, "alice", "--role", "analyst")

    for shown in ([good, good], [good, "x"], ["x", good]):
        assert raw(stack, shown).grpc_status == 16


def test_a_revoked_token_stops_at_once_and_another_of_the_same_user_does_not(stack: Stack) -> None:
    """Issue 3: revocation of tokens (jti), in force within a second."""
    first, second = (token(stack, "alice", "--role", "analyst") for _ in range(2))
    assert call(stack, first, "before").returncode == 0
    token_id = json.loads(base64.urlsafe_b64decode(first.split(".")[1] + "=="))["jti"]

    revoked = stack.cli("revoke", "token", token_id, "--reason", "lost laptop")
    at = time.monotonic()
    until(lambda: call(stack, first, "after").returncode == 4)

    assert revoked.returncode == 0, revoked.stderr
    assert time.monotonic() - at < 5  # the command line alone takes about one
    assert "revoked" in call(stack, first, "after").stderr
    assert "lost laptop" not in call(stack, first, "after").stderr
    assert call(stack, second, "another").returncode == 0


def test_tokens_are_nowhere_to_be_found_afterwards(stack: Stack) -> None:
    """Ours: not in logs, the journal or the store."""
    secret = token(stack, "alice", "--role", "analyst")
    assert call(stack, secret, "traceless").returncode == 0
    until(lambda: stack.rows("SELECT count() FROM requests WHERE tool = 'echo'")[0][0])
    signature = secret.rpartition(".")[2]

    for path in stack.home.root.rglob("*"):
        if path.is_file() and "store" not in path.parts and path.stat().st_size < 10_000_000:
            assert signature.encode() not in path.read_bytes(), path
    for table in ("requests", "decisions", "interactions", "dead_letters"):
        for row in stack.rows(f"SELECT * FROM {table}"):
            assert signature not in str(row), table
