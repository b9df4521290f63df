"""Secure MCP-gRPC: a sidecar stack for the Model Context Protocol.

`grpc_transport` is all that an application of the MCP SDK needs:

    async with mcp.Client(grpc_transport("host:8443", identity=Identity.from_directory("certs/model-a"))) as client:
        ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_bridge.client import Identity as Identity
    from mcp_bridge.client import grpc_transport as grpc_transport

__all__ = ["Identity", "grpc_transport"]


def __getattr__(name: str) -> Any:
    """The client needs the MCP SDK; what the services share does not. So the client is imported on first use."""
    if name in __all__:
        return getattr(import_module("mcp_bridge.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
