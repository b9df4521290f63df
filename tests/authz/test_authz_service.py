"""The process as a whole: `python -m authz_service` on a Unix socket."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from authz_requests import POLICY, authorization, check_request, records, until
from grpc_health.v1 import health_pb2

from secure_mcp_grpc import lifecycle


class Process:
    """A running service in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.policy = directory / "policy.csv"
        self.policy.write_bytes(POLICY)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MCP_RUN_DIR": str(self.run_dir),
            "MCP_AUTHZ_METRICS_PORT": "0",
            "MCP_AUTHZ_POLICY_FILE": str(self.policy),
            "MCP_AUTHZ_JOURNAL_DIR": str(directory / "journal"),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.run_dir / "authz.sock"

    def launch(self, **environment: str) -> "subprocess.Popen[bytes]":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "authz_service"], env=self.environment | environment, stderr=subprocess.PIPE
        )
        return self.process

    async def start(self) -> None:
        lifecycle.announcement_path(self.run_dir, "authz").unlink(missing_ok=True)
        self.launch()
        await until(lifecycle.announcement_path(self.run_dir, "authz").exists, timeout_s=20)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, bytes]:
        assert self.process is not None
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=10)
        return self.process.returncode, log

    def metrics(self) -> str:
        document = json.loads(lifecycle.announcement_path(self.run_dir, "authz").read_text())
        with urlopen(f"http://{document['endpoints']['metrics']}/metrics", timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture
def service(short_dir: Path) -> Iterator[Process]:
    service = Process(short_dir)
    yield service
    if service.process is not None and service.process.poll() is None:
        service.process.kill()
        service.process.communicate()


async def health(socket: Path, name: str = "") -> str:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=name), timeout=5, wait_for_ready=True)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_decisions_over_the_socket(service: Process) -> None:
    """Issue 2: allowed and denied calls, counted, recorded, and a clean stop."""
    await service.start()
    async with authorization(service.socket) as check:
        assert (await check(check_request())).code == 0
        assert (await check(check_request("model-b"))).code == 7
        assert (await check(check_request(arguments={"a": "b" * 900_000}))).code == 0
        assert await health(service.socket) == "SERVING"
        metrics = service.metrics()

    assert 'mcp_authz_decisions_total{decision="allow",reason="permitted"} 2.0' in metrics
    assert 'mcp_authz_decisions_total{decision="deny",reason="not_permitted"} 1.0' in metrics
    assert "mcp_authz_check_seconds_count 3.0" in metrics
    assert "mcp_authz_journal_unshipped_records 5.0" in metrics
    started = time.monotonic()
    code, _ = service.end()
    assert code == 0
    assert time.monotonic() - started < 3
    assert list(service.run_dir.iterdir()) == []
    kinds = [entry["kind"] for entry in records(service.directory / "journal")]
    assert kinds == ["start", "policy", "decision", "decision", "decision", "anchor"]


async def test_policy_edit_is_in_force_within_two_seconds_and_a_broken_one_never(service: Process) -> None:
    """Issue 2: edit policy.csv while running."""
    await service.start()
    async with authorization(service.socket) as check:
        service.policy.write_bytes(POLICY + b"g, model-b, role:reader\n")
        async with asyncio.timeout(2):
            while (await check(check_request("model-b"))).code != 0:
                await asyncio.sleep(0.02)

        service.policy.write_bytes(b"p, model-b, oops\n")
        await until(lambda: "mcp_authz_policy_refused 1.0" in service.metrics())
        assert (await check(check_request("model-b"))).code == 0
        async with asyncio.timeout(2):
            while await health(service.socket, "policy") != "NOT_SERVING":
                await asyncio.sleep(0.02)
        assert await health(service.socket) == "SERVING"
    _, log = service.end()

    assert b"policy.csv:1: a rule is" in log
    refused = [entry for entry in records(service.directory / "journal") if entry["reason"] == "refused"]
    assert refused[0]["rule"].startswith("policy.csv:1")


async def test_killed_service_comes_back_to_the_same_clients(service: Process) -> None:
    """Issue 2: kill -9 under load, then calls succeed with no reconnect by hand; the chains hang together."""
    await service.start()
    async with authorization(service.socket) as check:
        load = [asyncio.create_task(check(check_request())) for _ in range(200)]
        await load[0]
        service.end(signal.SIGKILL)
        await asyncio.gather(*load, return_exceptions=True)
        assert service.socket.exists()
        await service.start()
        assert (await check(check_request())).code == 0
    service.end()

    entries = records(service.directory / "journal")
    assert [entry["prev"] for entry in entries[1:]] == [entry["hash"] for entry in entries[:-1]]
    assert len({entry["chain"] for entry in entries}) == 2


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"MCP_AUTHZ_POLICY_FILE": "/nowhere/policy.csv"}, "policy.csv cannot be read: No such file"),
        ({"MCP_AUTHZ_MODEL_FILE": "/nowhere/model.conf"}, "model.conf cannot be read"),
        ({"MCP_AUTHZ_JOURNAL_DIR": "/proc/journal"}, "/proc/journal cannot be made"),
        ({"MCP_AUTHZ_POLICY_POLL_S": "5"}, "MCP_AUTHZ_POLICY_POLL_S"),
        ({"MCP_AUTHZ_POLICYFILE": "x"}, "unknown setting MCP_AUTHZ_POLICYFILE"),
    ],
)
def test_start_that_cannot_work_says_why_in_one_line(service: Process, environment: dict[str, str], says: str) -> None:
    """Issue 2: one clear line, exit code 2, nothing left running."""
    _, log = service.launch(**environment).communicate(timeout=20)

    assert service.process is not None
    assert service.process.returncode == 2
    assert says in log.decode()
    assert log.count(b"\n") == 1
    assert not service.socket.exists()
