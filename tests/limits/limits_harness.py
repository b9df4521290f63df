"""A real Redis on a Unix socket, links to it, and the pieces around revocations."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from prometheus_client import CollectorRegistry

from authz_service.limits_metrics import LimitsMetrics
from authz_service.redis_link import RedisLink
from authz_service.revocations.file import RevocationFile
from authz_service.revocations.revocations import Revocations
from secure_mcp_grpc.records import DecisionRecord


@dataclass
class RedisServer:
    """A redis-server of its own; nothing is kept on disk, so a restart comes back empty."""

    directory: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: apt-get install redis-server"
        self.socket.unlink(missing_ok=True)
        command = [program, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [*command, "--dir", str(self.directory), *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                assert self.process.poll() is None
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def linked(
    url: str, *, timeout_s: float = 1.0, node: str = "node", wait: bool = True
) -> AsyncIterator[RedisLink]:
    """A running link, up unless told not to `wait` for that."""
    link = RedisLink(url, timeout_s=timeout_s, node=node, changed=lambda _: None)
    running = asyncio.create_task(link.run())
    try:
        if wait:
            await until(lambda: link.up)
        yield link
    finally:
        await ended(running)
        await link.close()


async def ended(task: asyncio.Task[None]) -> None:
    """End a job that runs until cancelled; what else it raised comes out."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


async def until(condition: Callable[[], Any], *, timeout_s: float = 10) -> None:
    """Wait for what another process does, where there is nothing to subscribe to."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Sidecar:
    """What one authz_service holds for revoked."""

    directory: Path
    link: RedisLink | None = None
    refuse: bool = False
    notes: list[DecisionRecord] = field(default_factory=list)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.registry = CollectorRegistry()
        self.path = self.directory / "revocations.json"
        self.revocations = Revocations(
            RevocationFile(self.path),
            self.link,
            self.notes.append,
            LimitsMetrics(self.registry),
            refuse_without_redis=self.refuse,
            trust_domains=["mcp.internal"],
            clock=self.clock,
        )

    @property
    def revoked(self) -> set[str]:
        """Everything that is revoked or quarantined now."""
        now_us = int(self.clock() * 1e6)
        return {entry.id for entry in self.revocations._known.values() if entry.in_force(now_us)}

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [
            (note.reason, note.identity or note.user or note.token_id or note.peer_fingerprint) for note in self.notes
        ]


@asynccontextmanager
async def sidecar(directory: Path, url: str = "", **options: Any) -> AsyncIterator[Sidecar]:
    """A running sidecar's revocations; with `url` linked to that Redis."""
    link = RedisLink(url, timeout_s=1.0, node=directory.name, changed=lambda _: None) if url else None
    one = Sidecar(directory, link, **options)
    jobs = [asyncio.create_task(one.revocations.run())]
    if link is not None:
        jobs.append(asyncio.create_task(link.run()))
    try:
        yield one
    finally:
        for job in jobs:
            await ended(job)
        if link is not None:
            await link.close()


def cli(*arguments: str, home: Path, url: str = "", code: int = 0) -> str:
    """What the command line says; `code` is the exit code it must have."""
    environment = {**os.environ, "SECURE_MCP_GRPC_HOME": str(home), "REDIS_URL": url, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "secure_mcp_grpc", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
