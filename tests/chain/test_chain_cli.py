"""Starting and stopping as a user does: clear errors, nothing left behind."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import psutil
import pytest
from chain_stack import RECORDER, make_home, make_repository, run_cli, sidecar_yaml, until

from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.stack.probes import endpoint
from secure_mcp_grpc.stack.supervisor import read_state

SERVER = ("--", sys.executable, "-m", "mcp_server_time")
QUIET = {
    "MCP_SERVER_PORT": "0",
    "MCP_STORE_PORT": "0",
    "MCP_DASHBOARD_PORT": "0",
    **{f"MCP_{part}_METRICS_PORT": "0" for part in ("AUTHZ", "BRIDGE", "SINK", "STORE", "DASHBOARD")},
    "MCP_TRUST_DOMAINS": "test.mcp",
}


@pytest.fixture
def home(root: Path) -> Home:
    directory = root / "h"
    if directory.exists():
        return Home(directory)
    return make_home(directory)


def processes_of(root: Path) -> list[str]:
    """Command lines of processes that have to do with `root`."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(root) in (words := " ".join([*process.cmdline(), *process.environ().values()])):
                found.append(words[:200])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [words for words in found if "pytest" not in words]


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("secure-mcp-grpc: "), result.stderr
    for word in words:
        assert word in last, last
    assert "Traceback" not in result.stderr


