"""An MCP server with something of everything, reached by the tests in every way: in this process, stdio, HTTP."""

import asyncio

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent

server = MCPServer("full", instructions="Everything once.")

running: set[str] = set()
cancelled: list[str] = []
"""What `wait` knows, for tests that share the server's process."""


@server.tool()
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@server.tool()
def echo(value: str) -> str:
    """What came."""
    return value


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("on purpose")


@server.tool()
async def count(to: int, context: Context) -> int:
    """Counts with progress."""
    for number in range(to):
        await context.report_progress(number, to, f"at {number}")
    return to


@server.tool()
async def wait(name: str) -> str:
    """Never ends by itself."""
    running.add(name)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise
    finally:
        running.discard(name)
    return name


@server.tool()
async def change(context: Context) -> None:
    """Says that the tools changed."""
    await context.notify_tools_changed()


@server.tool()
def state() -> list[str]:
    """What was cancelled."""
    return sorted(cancelled)


@server.tool()
async def ask(question: str, context: Context) -> str:
    """Asks the client's model (handshake era)."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
    answer = await context.session.create_message([message], max_tokens=10)
    return getattr(answer.content, "text", "")


@server.resource("note://today")
def today() -> str:
    """A resource."""
    return "sunny"


@server.resource("note://day/{day}")
def day(day: str) -> str:
    """A resource template."""
    return f"rain on {day}"


@server.prompt()
def greet(name: str) -> str:
    """A prompt."""
    return f"Say hello to {name}"


if __name__ == "__main__":
    server.run()
