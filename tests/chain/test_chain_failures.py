"""What happens when a part dies, a policy changes or breaks, or a stranger knocks — seen from outside."""

import asyncio
import json
import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from chain_stack import POLICY, Stack, health, until
from mcp import Client, MCPError

from secure_mcp_grpc import certs, svid
from secure_mcp_grpc.demo.handshake import tls_refusal


def status_of(error: MCPError) -> str:
    return str(error.error.data["grpcStatus"])


async def outcome(client: Client, tool: str = "echo") -> str:
    try:
        await client.call_tool(tool, {"text": "x"})
    except MCPError as error:
        return status_of(error)
    return "OK"


async def outcomes_until(client: Client, wanted: str, timeout_s: float = 20) -> list[str]:
    """Call again and again until `wanted` comes; everything that came before it."""
    came: list[str] = []
    async with asyncio.timeout(timeout_s):
        while (latest := await outcome(client)) != wanted:
            came.append(latest)
            await asyncio.sleep(0.01)
    return came


async def test_a_policy_is_in_force_within_two_seconds(stack: Stack) -> None:
    """Issue: edit policy.csv while running: in force within 2 s without restart."""
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"
        try:
            stack.set_policy(POLICY + "p, model-a, tools/call, echo, deny\n")
            start = time.monotonic()
            await outcomes_until(client, "PERMISSION_DENIED")
            assert time.monotonic() - start < 2
        finally:
            stack.set_policy(POLICY)
        start = time.monotonic()
        await outcomes_until(client, "OK")
        assert time.monotonic() - start < 2


async def test_a_broken_policy_changes_nothing_and_is_reported(stack: Stack) -> None:
    """Issue: a broken file changes nothing and is reported."""
    log = stack.home.root / "up.log"
    before = log.stat().st_size
    async with Client(stack.transport()) as client:
        try:
            stack.set_policy(POLICY + "p, model-a, tools/call\n")
            line = POLICY.count("\n") + 1
            await asyncio.to_thread(until, lambda: f"policy.csv:{line}:" in log.read_text()[before:])
            assert await outcome(client) == "OK"
            assert await outcome(client, "forbidden") == "PERMISSION_DENIED"
            seen = await asyncio.to_thread(stack.cli, "health", "--json")
        finally:
            stack.set_policy(POLICY)
    authz = json.loads(seen.stdout)["authz"]
    assert (seen.returncode, authz["state"]) == (1, "degraded")
    assert authz["why"] == "the policy files were refused: the policy before them is in force"
    await asyncio.to_thread(until, lambda: stack.cli("health").returncode == 0)
    kinds = "SELECT count() FROM decisions WHERE kind = 'policy' AND reason = 'refused'"
    await asyncio.to_thread(until, lambda: stack.rows(kinds)[0][0])


async def test_without_authz_everything_is_refused_and_it_comes_back_by_itself(stack: Stack) -> None:
    """Issue: kill -9 authz_service under load: only refusals until it is back; then no reconnect by hand."""
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"
        os.kill(stack.pid("authz"), signal.SIGKILL)
        calls = [outcomes_until(client, "OK") for _ in range(4)]
        came = {status for statuses in await asyncio.gather(*calls) for status in statuses}
        assert came <= {"UNAVAILABLE"}
        assert await outcome(client, "forbidden") == "PERMISSION_DENIED"

    parts = health(stack)
    assert parts["authz"]["restarts"] >= 1


async def test_while_authz_is_stopped_no_call_passes(stack: Stack) -> None:
    """Issue: while authz_service is down every request is refused. A stopped process is worse than a dead one."""
    recorded = len(stack.recorded())
    pid = stack.pid("authz")
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"
        os.kill(pid, signal.SIGSTOP)
        try:
            assert {await outcome(client) for _ in range(3)} == {"UNAVAILABLE"}
        finally:
            os.kill(pid, signal.SIGCONT)
        await outcomes_until(client, "OK")
    assert len(stack.recorded()) == recorded + 2


async def test_a_killed_bridge_is_unavailable_and_comes_back(stack: Stack) -> None:
    """Issue: kill -9 the bridge: clear UNAVAILABLE."""
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"
        os.kill(stack.pid("bridge"), signal.SIGKILL)
        came = set(await outcomes_until(client, "OK"))
    assert came <= {"UNAVAILABLE"}


