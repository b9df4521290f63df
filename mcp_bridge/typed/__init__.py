"""The typed gRPC service (PyPI `mcp-grpc-transport-proto`): MCP's JSON here, messages for any language there."""
