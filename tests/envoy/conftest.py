import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from envoy_harness import Pki, Pod, running_pod


@pytest.fixture
def root() -> Iterator[Path]:
    """A private directory with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="ev-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pki(root: Path) -> Pki:
    pki = Pki(root / "pki")
    for name in ("model-a", "model-b"):
        pki.issue(name)
    return pki


@pytest.fixture
async def pod(root: Path, pki: Pki) -> AsyncIterator[Pod]:
    """Envoy with the default settings."""
    async with running_pod(root, pki) as pod:
        yield pod
