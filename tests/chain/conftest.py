"""The whole stack as a user starts it: `secure-mcp-grpc up` in a process of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_stack import Stack, running


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="smg-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stack(root: Path) -> Iterator[Stack]:
    with running(root) as stack:
        yield stack
