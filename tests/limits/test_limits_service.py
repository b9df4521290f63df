"""Whole sidecars' authz_service processes around one Redis: quotas, revocations, health, journal."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2
from limits_harness import RedisServer, cli, until

from secure_mcp_grpc import lifecycle

sys.path.append(str(Path(__file__).parents[1] / "authz"))

from authz_requests import CERTIFICATES, POLICY, Answered, authorization, certificate, check_request, records

NEW_CERTIFICATE = certificate("spiffe://mcp.internal/model-a", serial=0x77)


class Node:
    """One authz_service process in `directory`."""

    def __init__(self, directory: Path, **environment: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.run_dir = directory / "run"
        self.policy = directory / "policy.csv"
        self.policy.write_bytes(POLICY)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MCP_RUN_DIR": str(self.run_dir),
            "MCP_NODE_ID": directory.name,
            "MCP_AUTHZ_METRICS_PORT": "0",
            "MCP_AUTHZ_POLICY_FILE": str(self.policy),
            "MCP_AUTHZ_JOURNAL_DIR": str(directory / "journal"),
            "MCP_AUTHZ_REVOCATIONS_FILE": str(directory / "revocations.json"),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.log = b""

    async def start(self) -> None:
        announcement = lifecycle.announcement_path(self.run_dir, "authz")
        announcement.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "authz_service"], env=self.environment, stderr=subprocess.PIPE
        )
        process = self.process
        await until(lambda: announcement.exists() or process.poll() is not None, timeout_s=20)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=10)
        self.log += log
        code, self.process = self.process.returncode, None
        return code

    async def check(self, new_certificate: bool = False, **options: Any) -> Answered:
        request = check_request(**options)
        if new_certificate:
            request.attributes.source.certificate = NEW_CERTIFICATE
        async with authorization(self.run_dir / "authz.sock") as check:
            answer = await check(request)
        assert isinstance(answer, Answered)
        return answer

    async def answers(self, code: int, *, within_s: float, **options: Any) -> Answered:
        """The first answer with `code`."""
        async with asyncio.timeout(within_s):
            while (answer := await self.check(**options)).code != code:
                await asyncio.sleep(0.01)
        return answer

    async def health(self, name: str = "") -> str:
        async with grpc.aio.insecure_channel(f"unix:{self.run_dir / 'authz.sock'}") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = await check(health_pb2.HealthCheckRequest(service=name), timeout=5, wait_for_ready=True)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def is_shared_state(self, status: str) -> None:
        async with asyncio.timeout(5):
            while await self.health("shared_state") != status:
                await asyncio.sleep(0.02)

    def metric(self, name: str) -> float:
        document = json.loads(lifecycle.announcement_path(self.run_dir, "authz").read_text())
        with urlopen(f"http://{document['endpoints']['metrics']}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    def noted(self) -> list[tuple[str, str]]:
        found = records(self.directory / "journal")
        return [(entry["reason"], entry["rule"]) for entry in found if entry["kind"] == "revocation"]


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield
    finally:
        for node in nodes:
            if node.process is not None:
                node.stop(signal.SIGKILL)


async def test_revoked_on_every_sidecar_within_a_second(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: revoke on the command line; both sidecars refuse the identity, whatever its certificate."""
    one, two = (Node(short_dir / name, REDIS_URL=redis_server.url) for name in ("one", "two"))
    async with running(one, two):
        assert (await one.check()).code == (await two.check()).code == 0
        await asyncio.to_thread(
            cli, "revoke", "identity", "model-a", "--reason", "stolen laptop", home=short_dir / "cli", url=one_url(one)
        )
        for node in (one, two):
            refused = await node.answers(7, within_s=1)
            assert refused.metadata["reason"] == "revoked"
            assert "stolen" not in str(refused.response)
            assert (await node.check(new_certificate=True)).code == 7
            assert (await node.check(subject="model-c", name="git_status")).code == 0
        await asyncio.to_thread(cli, "unrevoke", "identity", "model-a", home=short_dir / "cli", url=one_url(one))
        for node in (one, two):
            await node.answers(0, within_s=1)
        assert one.stop() == 0

    reasons = [reason for reason, _ in two.noted()]
    assert reasons == ["revoked", "unrevoked"]
    assert "stolen laptop" in two.noted()[0][1]


