"""MCP servers of the capture tests, in this process."""

from typing import Any

from bridge_harness import Bridge
from mcp import Client
from mcp.server.mcpserver import MCPServer

SECRET_TEXT = "The harvest of the north field was 4,711 tons in 2025."


def answering() -> MCPServer:
    """Sidecar B's server."""
    server = MCPServer("b")

    @server.tool()
    def keep(text: str) -> str:
        return f"kept {len(text)}"

    return server


def relaying(other: Bridge) -> MCPServer:
    """Sidecar A's server: a tool of it calls a tool behind another sidecar."""
    server = MCPServer("a")

    @server.tool()
    def look_up(topic: str) -> str:
        return SECRET_TEXT

    @server.tool()
    async def relay(text: str) -> Any:
        async with Client(other.transport("model-b")) as client:
            result = await client.call_tool("keep", {"text": text})
        return result.content[0].text

    return server
