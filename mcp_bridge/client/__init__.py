"""The client side: an MCP SDK transport over gRPC. `from secure_mcp_grpc import grpc_transport` gives the same."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mcp_bridge.client.identity import Identity

if TYPE_CHECKING:
    from mcp_bridge.client.transport import grpc_transport

__all__ = ["Identity", "grpc_transport"]


def __getattr__(name: str) -> Any:
    """Channels do without the MCP SDK, which only the transport needs."""
    if name == "grpc_transport":
        return import_module("mcp_bridge.client.transport").grpc_transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