def one_url(node: Node) -> str:
    return node.environment["REDIS_URL"]


async def test_certificates_are_refused_as_credentials(short_dir: Path) -> None:
    """Issue 3: a revoked serial number is UNAUTHENTICATED; a new certificate of the same identity is not."""
    node = Node(short_dir / "one")
    async with running(node):
        await asyncio.to_thread(cli, "revoke", "certificate", "00:0A:BC", home=node.directory)
        refused = await node.answers(16, within_s=1)
        assert refused.metadata["reason"] == "revoked"
        assert refused.headers["grpc-message"] == "the client certificate has been revoked"
        assert (await node.check(new_certificate=True)).code == 0
    assert CERTIFICATES["model-a"] != NEW_CERTIFICATE


async def test_quarantine_ends_by_itself(short_dir: Path) -> None:
    """Issue 3: the same mechanism, with reason and automatic end."""
    node = Node(short_dir / "one")
    async with running(node):
        quarantine = ("quarantine", "model-a", "--for", "1.5s", "--reason", "burst")
        await asyncio.to_thread(cli, *quarantine, home=node.directory)
        refused = await node.answers(7, within_s=1)
        assert refused.metadata["reason"] == "quarantined"
        await node.answers(0, within_s=3)
        await until(lambda: [reason for reason, _ in node.noted()] == ["quarantined", "ended"])


