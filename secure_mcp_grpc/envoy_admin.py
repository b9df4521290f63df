"""Talking to a running Envoy over its admin socket: where it listens, and asking it to stop taking work."""

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

__all__ = ["AdminError", "active_requests", "drain", "listener_address", "request"]

_FLUSH_S = 0.4
"""`buffer_flush_interval` of envoy.yaml is 0.25 s; the rest is for the way."""
_POLL_S = 0.02


class AdminError(Exception):
    """Envoy's admin interface is not there, or does not answer as it should."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("admin", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(admin_socket: Path, method: str, path: str, *, timeout_s: float = 2.0) -> bytes:
    """The body of Envoy's answer; raises `AdminError` for anything but 200."""
    connection = _Connection(admin_socket, timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        raise AdminError(f"Envoy does not answer on {admin_socket}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise AdminError(f"Envoy answered {response.status} to {method} {path}")
    return body


def listener_address(admin_socket: Path, name: str = "ingress") -> tuple[str, int]:
    """Host and port at which the listener `name` takes connections; raises `AdminError` before it does.

    Envoy binds when it reads its configuration, and listens once its clusters are known to be up or down.
    """
    if not _counter(admin_socket, "listener_manager.workers_started"):
        raise AdminError("Envoy is still starting")
    document: Any = json.loads(request(admin_socket, "GET", "/listeners?format=json"))
    for listener in document.get("listener_statuses", []):
        if listener["name"] == name:
            address = listener["local_address"]["socket_address"]
            return str(address["address"]), int(address["port_value"])
    raise AdminError(f"Envoy has no listener {name} yet")


def active_requests(admin_socket: Path) -> int:
    """Requests that the ingress listener is serving now."""
    return _counter(admin_socket, "http.ingress.downstream_rq_active")


def _counter(admin_socket: Path, name: str) -> int:
    text = request(admin_socket, "GET", f"/stats?filter=^{name}$").decode()
    return int(text.partition(":")[2].strip() or 0)


def drain(admin_socket: Path, *, timeout_s: float = 1.5) -> bool:
    """Stop taking connections, let running requests end within `timeout_s` seconds; False when some still ran.

    Returns once the access log of what ended is on its way: Envoy drops what
    it holds when it is terminated. An Envoy that is gone has nothing to drain.
    """
    deadline = time.monotonic() + timeout_s
    try:
        request(admin_socket, "POST", "/drain_listeners?graceful&skip_exit")
        request(admin_socket, "POST", "/drain_listeners")
        while active_requests(admin_socket) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        drained = not active_requests(admin_socket)
        time.sleep(_FLUSH_S)
    except AdminError:
        return True
    return drained
