"""The whole stack as a user starts it: `secure-mcp-grpc up` in a process of its own."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_stack import Stack, all_ready, make_home, make_repository, sidecar_yaml, until


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="smg-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stack(root: Path) -> Iterator[Stack]:
    home = make_home(root)
    journal, repository = root / "recorder.txt", make_repository(root / "repository")
    config = sidecar_yaml(home, journal, repository)
    with (root / "up.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "secure_mcp_grpc", "up", "--config", str(config), "--dir", str(root)),
            stdout=log,
            stderr=log,
        )
    stack = Stack(home, process, journal, repository)
    try:
        until(lambda: process.poll() is not None or all_ready(home), 60)
        assert process.poll() is None, (root / "up.log").read_text()
        yield stack
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, (root / "up.log").read_text()
    finally:
        process.kill()
        process.wait()
