"""`python -m dashboard`: Streamlit on a TCP socket, health on a Unix socket, metrics on a port of their own."""

import asyncio
import contextlib
import logging
import os
import threading
from typing import Final

from dashboard import server
from dashboard.metrics import metrics
from dashboard.settings import DashboardSettings
from dashboard.store import Store
from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.health import Health, serve_health
from secure_mcp_grpc.logs import event
from secure_mcp_grpc.metrics import serve_metrics

logger = logging.getLogger(__name__)

PART: Final = "dashboard"
_PROBE_S: Final = 2.0
_PROBE_TIMEOUT_S: Final = 1
_STOP_S: Final = 1.8


async def run(settings: DashboardSettings) -> None:
    """Serve until SIGTERM or SIGINT; ends within two seconds of it."""
    settings.require_store()
    stop = lifecycle.stop_event()
    run_dir = lifecycle.private_directory(settings.run_dir)
    socket_path = lifecycle.socket_path(run_dir, PART)
    with (
        lifecycle.inherited_socket(settings.listen_fd, settings.host, settings.port, PART) as listener,
        serve_metrics(metrics().registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address,
    ):
        host, port = listener.getsockname()[:2]
        async with serve_health(socket_path) as health, server.serve(settings, listener):
            http = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            endpoints = {"http": http, "grpc": f"unix:{socket_path.absolute()}", "metrics": metrics_address}
            lifecycle.announce(run_dir, PART, endpoints)
            event(logger, logging.INFO, "listening", http=http)
            probe = asyncio.create_task(_probe(settings, health), name="store-probe")
            await stop.wait()
            last_resort = threading.Timer(_STOP_S, _end_by_force)
            last_resort.daemon = True
            last_resort.start()
            lifecycle.withdraw(run_dir, PART)
            await health.stopping()
            probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probe
    event(logger, logging.INFO, "stopped")


async def _probe(settings: DashboardSettings, health: Health) -> None:
    """Serving means: the store answers, so pages can show something."""
    await health.not_serving()
    store = Store(settings, _PROBE_TIMEOUT_S)
    try:
        while True:
            up = await asyncio.to_thread(store.ping)
            metrics().store_up.set(up)
            await (health.serving() if up else health.not_serving())
            await asyncio.sleep(_PROBE_S)
    finally:
        store.close()


def _end_by_force() -> None:
    """End although a page still waits for the store.

    Streamlit runs pages in threads that Python would join at exit, for as
    long as their query takes. They only read, so nothing is lost with them.
    """
    event(logger, logging.WARNING, "left_with_open_pages")
    os._exit(0)


if __name__ == "__main__":
    lifecycle.main(PART, DashboardSettings, run)
