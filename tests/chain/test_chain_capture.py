"""What the real store holds of calls with secrets in them, and whether Envoy and the bridge tell of the same trace."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_stack import Stack, running, until
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mcp import Client

from mcp_bridge.capture import trace
from mcp_bridge.capture.sealing import open_payload

SECRETS = (
    *("hunter2-and-more", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "4111111111111111"),
    *("bob.miller@example.com", "AKIAIOSFODNN7EXAMPLE", "MIIEowIBAAKCAQEAqwertyuiop"),
)
TEXT = (
    f"password={SECRETS[0]} jwt {SECRETS[1]} card {SECRETS[2]} mail {SECRETS[3]} aws {SECRETS[4]}\n"
    f"-----BEGIN PRIVATE KEY-----\n{SECRETS[5]}\n-----END PRIVATE KEY-----"
)
JOB = "FROM interactions AS i WHERE i.correlation_id = 'job-42' AND i.tool = 'echo'"
ORDINARY = "The harvest of the north field was large in 2025."


@pytest.fixture(scope="module")
def called(stack: Stack) -> Stack:
    """Two calls of one job: an ordinary one, and one with a secret of every kind."""

    async def call() -> None:
        async with Client(stack.transport()) as client:
            with trace.continuing(correlation_id="job-42"):
                for text in (ORDINARY, TEXT):
                    assert not (await client.call_tool("echo", {"text": text})).is_error

    asyncio.run(call())
    until(lambda: stack.rows(f"SELECT count() {JOB}")[0][0] == 2)
    until(lambda: stack.rows("SELECT count() FROM requests WHERE tool = 'echo'")[0][0] == 2)
    return stack


def test_no_secret_is_in_the_store(called: Stack) -> None:
    """Issue 4: capture with sanitization, from the client to the real store."""
    for table in ("interactions", "requests", "decisions", "dead_letters", "handshakes"):
        held = str(called.rows(f"SELECT * FROM {table}"))
        assert not [secret for secret in SECRETS if secret in held], table
    [(arguments, response)] = called.rows(f"SELECT arguments, response {JOB} AND arguments LIKE '%redacted%'")
    assert json.loads(arguments)["text"].startswith("password=[redacted:")
    assert json.loads(response)["content"][0]["text"] == json.loads(arguments)["text"]


def test_no_secret_is_in_a_log(called: Stack) -> None:
    """Issue 4: nor in what the parts write down about themselves."""
    looked_at = 0
    for path in called.home.root.rglob("*"):
        if path.is_file() and path != called.journal:  # the MCP server's own
            text, looked_at = path.read_bytes(), looked_at + 1
            assert not [secret for secret in SECRETS if secret.encode() in text], path
    assert looked_at > 10


def test_envoy_and_the_bridge_tell_of_the_same_trace(called: Stack) -> None:
    """Issue 4: Envoy's traceparent equals what the sink stores for the same request."""
    sql = """
        SELECT r.trace_id = i.trace_id, i.trace_id != '', length(i.span_id), length(i.parent_span_id), i.hops
        FROM interactions AS i JOIN requests AS r ON r.request_id = i.request_id
        WHERE i.correlation_id = 'job-42' AND i.tool = 'echo'
    """
    assert called.rows(sql) == [(1, 1, 16, 16, 1)] * 2
    assert len(called.rows(f"SELECT DISTINCT trace_id {JOB}")) == 1


def test_data_is_followed_from_argument_to_result(called: Stack) -> None:
    """Issue 4: digests; echo gives what it got."""
    sql = f"SELECT hasAny(digests_in, digests_out), tokens_source {JOB}"
    assert called.rows(sql) == [(1, "estimated")] * 2


@pytest.fixture(scope="module")
def key() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


@pytest.fixture(scope="module")
def sealing(root: Path, key: X25519PrivateKey) -> Iterator[Stack]:
    public = root / "capture.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with running(root / "sealed", {"bridge": {"capture_public_key_file": str(public)}}) as stack:
        yield stack


def test_the_store_cannot_read_sealed_payloads(sealing: Stack, key: X25519PrivateKey) -> None:
    """Issue 4: encryption of stored payloads with a key the store does not have."""

    async def call() -> None:
        async with Client(sealing.transport()) as client:
            await client.call_tool("echo", {"text": ORDINARY})

    asyncio.run(call())
    sql = "SELECT payload_encoding, arguments, response FROM interactions WHERE tool = 'echo'"
    [(encoding, arguments, response)] = until(lambda: sealing.rows(sql))

    assert encoding == "sealed1"
    assert "harvest" not in arguments + response
    assert json.loads(open_payload(key, arguments)) == {"text": ORDINARY}
    assert ORDINARY in open_payload(key, response)
