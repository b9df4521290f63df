"""What the bridge holds MCP servers and their callers to: tools pinned by a lock file, arguments and results by schema."""
