"""The demo: the whole chain on this machine, two real MCP servers behind it, three identities in front."""