def up(home: Home, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_cli("up", "--dir", str(home.root), *arguments, env={**QUIET, **env})


def test_a_busy_port_is_named(home: Home) -> None:
    """Issue: a busy port: one clear line; exit code 2; nothing left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for variable in ("MCP_SERVER_PORT", "MCP_DASHBOARD_PORT", "MCP_AUTHZ_METRICS_PORT"):
            assert_one_line(up(home, *SERVER, **{variable: port}), port)
    assert processes_of(home.root) == []


def test_a_missing_certificate_is_named(home: Home) -> None:
    """Issue: a missing certificate: one clear line that names the thing and what to do."""
    result = up(home, *SERVER, MCP_CERT_PATH="/nonexistent/tls.crt")
    assert_one_line(result, "/nonexistent/tls.crt")
    assert processes_of(home.root) == []


def test_a_home_without_certificates_says_how_to_make_them(tmp_path: Path) -> None:
    """Issue: what to do."""
    result = run_cli("up", "--dir", str(tmp_path / "new"), *SERVER, env=QUIET)
    assert_one_line(result, "tls.crt", "certs")


def test_an_unreadable_policy_is_named(home: Home) -> None:
    """Issue: an unreadable policy: one clear line; exit code 2; nothing left running."""
    good = home.policy.read_text()
    try:
        home.policy.write_text("p, model-a\n")
        assert_one_line(up(home, *SERVER), "policy.csv:1: a rule is")
        home.policy.unlink()
        assert_one_line(up(home, *SERVER), "policy.csv")
    finally:
        home.policy.write_text(good)
    assert processes_of(home.root) == []


def test_an_unknown_setting_is_named(home: Home) -> None:
    """Issue: an unknown setting: one clear line."""
    assert_one_line(up(home, *SERVER, MCP_AUTHZ_POLICY="x"), "MCP_AUTHZ_POLICY")
    config = home.root / "bad.yaml"
    config.write_text("server: {prot: 1}\n")
    assert_one_line(up(home, "--config", str(config), *SERVER), "server.prot")
    config.write_text("sever: {}\n")
    assert_one_line(up(home, "--config", str(config), *SERVER), "sever")


def test_a_server_that_cannot_be_named_is_said(home: Home) -> None:
    """Ours: up without anything to protect says so."""
    assert_one_line(up(home), "nothing to protect")
    assert_one_line(up(home, "--upstream", "nonsense"), "nonsense")


def start(home: Home, config: Path) -> subprocess.Popen[bytes]:
    with (home.root / "up.log").open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "secure_mcp_grpc", "up", "--config", str(config), "--dir", str(home.root)),
            stderr=log,
        )
    until(
        lambda: process.poll() is not None or read_state(home.run_dir).get("dashboard", {}).get("state") == "ready", 60
    )
    assert process.poll() is None, (home.root / "up.log").read_text()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_takes_five_seconds_and_leaves_nothing(root: Path, number: signal.Signals) -> None:
    """Issue: Ctrl-C or SIGTERM stops everything within 5 s and leaves no process or socket behind."""
    home = make_home(root / number.name)
    config = sidecar_yaml(home, home.root / "journal.txt", make_repository(home.root / "repository"))
    process = start(home, config)
    try:
        called = run_cli("call", "echo", '{"text": "x"}', "--as", "model-a", "--dir", str(home.root))
        assert called.returncode == 0, called.stderr

        began = time.monotonic()
        process.send_signal(number)
        code = process.wait(10)
        elapsed = time.monotonic() - began
    finally:
        process.kill()
        process.wait()

    assert code == 0, (home.root / "up.log").read_text()
    assert elapsed < 5
    until(lambda: processes_of(home.root) == [], 2)
    assert [path.name for path in home.run_dir.iterdir() if path.is_socket()] == []


def test_stopping_right_after_a_call_loses_no_row(root: Path) -> None:
    """Ours: stop listening, drain, flush, close: what was done before the stop is in the store after it."""
    home = make_home(root / "flush")
    config = sidecar_yaml(home, home.root / "journal.txt", make_repository(home.root / "repository"))
    process = start(home, config)
    try:
        called = run_cli("call", "echo", '{"text": "x"}', "--as", "model-a", "--dir", str(home.root))
        process.terminate()
        assert (called.returncode, process.wait(10)) == (0, 0), called.stderr
        process = start(home, config)
        url = (home.secrets / "clickhouse-reader.url").read_text()
        store = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
        counts = [
            store.query(f"SELECT count() FROM {table} WHERE tool = 'echo'").result_rows[0][0]
            for table in ("requests", "decisions", "interactions")
        ]
        store.close()
    finally:
        process.terminate()
        process.wait(10)

    assert counts == [1, 1, 1]


@contextlib.contextmanager
def upped(home: Home, *arguments: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`up` without a dashboard, until all parts are ready; stopped at the end."""
    command = (sys.executable, "-m", "secure_mcp_grpc", "up", "--dir", str(home.root), "--without", "dashboard")
    with (home.root / "up.log").open("ab") as log:
        process = subprocess.Popen((*command, *arguments), env={**os.environ, **QUIET, **env}, stderr=log)
    try:
        until(
            lambda: process.poll() is not None or read_state(home.run_dir).get("envoy", {}).get("state") == "ready", 60
        )
        assert process.poll() is None, (home.root / "up.log").read_text()
        yield process
    finally:
        process.terminate()
        assert process.wait(10) == 0


def echo(home: Home) -> None:
    called = run_cli("call", "echo", '{"text": "hello"}', "--as", "model-a", "--dir", str(home.root))
    assert (called.returncode, called.stdout.strip()) == (0, "hello"), called.stderr


def test_up_protects_a_command_without_any_file(home: Home) -> None:
    """Issue: up -- COMMAND."""
    journal = str(home.root / "journal.txt")
    with upped(home, "--env", f"RECORDER_JOURNAL={journal}", "--", sys.executable, str(RECORDER)):
        echo(home)


def test_up_protects_a_server_in_process(home: Home) -> None:
    """Issue: or --upstream package.module:server."""
    env = {"PYTHONPATH": str(RECORDER.parent), "RECORDER_JOURNAL": str(home.root / "journal.txt")}
    with upped(home, "--upstream", "recorder_server:server", **env):
        echo(home)


def test_up_protects_a_server_over_http(home: Home) -> None:
    """Issue: or --upstream http://…/mcp."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            f"import socket, uvicorn, recorder_server as r; s = socket.socket(fileno={listener.fileno()}); "
            "uvicorn.Server(uvicorn.Config(r.server.streamable_http_app(), log_level='error')).run(sockets=[s])"
        )
        env = {**os.environ, "PYTHONPATH": str(RECORDER.parent), "RECORDER_JOURNAL": str(home.root / "journal.txt")}
        server = subprocess.Popen((sys.executable, "-c", code), env=env, pass_fds=[listener.fileno()])
        try:
            with upped(home, "--upstream", f"http://127.0.0.1:{port}/mcp"):
                echo(home)
        finally:
            server.terminate()
            server.wait(10)


def test_clickhouse_url_takes_the_place_of_the_embedded_store(home: Home, root: Path) -> None:
    """Issue: CLICKHOUSE_URL switches to a server with no other change."""
    elsewhere = root / "server"
    (elsewhere / "run").mkdir(parents=True, mode=0o700)
    env = {"MCP_RUN_DIR": str(elsewhere / "run"), "MCP_STORE_DATA_DIR": str(elsewhere / "data")}
    server = subprocess.Popen((sys.executable, "-m", "trace_sink.store"), env={**os.environ, **QUIET, **env})
    try:
        address = until(lambda: endpoint(elsewhere / "run", "store", "http"))
        password = (elsewhere / "data" / "writer.password").read_text().strip()
        url = f"{address.replace('http://', f'http://writer:{password}@')}/mcp"
        journal = str(home.root / "journal.txt")
        command = ("--env", f"RECORDER_JOURNAL={journal}", "--", sys.executable, str(RECORDER))
        with upped(home, *command, CLICKHOUSE_URL=url):
            assert set(read_state(home.run_dir)) == {"sink", "authz", "bridge", "envoy"}
            echo(home)
            store = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
            until(lambda: store.query("SELECT count() FROM requests WHERE tool = 'echo'").result_rows == [(1,)])
            store.close()
    finally:
        server.terminate()
        server.wait(10)


def test_the_demo_comes_out_as_expected() -> None:
    """Issue: demo --once --json; exit status 0 only if all was as expected and every request is in the store."""
    result = run_cli("demo", "--once", "--json", timeout_s=110)

    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["unexpected"] == 0
    assert figures["tls_refused"] == 2
    assert figures["denied"] == 5
    assert figures["limited"] > 0
    assert figures["sent"] == figures["allowed"] + figures["denied"] + figures["limited"] + figures["tls_refused"]
    assert figures["rows_in_store"] == figures["sent"]


def test_certificates_are_made_issued_and_shown(root: Path) -> None:
    """Issue: certs init|issue|show: EC P-256, SPIFFE URI SAN, 24-hour leaves by default, keys 0600."""
    directory = ("--dir", str(root / "c"))
    assert run_cli("certs", "init", "--trust-domain", "example.org", *directory).returncode == 0
    assert run_cli("certs", "issue", "team/model-a", *directory).returncode == 0
    shown = run_cli("certs", "show", str(root / "c/certs/team/model-a/tls.crt"), env={"COLUMNS": "200"})
    assert "spiffe://example.org/team/model-a" in shown.stdout
    assert stat.S_IMODE((root / "c/certs/team/model-a/tls.key").stat().st_mode) == 0o600
    assert_one_line(run_cli("certs", "init", *directory), "ca")
    assert_one_line(run_cli("certs", "issue", "no spaces", *directory), "no spaces")


def test_envoy_configuration_is_rendered_and_validated(home: Home) -> None:
    """Issue: envoy render|validate."""
    directory = ("--dir", str(home.root))
    rendered = run_cli("envoy", "render", *directory)
    assert "envoy.filters.http.ext_authz" in rendered.stdout
    assert run_cli("envoy", "validate", *directory).returncode == 0
    broken = home.root / "broken.yaml"
    broken.write_text(rendered.stdout.replace("pack_as_bytes", "pack_as_bites"))
    assert_one_line(run_cli("envoy", "validate", "--file", str(broken), *directory), "pack_as_bites")
    assert_one_line(run_cli("envoy", "validate", "--file", "/nonexistent", *directory), "/nonexistent")


def test_a_server_that_is_away_has_an_exit_code_of_its_own(home: Home) -> None:
    """Ours: 6, unavailable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    result = run_cli("call", "echo", "--as", "model-a", "--server", address, "--dir", str(home.root))
    assert result.returncode == 6, result.stderr
    assert "Traceback" not in result.stderr


def test_help_is_quick_and_needs_no_extra() -> None:
    """Ours: imports that are heavy happen where they are used."""
    heavy = "{'mcp', 'chdb', 'streamlit', 'casbin', 'grpc'}"
    code = f"import sys; from secure_mcp_grpc.cli import app; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
