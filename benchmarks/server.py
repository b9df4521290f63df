"""The MCP server that is measured: one small tool, and one whose answers are as large as one likes.

As a program: `python -m benchmarks.server` speaks stdio, and streamable HTTP
on the listening socket whose descriptor is its argument.
"""

from mcp.server.mcpserver import MCPServer

server = MCPServer("bench")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(structured_output=False)
def text(size: int) -> str:
    """So many bytes."""
    return "x" * size


if __name__ == "__main__":
    import socket
    import sys

    import uvicorn

    if len(sys.argv) > 1:
        listener = socket.socket(fileno=int(sys.argv[1]))
        # A connection that rests while the other side is measured must not be closed in between.
        config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_keep_alive=3600)
        uvicorn.Server(config).run(sockets=[listener])
    else:
        server.run()
