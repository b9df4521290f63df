"""The demo: the whole chain on this machine, in front of two real MCP servers, with real traffic from three identities."""
