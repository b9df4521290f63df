"""Running all parts of a sidecar on one machine: what `secure-mcp-grpc up` and `demo` stand on."""
