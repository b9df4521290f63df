"""The server side of MCP, as bytes: streamable HTTP and stdio for clients, over a `Backend` that has the answers."""