async def test_calls_go_on_without_the_sink_and_decisions_arrive_later(stack: Stack) -> None:
    """Issue: kill -9 the sink: calls keep working. Ours: the journal catches up."""
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"
        os.kill(stack.pid("sink"), signal.SIGKILL)
        assert [await outcome(client) for _ in range(20)] == ["OK"] * 20
    await asyncio.to_thread(until, lambda: health(stack)["sink"]["state"] == "ready")
    sql = "SELECT count() = max(seq) FROM decisions GROUP BY chain ORDER BY max(ts) DESC LIMIT 1"
    await asyncio.to_thread(until, lambda: stack.rows(sql) == [(True,)], 30)


@pytest.fixture(scope="module")
def strangers(stack: Stack) -> dict[str, Path | None]:
    root = stack.home.certs
    certs.init_ca(root / "other-ca", "test.mcp")
    certs.issue(root / "other-ca", root / "stranger", "model-a", "test.mcp")
    certs.init_ca(root / "ca2", "evil.mcp")
    certs.issue(stack.home.ca, root / "expired", "model-a", "test.mcp", lifetime=timedelta(seconds=1))
    certs.issue(stack.home.ca, root / "elsewhere", "model-a", "evil.mcp", allow_other_trust_domain=True)
    time.sleep(1.1)
    return {
        "no certificate": None,
        "wrong CA": root / "stranger",
        "expired": root / "expired",
        "wrong trust domain": root / "elsewhere",
        "two identities": two_identities(stack),
    }


def two_identities(stack: Stack) -> Path:
    """A certificate of our own CA that names two workloads."""
    ca, key = certs.load_ca(stack.home.ca)
    leaf, leaf_key = svid.make_leaf(ca, key, ["spiffe://test.mcp/model-a", "spiffe://test.mcp/model-b"])
    directory = stack.home.certs / "two"
    certs.replace_identity(directory, {"tls.crt": svid.pem(leaf), "tls.key": svid.key_pem(leaf_key)})
    return directory


@pytest.mark.parametrize(
    ("what", "claimed"),
    [
        ("no certificate", ""),
        ("wrong CA", "spiffe://test.mcp/model-a"),
        ("expired", "spiffe://test.mcp/model-a"),
        ("wrong trust domain", "spiffe://evil.mcp/model-a"),
        ("two identities", "spiffe://test.mcp/model-a,spiffe://test.mcp/model-b"),
    ],
)
def test_a_stranger_is_refused_and_recorded_without_a_name(
    stack: Stack, strangers: dict[str, Path | None], what: str, claimed: str
) -> None:
    """Issue: handshake refused, and a row in the store says so without attributing it to the claimed identity."""
    before = len(stack.rows("SELECT 1 FROM handshakes"))
    requests = stack.rows("SELECT count() FROM requests")

    assert tls_refusal(stack.address, stack.home.certs / "model-a" / "ca.crt", strangers[what])

    until(lambda: len(stack.rows("SELECT 1 FROM handshakes")) > before)
    failure, claim = stack.rows("SELECT failure, claimed_id FROM handshakes ORDER BY ts DESC LIMIT 1")[0]
    assert failure
    assert claim in ("", claimed)
    assert stack.rows("SELECT count() FROM requests") == requests


async def test_a_rotated_certificate_is_served_without_a_restart(stack: Stack) -> None:
    """Issue: written by rename so that Envoy's SDS rotates them live."""
    before = serial(stack)
    certs.issue(
        stack.home.ca, stack.home.certs / "sidecar", "sidecar", "test.mcp", dns=["localhost"], ips=["127.0.0.1"]
    )
    await asyncio.to_thread(until, lambda: serial(stack) != before)
    async with Client(stack.transport()) as client:
        assert await outcome(client) == "OK"


def serial(stack: Stack) -> str:
    """Serial number of the certificate that Envoy serves now."""
    directory = stack.home.certs / "model-a"
    command = ("openssl", "s_client", "-connect", stack.address, "-cert", str(directory / "tls.crt"))
    shown = subprocess.run(
        (*command, "-key", str(directory / "tls.key")), input=b"", capture_output=True, check=False, timeout=10
    )
    parsed = subprocess.run(
        ("openssl", "x509", "-noout", "-serial"), input=shown.stdout, capture_output=True, check=False
    )
    return parsed.stdout.decode().strip()
