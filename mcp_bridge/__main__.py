"""`python -m mcp_bridge`: serve MCP servers over gRPC on `<run_dir>/bridge.sock`."""

from mcp_bridge.run import run
from mcp_bridge.settings import BridgeSettings
from secure_mcp_grpc import lifecycle

if __name__ == "__main__":
    lifecycle.main("bridge", BridgeSettings, run)
