"""Fixtures: a Redis of one's own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_harness import RedisServer


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="limits-") as path:
        yield Path(path)


@pytest.fixture
def redis_server(short_dir: Path) -> Iterator[RedisServer]:
    server = RedisServer(short_dir)
    server.start()
    yield server
    server.kill()
