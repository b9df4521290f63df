"""The whole stack as a user starts it: `secure-mcp-grpc up` in a process of its own, driven from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import grpc
import yaml
from clickhouse_connect.driver.client import Client as StoreClient

from mcp_bridge.client import Identity, grpc_transport
from secure_mcp_grpc import certs
from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.stack.probes import endpoint
from secure_mcp_grpc.stack.supervisor import read_state

TRUST_DOMAIN = "test.mcp"
PARTS = {"store", "sink", "authz", "bridge", "envoy", "dashboard"}
RECORDER = Path(__file__).parent / "recorder_server.py"
POLICY = """\
p, role:session, server/discover, *, allow
p, role:session, initialize, *, allow
p, role:session, notifications/*, *, allow
p, role:session, grpc:*, *, allow
p, role:session, tools/list, *, allow
p, role:user, tools/call, echo, allow
p, role:user, tools/call, count, allow
p, role:user, tools/call, slow, allow
p, role:user, tools/call, git_log, allow
g, role:user, role:session
g, model-a, role:user
g, model-b, role:session
"""


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true value of `condition`; fails after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


@dataclass
class Stack:
    """A running sidecar and what a test needs to look at it."""

    home: Home
    process: subprocess.Popen[bytes]
    journal: Path
    repository: Path
    seen: int = field(default=0)
    auth_type: str = "mtls"

    @property
    def address(self) -> str:
        return str(endpoint(self.home.run_dir, "envoy", "mcp"))

    def endpoint(self, part: str, name: str) -> str:
        return str(endpoint(self.home.run_dir, part, name))

    def pid(self, part: str) -> int:
        return int(read_state(self.home.run_dir)[part]["pid"])

    def transport(self, identity: str = "model-a", **options: Any) -> Any:
        return grpc_transport(self.address, identity=Identity.from_directory(self.home.certs / identity), **options)

    def channel(self, identity: str = "model-a") -> grpc.aio.Channel:
        directory = self.home.certs / identity
        credentials = grpc.ssl_channel_credentials(
            (directory / "ca.crt").read_bytes(),
            (directory / "tls.key").read_bytes(),
            (directory / "tls.crt").read_bytes(),
        )
        return grpc.aio.secure_channel(self.address, credentials)

    def store(self, user: str = "reader") -> StoreClient:
        url = (self.home.secrets / f"clickhouse-{user}.url").read_text()
        return clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        client = self.store()
        try:
            return list(client.query(sql, parameters=parameters).result_rows)
        finally:
            client.close()

    def recorded(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cli(*arguments, "--dir", str(self.home.root))

    def set_policy(self, text: str) -> None:
        temporary = self.home.policy.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self.home.policy)


def run_cli(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """`secure-mcp-grpc` with `arguments`, to its end."""
    return subprocess.run(
        (sys.executable, "-m", "secure_mcp_grpc", *arguments),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def make_home(root: Path) -> Home:
    """Certificates and policy of the chain tests."""
    home = Home(root)
    home.prepare()
    certs.init_ca(home.ca, TRUST_DOMAIN)
    certs.issue(home.ca, home.certs / "sidecar", "sidecar", TRUST_DOMAIN, dns=["localhost"], ips=["127.0.0.1"])
    for name in ("model-a", "model-b"):
        certs.issue(home.ca, home.certs / name, name, TRUST_DOMAIN)
    home.policy.write_text(POLICY)
    return home


def make_repository(path: Path) -> Path:
    path.mkdir()
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    (path / "a.txt").write_text("a\n")
    for command in (("init", "--initial-branch=main"), ("add", "a.txt"), (*identity, "commit", "--message", "First")):
        subprocess.run(("git", "-C", str(path), *command), check=True, capture_output=True)
    return path


def sidecar_yaml(
    home: Home, journal: Path, repository: Path, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> Path:
    """The configuration of the chain tests; `changes` adds to its sections."""
    path = home.root / "sidecar.yaml"
    document: dict[str, dict[str, Any]] = {
        "common": {"trust_domains": [TRUST_DOMAIN], "node_id": "test"},
        "server": {"host": "127.0.0.1", "port": 0},
        "limits": {
            "per_client_per_second": 100_000,
            "per_client_burst": 100_000,
            "per_tool_per_second": 100_000,
            "per_tool_burst": 100_000,
        },
        "authz": {"metrics_port": 0},
        "bridge": {
            "metrics_port": 0,
            "upstreams": {
                "recorder": {
                    "command": [sys.executable, str(RECORDER)],
                    "env": {"RECORDER_JOURNAL": str(journal)},
                },
                "git": {"command": [sys.executable, "-m", "mcp_server_git", "--repository", str(repository)]},
            },
        },
        "sink": {"metrics_port": 0},
        "store": {"metrics_port": 0, "port": 0},
        "dashboard": {"metrics_port": 0, "port": 0},
    }
    for section, values in (changes or {}).items():
        document.setdefault(section, {}).update(values)
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def running(
    root: Path,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    home: Home | None = None,
    without: Sequence[str] = (),
) -> Iterator[Stack]:
    """`secure-mcp-grpc up` in a process of its own, until everything is ready; it must end in peace."""
    left_out = [word for part in without for word in ("--without", part)]
    home = home or make_home(root)
    journal, repository = root / "recorder.txt", make_repository(root / "repository")
    config = sidecar_yaml(home, journal, repository, changes)
    with (root / "up.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "secure_mcp_grpc", "up", "--config", str(config), "--dir", str(root), *left_out),
            stdout=log,
            stderr=log,
        )
    stack = Stack(home, process, journal, repository)
    try:
        until(lambda: process.poll() is not None or all_ready(home, without), 60)
        assert process.poll() is None, (root / "up.log").read_text()
        yield stack
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, (root / "up.log").read_text()
    finally:
        process.kill()
        process.wait()


def all_ready(home: Home, without: Sequence[str] = ()) -> bool:
    parts = read_state(home.run_dir)
    return set(parts) == PARTS - set(without) and all(part["state"] == "ready" for part in parts.values())


def health(stack: Stack) -> dict[str, Any]:
    """What `secure-mcp-grpc health --json` says."""
    return dict(json.loads(stack.cli("health", "--json").stdout))
