"""Streamlit on a listening socket of ours, inside our own event loop.

`streamlit.App` is an ASGI application; uvicorn serves it on the socket that
`__main__.py` hands over.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import uvicorn

from dashboard.metrics import metrics
from dashboard.settings import DashboardSettings
from dashboard.theme import STREAMLIT_OPTIONS

__all__ = ["serve"]

logger = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 1
_OPTIONS: Final[Mapping[str, Any]] = {
    **STREAMLIT_OPTIONS,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": True,
    "runner.magicEnabled": False,
    "server.enableAgentApi": False,
    "server.enableCORS": True,
    "server.enableStaticServing": False,
    "server.enableXsrfProtection": True,
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 1,
    "server.runOnSave": False,
}

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (
        b"content-security-policy",
        # Streamlit's front end compiles schemas (eval), styles inline, and decodes tables in workers made from blobs.
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' ws: wss:; "
        b"frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'",
    ),
)


def _configure(settings: DashboardSettings, address: tuple[str, int]) -> None:
    """Set Streamlit's options; they win over a `config.toml` that happens to lie in the working directory."""
    from streamlit import config

    host, port = address
    options = {
        **_OPTIONS,
        "server.address": host,
        "server.port": port,
        "browser.serverPort": port,
        "server.allowedHosts": settings.allowed_hosts,
    }
    config.get_config_options(force_reparse=True, options_from_flags=options)


def _quieten() -> None:
    """Streamlit gives uvicorn's loggers handlers of its own; only warnings matter, in the form of our logs."""
    for name in ("uvicorn", "uvicorn.access", "uvicorn.asgi", "uvicorn.error"):
        server_logger = logging.getLogger(name)
        server_logger.handlers.clear()
        server_logger.propagate = True
        server_logger.setLevel(logging.WARNING)


@contextlib.asynccontextmanager
async def serve(settings: DashboardSettings, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the app on `listener` until the block ends; inside it, requests are answered.

    Leaving it closes every browser's connection and ends within about a second.
    """
    import streamlit as st
    from starlette.middleware import Middleware

    host, port = listener.getsockname()[:2]
    _configure(settings, (host, port))
    app = st.App(
        Path(__file__).with_name("app.py"), middleware=[Middleware(_SecurityHeaders)], on_script_error=_script_error
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    server = _Server(config)
    _quieten()
    task = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    started = asyncio.create_task(server.ready.wait(), name="uvicorn-ready")
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    _quieten()
    if not server.ready.is_set():
        started.cancel()
        await task
        raise RuntimeError("Streamlit did not start")
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the lifecycle owns the signals) and with an event for `started`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready.set()


class _SecurityHeaders:
    """ASGI middleware: no framing, no sniffing, nothing from other origins."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _script_error(error: Exception) -> bool | None:
    """Count and log; the browser shows a neutral sentence (`client.showErrorDetails` is `none`)."""
    metrics().script_errors.inc()
    logger.error("page_failed", exc_info=error)
    return None
