"""The HTTP/1.1 server (uvicorn) that a part runs beside its own start and stop: quiet, bounded, without signals.

uvicorn is imported on use: most parts serve no HTTP/1.1.
"""

import contextlib
import logging
from collections.abc import Generator
from typing import Any

from secure_mcp_grpc.errors import UserError

__all__ = ["new_http1_server"]


def new_http1_server(
    app: Any, *, for_what: str, extra: str, backlog: int, keep_alive_s: int = 30, max_head_bytes: int = 64 * 1024
) -> Any:
    """A `uvicorn.Server` for the ASGI application `app`; stopping it is the caller's.

    Raises `UserError`, which says that `for_what` needs the extra `extra`, where uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise UserError(f"{for_what} needs uvicorn: pip install 'secure-mcp-grpc[{extra}]'") from None

    class Server(uvicorn.Server):
        """uvicorn without signal handlers of its own: stopping is ours."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody in front of it is to be believed about who somebody else is
            backlog=backlog,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=max_head_bytes,
        )
    )
