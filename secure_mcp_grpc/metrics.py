"""Prometheus metrics of a part: a registry of its own, served on a port of its own."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import start_http_server

from secure_mcp_grpc.errors import UserError

__all__ = ["new_registry", "serve_metrics"]


def new_registry(part: str) -> CollectorRegistry:
    """A registry with the process's own figures (CPU, memory, descriptors) and `mcp_part_start_time_seconds`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    started = Gauge("mcp_part_start_time_seconds", "Unix time at which this part started.", ["part"], registry=registry)
    started.labels(part).set(time.time())
    return registry


@contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int, part: str) -> Iterator[str]:
    """Serve `registry` at http://host:port/metrics; yields `host:port` as bound (port 0 lets the system choose).

    Raises `UserError` for a busy port.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(
            f"{part} cannot serve metrics on {host}:{port}: {reason}; choose another metrics_port"
        ) from None
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
