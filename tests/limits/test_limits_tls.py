"""Redis over TLS."""

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_harness import linked, until

from authz_service.redis_link import RedisLink
from secure_mcp_grpc import certs


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Port and CA of a Redis that wants TLS and a password. Redis cannot choose a port itself: one is drawn."""
    certs.init_ca(tmp_path / "ca", "mcp.internal")
    certs.issue(tmp_path / "ca", tmp_path / "redis", "redis", dns=["localhost"], ips=["127.0.0.1"])
    program = shutil.which("redis-server")
    assert program
    identity = ("--tls-cert-file", tmp_path / "redis/tls.crt", "--tls-key-file", tmp_path / "redis/tls.key")
    for _ in range(10):
        port = random.randrange(20_000, 30_000)
        options = ("--tls-ca-cert-file", tmp_path / "redis/ca.crt", "--tls-auth-clients", "no", "--save", "")
        log = tmp_path / f"{port}.log"
        command = [program, "--port", "0", "--bind", "127.0.0.1", "--tls-port", str(port), "--logfile", str(log)]
        command += ["--requirepass", "pa55word", "--dir", str(tmp_path), *map(str, (*identity, *options))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and "Ready to accept" in log.read_text()):
            time.sleep(0.01)
        if process.poll() is None:
            break
    yield port, tmp_path / "redis/ca.crt"
    process.kill()
    process.wait()


async def test_a_password_and_tls(tls_redis: tuple[int, Path]) -> None:
    """Ours: rediss:// with a password, the server's certificate checked."""
    port, ca = tls_redis
    url = f"rediss://:pa55word@localhost:{port}/0"
    async with linked(f"{url}?ssl_ca_certs={ca}", timeout_s=1) as link:
        assert await link.command("ECHO", "x") == b"x"
    told: list[bool] = []
    link = RedisLink(url, timeout_s=1, node="n", changed=told.append)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(link.run())
        await until(lambda: told)
        running.cancel()
    await link.close()

    assert told == [False]
