"""Fixtures around a checker and its journal."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from authz_requests import policy_of
from prometheus_client import CollectorRegistry

from authz_service.checker import Checker
from authz_service.identity import IdentityReader
from authz_service.journal import Journal
from authz_service.metrics import Metrics


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="authz-") as path:
        yield Path(path)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "journal", "node", rotate_bytes=1_000_000)
    yield journal
    await journal.close()


@pytest.fixture
def make_checker(journal: Journal) -> Callable[[bytes], Checker]:
    def make(policy: bytes) -> Checker:
        identities = IdentityReader(["mcp.internal", "partner.example"], 16)
        metrics = Metrics(CollectorRegistry())
        return Checker(policy_of(policy), identities, journal, metrics, max_body_bytes=1_000_000)

    return make
