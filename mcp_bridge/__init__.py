"""MCP servers behind gRPC (`python -m mcp_bridge`), and the transport of SDK clients (`mcp_bridge.client`)."""
