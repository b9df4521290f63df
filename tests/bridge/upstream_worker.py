"""An MCP server that tells when its work was cancelled; in this process, over stdio or over HTTP."""

import asyncio
import time

from mcp.server.mcpserver import Context, MCPServer

worker = MCPServer("worker")

running: set[str] = set()
cancelled: dict[str, float] = {}
"""Name → when, on the clock that all processes of a machine share."""


@worker.tool()
async def work(name: str, context: Context, forever: bool = False) -> str:
    """Three steps with progress, then done, or never."""
    running.add(name)
    try:
        for step in range(3):
            await context.report_progress(step, 3)
        if forever:
            await asyncio.Event().wait()
        return name
    except asyncio.CancelledError:
        cancelled[name] = time.monotonic()
        raise
    finally:
        running.discard(name)


@worker.tool()
def state() -> dict[str, list[str]]:
    """What runs and what was cancelled."""
    return {"running": sorted(running), "cancelled": sorted(cancelled)}


@worker.tool()
def cancelled_at(name: str) -> float:
    """When the work of that name was cancelled; 0 if it was not yet."""
    return cancelled.get(name, 0.0)


if __name__ == "__main__":
    worker.run()
