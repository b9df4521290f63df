"""Random requests at the whole service as it runs: every step on, over every server around the check."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import grpc
import pytest
from authz_requests import Answered, answered, check_request
from authz_strategies import REQUESTS, build
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.server import METHOD, ServerKind
from authz_service.tokens import development
from secure_mcp_grpc.lifecycle import announcement_path

ROOT = Path(__file__).parents[2]
ALLOWED_CALL = ("model-a", "tools/call", "get_current_time")


class Running:
    """A process `python -m authz_service`, and a client of it."""

    def __init__(self, directory: Path, kind: str, policy: str) -> None:
        key = development.read_key(development.new_key())
        (directory / "jwks.json").write_bytes(development.jwks(key))
        (directory / "policy.csv").write_text(policy)
        (directory / "sidecar.yaml").write_text(
            development.issuer_yaml(str(directory / "jwks.json")).replace("auth_type: mtls+jwt", "auth_type: mtls")
        )
        environment = {
            "MCP_CONFIG": str(directory / "sidecar.yaml"),
            "MCP_RUN_DIR": str(directory / "run"),
            "MCP_AUTHZ_SERVER": kind,
            "MCP_AUTHZ_POLICY_FILE": str(directory / "policy.csv"),
            "MCP_AUTHZ_JOURNAL_DIR": str(directory / "journal"),
            "MCP_AUTHZ_METRICS_PORT": "0",
            "MCP_AUTHZ_QUOTAS": "calls identity_tool 1000000/60",
            "PYTHONPATH": str(ROOT),
        }
        self.log = (directory / "log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "authz_service"], env={**os.environ, **environment}, stderr=self.log, cwd=directory
        )
        self.token = development.issue(key, "alice", time.time(), 3600)
        while not announcement_path(directory / "run", "authz").exists():
            assert self.process.poll() is None, (directory / "log").read_text()
        self.channel = grpc.insecure_channel(f"unix:{directory / 'run' / 'authz.sock'}")
        self._check = self.channel.unary_unary(METHOD)

    def check(self, body: bytes) -> Answered:
        return answered(self._check(body, timeout=20, wait_for_ready=True))

    def close(self) -> str:
        """What it logged."""
        self.channel.close()
        self.process.terminate()
        assert self.process.wait(10) == 0
        self.log.seek(0)
        return self.log.read().decode()


@pytest.fixture(scope="module", params=get_args(ServerKind))
def deny_all(request: pytest.FixtureRequest) -> Iterator[Running]:
    yield from running(request.param, "")


@pytest.fixture(scope="module", params=get_args(ServerKind))
def allow_one(request: pytest.FixtureRequest) -> Iterator[Running]:
    yield from running(request.param, "p, model-a, tools/call, get_current_time, allow\n")


def running(kind: str, policy: str) -> Iterator[Running]:
    with TemporaryDirectory(prefix="fz-") as directory:
        service = Running(Path(directory), kind, policy)
        try:
            yield service
            log = service.close()
        finally:
            service.process.kill()
            service.process.wait()
            service.log.close()
    assert "Traceback" not in log, log


_BODIES = st.binary(max_size=300) | REQUESTS.map(build)


@settings(max_examples=300, deadline=None)
@given(body=_BODIES)
def test_nothing_is_allowed_under_an_empty_policy(deny_all: Running, body: bytes) -> None:
    """Issue 3: no random CheckRequest is ever allowed under an empty policy, and no exception leaves the servicer."""
    answer = deny_all.check(body)

    assert answer.code != 0
    assert not answer.response.HasField("ok_response")
    assert answer.metadata["decision"] == "deny"
    assert answer.metadata["reason"] != "internal_fault"


@settings(max_examples=300, deadline=None)
@given(parts=REQUESTS)
def test_allowed_is_only_what_the_policy_names(allow_one: Running, parts: dict[str, Any]) -> None:
    """Ours: whatever else varies, an allow carries the subject and target that the rule names."""
    answer = allow_one.check(build(parts))

    if answer.code == 0:
        assert answer.headers["x-mcp-subject"] == "model-a"
        assert answer.headers["x-mcp-target"] == "tools/call get_current_time"
    assert answer.metadata["reason"] != "internal_fault"


def test_the_service_under_fuzz_allows_what_it_should(allow_one: Running) -> None:
    """Ours: a service that refuses everything would pass the tests above."""
    assert allow_one.check(check_request(*ALLOWED_CALL).SerializeToString()).code == 0


@settings(max_examples=150, deadline=None)
@given(shown=st.text(max_size=40) | st.text(max_size=10).map(lambda text: f"Bearer {text}"), place=st.integers(0, 600))
def test_no_damage_to_a_good_token_makes_it_better(allow_one: Running, shown: str, place: int) -> None:
    """Ours: alice's token is good and alice has no right; damaged it is not even good, and never absent."""
    damaged = allow_one.token[: place % len(allow_one.token)] + shown[-1:] + allow_one.token[place:]
    for header in (shown, f"Bearer {damaged}", f"Bearer {allow_one.token}"):
        request = check_request(*ALLOWED_CALL, headers={"authorization": header})

        answer = allow_one.check(request.SerializeToString())

        assert answer.code == 0 if not header else answer.code in (7, 16)
