"""The chain's stack, in front of MCP servers that are not ours."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "chain"))


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="smg-"))
    yield path
    shutil.rmtree(path)
