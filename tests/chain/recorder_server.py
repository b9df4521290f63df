"""An MCP server of the tests that writes down what it was asked, so that a test can tell what never reached it."""

import asyncio
import os
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("recorder")
journal = Path(os.environ["RECORDER_JOURNAL"])


def note(what: str) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(what + "\n")


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    note(f"echo {text}")
    return text


@server.tool()
def forbidden(text: str = "") -> str:
    """Nobody may call this."""
    note(f"forbidden {text}")
    return "done"


@server.tool()
async def count(ctx: Context, to: int) -> int:
    """Report progress while counting."""
    for number in range(to):
        await ctx.report_progress(number + 1, to)
    return to


@server.tool()
async def slow(seconds: float) -> str:
    """Take a while."""
    note("slow began")
    await asyncio.sleep(seconds)
    note("slow ended")
    return "done"


if __name__ == "__main__":
    server.run("stdio")
