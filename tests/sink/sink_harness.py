"""Real store and sink processes for the tests of this folder, each in a private directory."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

READY_S = 20


@dataclass
class StoreProcess:
    """An embedded store on a socket that outlives it, as under the supervisor."""

    root: Path
    listener: socket.socket
    process: subprocess.Popen[bytes] | None = None
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def data_dir(self) -> Path:
        return self.root / "store"

    def password(self, user: str) -> str:
        return (self.data_dir / f"{user}.password").read_text().strip()

    def start(self) -> float:
        """Start and wait until it has announced itself; returns the seconds that took."""
        (self.run_dir / "store.json").unlink(missing_ok=True)
        env = environment(self.run_dir) | {
            "MCP_STORE_DATA_DIR": str(self.data_dir),
            "MCP_STORE_LISTEN_FD": str(self.listener.fileno()),
            "MCP_STORE_METRICS_PORT": "0",
            **self.extra_env,
        }
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trace_sink.store"], env=env, pass_fds=[self.listener.fileno()]
        )
        wait_for_file(self.run_dir / "store.json", self.process)
        return time.monotonic() - started

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> float:
        """SIGTERM; returns the seconds until it was gone."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        return time.monotonic() - started

    def client(self, user: str = "writer", **options: Any) -> Any:
        import clickhouse_connect

        options = {"database": "mcp", "autogenerate_session_id": False, **options}
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=user, password=self.password(user), **options
        )


@dataclass
class SinkProcess:
    run_dir: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"unix:{self.run_dir}/sink.sock"

    def start(self) -> None:
        (self.run_dir / "sink.json").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, "-m", "trace_sink"], env=self.env)
        wait_for_file(self.run_dir / "sink.json", self.process)

    def metrics(self) -> str:
        import urllib.request

        address = json.loads((self.run_dir / "sink.json").read_text())["endpoints"]["metrics"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        return sum(float(line.split()[-1]) for line in self.metrics().splitlines() if line.startswith(name))


def environment(run_dir: Path) -> dict[str, str]:
    """The caller's environment without settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "CLICKHOUSE_"))}
    return kept | {"MCP_RUN_DIR": str(run_dir), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while not path.exists():
        assert process.poll() is None, f"process ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.02)


@contextlib.contextmanager
def new_store(**extra_env: str) -> Iterator[StoreProcess]:
    root = Path(tempfile.mkdtemp(prefix="mcp-store-"))
    (root / "run").mkdir(mode=0o700)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            store = StoreProcess(root, listener, extra_env=extra_env)
            try:
                store.start()
                yield store
            finally:
                if store.process is not None and store.process.poll() is None:
                    store.kill()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def new_sink(store: StoreProcess, **settings: str) -> Iterator[SinkProcess]:
    run_dir = Path(tempfile.mkdtemp(prefix="mcp-sink-"))
    env = environment(run_dir) | {
        "CLICKHOUSE_URL": f"http://writer@127.0.0.1:{store.port}/mcp",
        "MCP_SINK_CLICKHOUSE_PASSWORD_FILE": str(store.data_dir / "writer.password"),
        "MCP_SINK_METRICS_PORT": "0",
        "MCP_SINK_BATCH_DELAY_S": "0.1",
        **settings,
    }
    sink = SinkProcess(run_dir, env)
    try:
        sink.start()
        yield sink
    finally:
        if sink.process is not None and sink.process.poll() is None:
            sink.process.kill()
            sink.process.wait(10)
        shutil.rmtree(run_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    """A running store of this module's own."""
    with new_store() as running:
        yield running


@pytest.fixture(scope="module")
def sink(store: StoreProcess) -> Iterator[SinkProcess]:
    """A running sink that writes to `store`."""
    with new_sink(store) as running:
        yield running
