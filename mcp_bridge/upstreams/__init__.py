"""The MCP servers behind the bridge, one module for each way to reach them."""
