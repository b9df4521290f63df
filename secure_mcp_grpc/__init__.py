"""Secure MCP-gRPC: a sidecar stack for the Model Context Protocol.

`grpc_transport` is all that an application of the MCP SDK needs:

    async with mcp.Client(grpc_transport("host:8443", identity=Identity.from_directory("certs/model-a"))) as client:
        ...

`SecureMCPServer` and `SecureMCPClient`, with their providers, put the same
parts into one object each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_bridge.client import Identity as Identity
    from mcp_bridge.client import grpc_transport as grpc_transport
    from secure_mcp_grpc.api.authorization import RBACAuthorization as RBACAuthorization
    from secure_mcp_grpc.api.client import MCPResponse as MCPResponse
    from secure_mcp_grpc.api.client import SecureMCPClient as SecureMCPClient
    from secure_mcp_grpc.api.providers import JWTAuthProvider as JWTAuthProvider
    from secure_mcp_grpc.api.providers import MTLSAuthProvider as MTLSAuthProvider
    from secure_mcp_grpc.api.providers import OAuth2AuthProvider as OAuth2AuthProvider
    from secure_mcp_grpc.api.server import SecureMCPServer as SecureMCPServer
    from secure_mcp_grpc.api.tracer import InteractionTracer as InteractionTracer

_HOME = {
    "Identity": "mcp_bridge.client",
    "InteractionTracer": "secure_mcp_grpc.api.tracer",
    "JWTAuthProvider": "secure_mcp_grpc.api.providers",
    "MCPResponse": "secure_mcp_grpc.api.client",
    "MTLSAuthProvider": "secure_mcp_grpc.api.providers",
    "OAuth2AuthProvider": "secure_mcp_grpc.api.providers",
    "RBACAuthorization": "secure_mcp_grpc.api.authorization",
    "SecureMCPClient": "secure_mcp_grpc.api.client",
    "SecureMCPServer": "secure_mcp_grpc.api.server",
    "grpc_transport": "mcp_bridge.client",
}
"""Where each public name lives. Imported on first use: what the services share needs neither the MCP SDK nor Envoy."""

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
