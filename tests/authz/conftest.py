"""Fixtures around a checker and its journal."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from authz_requests import checker_of, policy_of

from authz_service.checker import Checker
from authz_service.journal import Journal


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
        return checker_of(policy_of(policy), journal)

    return make
