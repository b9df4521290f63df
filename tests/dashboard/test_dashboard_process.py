"""The process: where it listens, what it says about itself, and how it stops."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from dashboard_harness import ROOT, RealStore, process
from grpc_health.v1 import health_pb2, health_pb2_grpc
from playwright.sync_api import Browser


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def silent_store() -> Iterator[str]:
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://reader:x@127.0.0.1:{listener.getsockname()[1]}/mcp"


def get(url: str, **headers: str) -> tuple[int, dict[str, str], str]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.read().decode()


def health(endpoint: str, wanted: int) -> int:
    """The status, waited for up to ten seconds."""
    deadline = time.monotonic() + 10
    with grpc.insecure_channel(endpoint) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
            if status == wanted or time.monotonic() > deadline:
                return status
            time.sleep(0.05)


def test_inherited_socket_is_served_and_health_follows_the_store(real_store: RealStore, run_dir: Path) -> None:
    """Contract: the supervisor binds the socket; the announcement states the real address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MCP_", "CLICKHOUSE_"))} | {
            "MCP_RUN_DIR": str(run_dir),
            "CLICKHOUSE_URL": real_store.url(),
            "MCP_DASHBOARD_LISTEN_FD": str(listener.fileno()),
            "MCP_DASHBOARD_METRICS_PORT": "0",
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "dashboard"], cwd=ROOT, env=environ, pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        # The socket listens already: this request waits until the app serves it.
        status, headers, page = get(f"http://127.0.0.1:{port}/")
        deadline = time.monotonic() + 20
        while not (run_dir / "dashboard.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        endpoints = json.loads((run_dir / "dashboard.json").read_text())["endpoints"]

        assert status == 200
        assert "<title>" in page
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert endpoints["http"] == f"http://127.0.0.1:{port}"
        assert health(endpoints["grpc"], health_pb2.HealthCheckResponse.SERVING) == 1
        assert "mcp_dashboard_store_up 1.0" in get(f"http://{endpoints['metrics']}/metrics")[2]
    finally:
        child.send_signal(signal.SIGTERM)
        logged = child.communicate(timeout=10)[1]
    assert child.returncode == 0
    assert not (run_dir / "dashboard.json").exists()
    assert not (run_dir / "dashboard.sock").exists()
    assert real_store.reader not in logged
    assert all(json.loads(line)["service"] == "dashboard" for line in logged.splitlines())


def test_stops_within_two_seconds_although_a_page_waits_for_the_store(
    silent_store: str, run_dir: Path, browser: Browser
) -> None:
    """Brief: SIGTERM ends it within 2 s, whatever the store does; not serving while the store is silent."""
    variables = {
        "CLICKHOUSE_URL": silent_store,
        "MCP_DASHBOARD_PORT": 0,
        "MCP_DASHBOARD_METRICS_PORT": 0,
    }
    with process("dashboard", run_dir, "dashboard", **variables) as endpoints:
        page = browser.new_page()
        page.goto(endpoints["http"])
        page.get_by_text("Time range").wait_for()
        assert health(endpoints["grpc"], health_pb2.HealthCheckResponse.NOT_SERVING) == 2
        pid = json.loads((run_dir / "dashboard.json").read_text())["pid"]
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert time.monotonic() - started < 2.2
        page.close()


def test_foreign_host_name_gets_no_session(address: str) -> None:
    """Ours: a page of another site that rebinds its name to loopback cannot open a session."""
    statuses = {}
    for host in (address.removeprefix("http://"), "rebound.example"):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
        connection.putrequest("GET", "/_stcore/stream", skip_host=True)
        for name, value in {
            "Host": host,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        statuses[host] = connection.getresponse().status
        connection.close()

    assert list(statuses.values()) == [101, 403]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "dashboard: no store is named; set CLICKHOUSE_URL or MCP_DASHBOARD_CLICKHOUSE_URL_FILE"),
        ({"MCP_DASHBOARD_PROT": "1"}, "dashboard: unknown setting MCP_DASHBOARD_PROT; known are"),
        ({"MCP_DASHBOARD_REFRESH_S": "0"}, "dashboard: MCP_DASHBOARD_REFRESH_S ('0'): input should be greater"),
    ],
)
def test_mistake_of_the_operator_is_one_line_and_exit_code_two(
    variables: dict[str, str], sentence: str, run_dir: Path
) -> None:
    """Issue 2: one clear line that names the thing, exit code 2."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MCP_", "CLICKHOUSE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "dashboard"], cwd=ROOT, env=environ | variables | {"MCP_RUN_DIR": str(run_dir)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_busy_port_is_one_line(real_store: RealStore, run_dir: Path) -> None:
    """Issue 2: a busy port is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MCP_", "CLICKHOUSE_"))} | {
            "MCP_RUN_DIR": str(run_dir),
            "CLICKHOUSE_URL": real_store.url(),
            "MCP_DASHBOARD_PORT": str(port),
        }
        done = subprocess.run(
            [sys.executable, "-m", "dashboard"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip

    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
