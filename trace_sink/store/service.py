"""Wires the embedded store: directory, engine, HTTP, health, metrics; and stops them in order."""

import asyncio
import logging
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from secure_mcp_grpc import health, lifecycle, logs, metrics
from secure_mcp_grpc.http1 import new_http1_server
from trace_sink.store import config, engine, passwords
from trace_sink.store.metrics import StoreMetrics
from trace_sink.store.settings import StoreSettings
from trace_sink.store.statements import Role, Rules

__all__ = ["PART", "run"]

PART = "store"
logger = logging.getLogger(__name__)

_WORKERS = 16
_DRAIN_S = 0.5
_LAST_WAIT_S = 1.5


async def run(settings: StoreSettings) -> None:
    """Serve until SIGTERM or SIGINT, then stop within two seconds."""
    stop = lifecycle.stop_event()
    run_dir = lifecycle.private_directory(settings.run_dir)
    data_dir = lifecycle.private_directory(settings.data_dir)
    socket_path = lifecycle.socket_path(run_dir, PART)
    users = passwords.Users(
        {
            Role.WRITER: passwords.read_or_make(settings.writer_password_path),
            Role.READER: passwords.read_or_make(settings.reader_password_path),
        }
    )
    engine.lock_directory(data_dir)
    registry = metrics.new_registry(PART)
    store_metrics = StoreMetrics(registry)
    with (
        lifecycle.inherited_socket(settings.listen_fd, "127.0.0.1", settings.port, PART) as listener,
        metrics.serve_metrics(registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address,
    ):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started = time.perf_counter()
        opened = await asyncio.to_thread(_open, settings, data_dir)
        store_metrics.open_seconds.set(time.perf_counter() - started)
        async with health.serve_health(socket_path) as state:
            await _serve(opened, users, store_metrics, listener, stop, state, run_dir, address, metrics_address)


def _open(settings: StoreSettings, data_dir: Path) -> engine.Engine:
    path = (data_dir / "engine.xml").absolute()
    limits = config.EngineLimits(
        memory_bytes=settings.max_memory_mib << 20,
        query_s=settings.max_query_s,
        threads=min(4, os.cpu_count() or 1),
        fsync=settings.fsync,
    )
    lifecycle.write_by_rename(path, config.render(path, limits).encode(), mode=0o600)
    opened = engine.Engine(lifecycle.private_directory(data_dir / "engine"), path)
    connection = opened.connect()
    connection.query("CREATE DATABASE IF NOT EXISTS mcp", "Null", {})
    connection.close()
    return opened


async def _serve(
    opened: engine.Engine,
    users: passwords.Users,
    store_metrics: StoreMetrics,
    listener: socket.socket,
    stop: asyncio.Event,
    state: health.Health,
    run_dir: Path,
    address: str,
    metrics_address: str,
) -> None:
    from trace_sink.store.http import StoreApp

    workers = ThreadPoolExecutor(_WORKERS, "engine")
    killer = ThreadPoolExecutor(1, "killer")
    rules = Rules(opened.reaching_functions(), opened.table_functions(), opened.canonical)
    app = StoreApp(opened, users, rules, store_metrics, workers, killer)
    server = new_http1_server(app, for_what="the embedded store", extra="store", backlog=128, max_head_bytes=1 << 20)
    # asyncio would do this only for sockets that it made; without it each small answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    await state.serving()
    lifecycle.announce(
        run_dir, PART, {"http": address, "metrics": metrics_address, "health": f"unix:{run_dir.absolute()}/store.sock"}
    )
    logs.event(logger, logging.INFO, "store_open", http=address, engine=opened.version)
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)

    lifecycle.withdraw(run_dir, PART)
    await state.not_serving()
    server.should_exit = True
    await asyncio.wait([serving], timeout=_DRAIN_S)
    await asyncio.get_running_loop().run_in_executor(killer, opened.kill, "")
    server.force_exit = not serving.done()
    await asyncio.wait([serving, stopping], timeout=0.5, return_when=asyncio.ALL_COMPLETED)
    stopping.cancel()
    await _close(app, opened, workers, killer)


async def _close(app: object, opened: engine.Engine, workers: ThreadPoolExecutor, killer: ThreadPoolExecutor) -> None:
    """Close the engine once no thread is in it; one that stays would crash the exit, and a kill loses nothing."""
    idle = asyncio.to_thread(workers.shutdown, wait=True)
    try:
        await asyncio.wait_for(idle, _LAST_WAIT_S)
    except TimeoutError:
        logs.event(logger, logging.WARNING, "store_left_queries")
        sys.stderr.flush()
        os._exit(0)
    killer.shutdown(wait=True)
    opened.close()
