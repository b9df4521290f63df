"""An MCP server of the tests that asks its client back, and writes down what became of calls."""

import asyncio
import os
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent

server = MCPServer("asker")
journal = Path(os.environ["ASKER_JOURNAL"])


def note(what: str) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(what + "\n")


@server.tool()
async def ask(question: str, context: Context) -> str:
    """Asks the client's model (handshake era)."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
    answer = await context.session.create_message([message], max_tokens=10)
    return getattr(answer.content, "text", "")


@server.tool()
async def wait(label: str) -> str:
    """Never ends by itself."""
    note(f"began {label}")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note(f"cancelled {label}")
        raise
    return label


@server.tool()
async def change(context: Context) -> None:
    """Says that the tools changed."""
    await context.notify_tools_changed()


if __name__ == "__main__":
    server.run("stdio")
