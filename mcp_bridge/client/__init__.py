"""The client side: an MCP SDK transport over gRPC. `from secure_mcp_grpc import grpc_transport` gives the same."""

from mcp_bridge.client.identity import Identity
from mcp_bridge.client.transport import grpc_transport

__all__ = ["Identity", "grpc_transport"]