async def test_losing_redis_revives_nobody_over_a_restart(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: Redis gone, authz killed and started without it, Redis back and empty: refused throughout."""
    node = Node(short_dir / "one", REDIS_URL=redis_server.url)
    async with running(node):
        await node.is_shared_state("SERVING")
        await asyncio.to_thread(cli, "revoke", "identity", "model-a", home=short_dir / "cli", url=redis_server.url)
        await node.answers(7, within_s=1)
        redis_server.kill()
        await node.is_shared_state("NOT_SERVING")
        assert node.metric("mcp_authz_shared_state_up") == 0
        assert await node.health() == "SERVING"
        assert (await node.check()).code == 7
        node.stop(signal.SIGKILL)
        await node.start()
        assert (await node.check()).code == 7
        assert (await node.check(subject="model-c", name="git_status")).code == 0
        redis_server.start()
        await node.is_shared_state("SERVING")
        assert node.metric("mcp_authz_shared_state_up") == 1
        assert (await node.check()).code == 7
        other = Node(short_dir / "two", REDIS_URL=redis_server.url)
        async with running(other):
            assert (await other.check()).code == 7 or (await other.answers(7, within_s=1))


async def test_a_new_sidecar_without_redis_admits_nobody(short_dir: Path) -> None:
    """Ours: it cannot know who is revoked."""
    node = Node(short_dir / "one", REDIS_URL=f"unix://{short_dir}/none.sock")
    async with running(node):
        refused = await node.check()

    assert (refused.code, refused.metadata["reason"]) == (14, "shared_state_unavailable")


async def test_refuse_refuses_while_redis_is_lost(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: configurable to refuse instead; and to come back by itself."""
    node = Node(short_dir / "one", REDIS_URL=redis_server.url, MCP_AUTHZ_WHEN_REDIS_IS_LOST="refuse")
    async with running(node):
        await node.answers(0, within_s=2)
        redis_server.freeze()
        refused = await node.answers(14, within_s=2)
        assert refused.metadata["reason"] == "shared_state_unavailable"
        redis_server.thaw()
        await node.answers(0, within_s=2)


async def test_quota_across_sidecars_with_a_hint(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: identity and tool, shared; the sentence names the quota and when to come back."""
    quotas = {"MCP_AUTHZ_QUOTAS": "reads identity_tool 3/60 get_*", "MCP_AUTHZ_REDIS_TIMEOUT_S": "1"}
    nodes = [Node(short_dir / name, REDIS_URL=redis_server.url, **quotas) for name in ("one", "two")]
    async with running(*nodes):
        for node in nodes:
            await node.is_shared_state("SERVING")
        codes = [(await nodes[number % 2].check()).code for number in range(3)]
        refused = await nodes[1].check()
        other = await nodes[1].check(subject="model-c", name="git_status")
        record = records(nodes[1].directory / "journal")[-2]

    assert codes == [0, 0, 0]
    assert refused.code == 8
    assert refused.metadata["reason"] == "quota_exceeded"
    sentence = refused.headers["grpc-message"]
    assert sentence.startswith("model-a has used up its quota of 3 calls per 60 s for get_current_time; try again in ")
    assert 50 < int(refused.headers["retry-after"]) <= 63
    assert other.code == 0
    assert (record["reason"], record["rule"]) == ("quota_exceeded", "quota reads")


async def test_a_hanging_redis_does_not_slow_calls(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3, bounded time: one call waits for a timeout, those after it for nothing."""
    node = Node(short_dir / "one", REDIS_URL=redis_server.url, MCP_AUTHZ_QUOTAS="all identity 100000/60")
    async with running(node):
        await node.is_shared_state("SERVING")
        async with authorization(node.run_dir / "authz.sock") as check:
            await check(check_request())
            redis_server.freeze()
            started = time.perf_counter()
            assert (await check(check_request())).code == 0
            first = time.perf_counter() - started
            started = time.perf_counter()
            for _ in range(50):
                assert (await check(check_request())).code == 0
            after = time.perf_counter() - started
        redis_server.thaw()

    assert first < 1.5
    assert after < 2.5


@pytest.mark.parametrize("text", [b"{", b'{"format":1,"entries":[{"kind":"identity","value":"A","at_us":1}]}'])
async def test_a_damaged_file_stops_the_start(short_dir: Path, text: bytes) -> None:
    """Ours: one line that names the file; not a start that forgets who is revoked."""
    node = Node(short_dir / "one")
    (node.directory / "revocations.json").write_bytes(text)
    (node.directory / "revocations.json").chmod(0o600)
    async with running(node):
        assert node.process is not None
        _, log = node.process.communicate(timeout=10)
        code = node.process.returncode
        node.process = None

    assert code == 2
    assert b"revocations.json" in log.splitlines()[-1]


async def test_a_secret_url_from_a_file_is_never_logged(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: redis_url_file, as the store's URL has; a password in it stays there."""
    (short_dir / "url").write_text(f"unix://:pa55word@{redis_server.socket}\n")
    node = Node(short_dir / "one", MCP_AUTHZ_REDIS_URL_FILE=str(short_dir / "url"))
    async with running(node):
        await asyncio.sleep(0.5)
        assert await node.health("shared_state") in ("SERVING", "NOT_SERVING")
        node.stop()

    assert b"pa55word" not in node.log
    assert b"shared_state_" in node.log


async def test_a_policy_reload_is_announced(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: with Redis a reload is announced; the others hear of it and look."""
    one, two = (Node(short_dir / name, REDIS_URL=redis_server.url) for name in ("one", "two"))
    async with running(one, two):
        with redis_server.client() as client:
            await until(lambda: client.pubsub_numsub("mcp:policy")[0][1] == 2)
        one.policy.write_bytes(POLICY + b"g, model-b, role:reader\n")
        await one.answers(0, within_s=2, subject="model-b")
        two.policy.write_bytes(POLICY + b"g, model-b, role:reader\n")
        await two.answers(0, within_s=2, subject="model-b")
        two.stop()

    assert b"policy_announced" in two.log
