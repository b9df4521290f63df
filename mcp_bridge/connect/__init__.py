"""`secure-mcp-grpc connect`: a local MCP server whose answers come over gRPC from a sidecar."""
