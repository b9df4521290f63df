"""`secure-mcp-grpc demo`: makes everything it needs, starts the stack, sends the traffic, looks for it in the store."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from secure_mcp_grpc import certs, logs
from secure_mcp_grpc.demo import report
from secure_mcp_grpc.demo.traffic import send_traffic
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import stop_event
from secure_mcp_grpc.stack.home import Home

__all__ = ["prepare", "run_demo", "settings"]

TRUST_DOMAIN = "demo.mcp"
IDENTITIES = ("model-a", "model-b", "model-c")
_NEEDS = ("mcp", "mcp_server_time", "mcp_server_git", "casbin", "chdb", "clickhouse_connect", "streamlit")
BURST = 60
ALLOWED_BURST = 30
"""Calls of one tool that one identity may make at once, in the demo's settings."""


def run_demo(*, home: Path | None, once: bool, as_json: bool) -> int:
    """Run the demo; returns the exit status: 0 only if all came as expected and is found in the store."""
    logs.configure("demo", level="WARNING")
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise UserError(f"the demo needs {missing[0]}: pip install 'secure-mcp-grpc[demo]'")
    with _directory(home) as directory:
        return asyncio.run(_run(directory, once=once, as_json=as_json))


async def _run(directory: Home, *, once: bool, as_json: bool) -> int:
    from secure_mcp_grpc.stack.probes import endpoint
    from secure_mcp_grpc.stack.running import running

    started = time.monotonic()
    console = Console(stderr=as_json, highlight=False)
    stopping = stop_event()
    repository = prepare(directory)
    log_dir = directory.root / "logs"
    log_dir.mkdir(exist_ok=True)
    console.print(f"Starting Envoy and the parts around it (logs in {log_dir}) …")
    async with running(directory, settings(repository), log_dir=log_dir, stopping=stopping):
        if stopping.is_set():
            return 130
        address = str(endpoint(directory.run_dir, "envoy", "mcp"))
        console.print(f"Sending traffic to {address} …")
        log = await send_traffic(address, directory.certs, repository, burst=BURST, allowed_burst=ALLOWED_BURST)
        found = await report.find_in_store(directory, log)
        summary = report.summary(log, found, seconds=time.monotonic() - started)
        good = report.good(log, found)
        if as_json:
            sys.stdout.write(json.dumps(summary) + "\n")
        else:
            report.show(console, log, summary)
            console.print(f"\n[bold]Dashboard:[/] {endpoint(directory.run_dir, 'dashboard', 'http')}")
        if not once:
            _hint(console, directory)
            await stopping.wait()
        return 0 if good else 1


def settings(repository: Path) -> dict[str, dict[str, Any]]:
    """The demo's sidecar.yaml: ephemeral ports, two stdio servers, a limit that a burst can hit."""
    python = sys.executable
    return {
        "common": {"trust_domains": [TRUST_DOMAIN], "node_id": "demo"},
        "server": {"host": "127.0.0.1", "port": 0},
        "limits": {"per_tool_burst": ALLOWED_BURST, "per_tool_per_second": 5},
        "authz": {"metrics_port": 0},
        "bridge": {
            "metrics_port": 0,
            "upstreams": {
                "time": {"command": [python, "-m", "mcp_server_time", "--local-timezone", "UTC"]},
                "git": {"command": [python, "-m", "mcp_server_git", "--repository", str(repository)]},
            },
        },
        "sink": {"metrics_port": 0},
        "store": {"metrics_port": 0, "port": 0},
        "dashboard": {"metrics_port": 0, "port": 0},
    }


def prepare(directory: Home) -> Path:
    """Make the CA, the certificates, the policy and a throwaway Git repository; returns the repository."""
    directory.prepare()
    certs.init_ca(directory.ca, TRUST_DOMAIN)
    for name in ("sidecar", *IDENTITIES):
        names: dict[str, Any] = {"dns": ["localhost"], "ips": ["127.0.0.1"]} if name == "sidecar" else {}
        certs.issue(directory.ca, directory.certs / name, name, TRUST_DOMAIN, **names)
    other = directory.certs / "other-ca"
    certs.init_ca(other, TRUST_DOMAIN)
    certs.issue(other, directory.certs / "stranger", "model-a", TRUST_DOMAIN)
    shutil.copyfile(str(files("secure_mcp_grpc.demo") / "policy.csv"), directory.policy)
    return _repository(directory.root / "repository")


def _repository(path: Path) -> Path:
    path.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(("git", "-C", str(path), *arguments), check=True, capture_output=True)

    git("init", "--initial-branch=main")
    git("config", "user.name", "Demo")
    git("config", "user.email", "demo@localhost")
    (path / "README.txt").write_text("A throwaway repository of the demo.\n", encoding="utf-8")
    git("add", "README.txt")
    git("commit", "--message", "Start")
    return path


@contextlib.contextmanager
def _directory(home: Path | None) -> Iterator[Home]:
    """`home`, which must be new or empty, or a temporary directory that goes with the demo."""
    if home is not None:
        if home.exists() and any(home.iterdir()):
            raise UserError(f"{home} is not empty; the demo wants a new directory")
        yield Home.locate(home)
        return
    with tempfile.TemporaryDirectory(prefix="smg-") as temporary:
        yield Home.locate(Path(temporary))


def _hint(console: Console, directory: Home) -> None:
    console.print("\nStill running. In another terminal:")
    program = "secure-mcp-grpc" if shutil.which("secure-mcp-grpc") else sys.argv[0]
    where = f"--dir {directory.root}"
    console.print(f"  {program} health {where}", soft_wrap=True)
    console.print(f"""  {program} call get_current_time '{{"timezone": "UTC"}}' --as model-a {where}""", soft_wrap=True)
    console.print(f"  {program} call git_commit '{{}}' --as model-b {where}", soft_wrap=True)
    console.print("Ctrl-C stops everything.", markup=False)
