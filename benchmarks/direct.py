"""The measured server without anything around it: the SDK's own streamable HTTP, in a process of its own."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator

__all__ = ["plain_http"]


@contextlib.asynccontextmanager
async def plain_http() -> AsyncIterator[tuple[str, int]]:
    """Its URL and process id."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.server", str(listener.fileno()), pass_fds=[listener.fileno()]
    )
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", process.pid
    finally:
        process.terminate()
        await process.wait()
        listener.close()
