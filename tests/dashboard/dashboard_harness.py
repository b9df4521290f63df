"""A real store with known rows, the real dashboard process in front of it, and a real browser."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dashboard_known as known
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.tools.browser import launch

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / ".artifacts" / "dashboard"


@dataclass(frozen=True, slots=True)
class RealStore:
    """The embedded store; `url(database)` is the reader's."""

    address: str
    writer: str
    reader: str

    def url(self, database: str = "mcp") -> str:
        return f"http://reader:{self.reader}@{self.address}/{database}"

    def write(self, statement: str, database: str = "mcp") -> str:
        request = urllib.request.Request(
            f"http://{self.address}/?database={database}", statement.encode(), method="POST"
        )
        request.add_header("X-ClickHouse-User", "writer")
        request.add_header("X-ClickHouse-Key", self.writer)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def insert(self, table: str, rows: list[dict[str, object]]) -> None:
        lines = "\n".join(json.dumps(row) for row in rows)
        self.write(f"INSERT INTO {table} FORMAT JSONEachRow\n{lines}\n")


@contextlib.contextmanager
def process(module: str, run_dir: Path, part: str, **variables: object) -> Iterator[dict[str, str]]:
    """`python -m module` until the block ends; yields the endpoints that it announced."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "CLICKHOUSE_"))}
    environ = {**inherited, "MCP_RUN_DIR": str(run_dir), **{name: str(value) for name, value in variables.items()}}
    announcement = run_dir / f"{part}.json"
    with (run_dir.parent / f"{part}.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 40
        while not announcement.exists():
            assert child.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, f"{part} did not start: {Path(log.name).read_text()}"
            time.sleep(0.02)
        yield json.loads(announcement.read_text())["endpoints"]
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(8)
        finally:
            child.kill()
            child.wait()


@pytest.fixture(scope="session")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStore]:
    """An embedded store with the schema and `known.ROWS` in it."""
    base = tmp_path_factory.mktemp("s")
    data = base / "data"
    run = base / "run"
    run.mkdir(mode=0o700)
    variables = {"MCP_STORE_DATA_DIR": data, "MCP_STORE_PORT": 0, "MCP_STORE_METRICS_PORT": 0}
    with process("trace_sink.store", run, "store", **variables) as endpoints:
        address = endpoints["http"].removeprefix("http://")
        passwords = [(data / f"{user}.password").read_text().strip() for user in ("writer", "reader")]
        store = RealStore(address, *passwords)
        for file in sorted((ROOT / "trace_sink" / "migrations").glob("*.sql")):
            for statement in file.read_text().split(";\n"):
                if statement.strip():
                    store.write(statement)
        store.insert("requests", known.requests())
        store.insert("handshakes", known.handshakes())
        store.insert("decisions", known.decisions())
        store.insert("interactions", known.interactions())
        for table, rows in known.pipelined().items():
            store.insert(table, rows)
        yield store


@pytest.fixture(scope="session")
def address(real_store: RealStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the dashboard serves, in front of `real_store`."""
    run = tmp_path_factory.mktemp("d") / "run"
    run.mkdir(mode=0o700)
    variables = {
        "CLICKHOUSE_URL": real_store.url(),
        "MCP_DASHBOARD_PORT": 0,
        "MCP_DASHBOARD_METRICS_PORT": 0,
        "MCP_DASHBOARD_REFRESH_S": 1,
    }
    with process("dashboard", run, "dashboard", **variables) as endpoints:
        yield endpoints["http"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not kept for the session: while Playwright's loop runs, no asyncio test of another module could."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()
