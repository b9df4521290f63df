"""Settings of limits: section `limits` of the file. Envoy enforces them, and mcp_bridge for what Envoy does not see."""

from typing import ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["LimitSettings"]


class LimitSettings(CommonSettings):
    """What one client may ask of a pod."""

    section: ClassVar[str] = "limits"
    env_prefix: ClassVar[str] = "MCP_LIMITS_"

    per_client_per_second: int = Field(default=200, ge=1)
    """Requests per second of one client, sustained: of a certificate's identity, or of a token's where there are no
    client certificates."""
    per_client_burst: int = Field(default=400, ge=1)
    """Requests that an identity may send at once after a pause."""
    per_tool_per_second: int = Field(default=100, ge=1)
    """The same for one subject, method and tool."""
    per_tool_burst: int = Field(default=200, ge=1)
    """Calls of one tool that a subject may make at once after a pause."""
    per_address_per_second: int = Field(default=1000, ge=1)
    """Requests per second from one network address (IPv6: one /64), where there are no client certificates: before
    a token is believed, nothing else is known. Clients behind one proxy share it."""
    per_address_burst: int = Field(default=2000, ge=1)
    """Requests that an address may send at once after a pause."""
    max_identities: int = Field(default=1000, ge=1, le=1_000_000)
    """Buckets kept for identities, and as many for addresses; the least recently used is forgotten, and starts full
    when it comes back."""
    max_identity_tools: int = Field(default=10_000, ge=1, le=1_000_000)
    """Buckets kept for pairs of subject and tool; as `max_identities`."""
    max_request_bytes: int = Field(default=1_048_576, ge=1024, le=64 * 1_048_576)
    """Size of a gRPC request body, its 5 bytes of frame header included."""
    max_connections: int = Field(default=1000, ge=1)
    """Connections from clients at the same time."""
    max_requests: int = Field(default=1024, ge=1)
    """Requests that wait for the bridge at the same time."""
    max_streams: int = Field(default=256, ge=1, le=2_147_483_647)
    """Requests of one connection at the same time."""
    max_heap_bytes: int = Field(default=256 * 1_048_576, ge=64 * 1_048_576)
    """Envoy refuses requests when its heap comes near to this."""
    request_timeout_s: float = Field(default=15.0, gt=0)
    """Time that a client has to send a whole request: Envoy holds its body back until it is judged."""
    max_call_s: float = Field(default=300.0, gt=0)
    """Duration of a unary call."""
    max_stream_s: float = Field(default=3600.0, gt=0)
    """Duration of a streaming call."""
    max_connection_s: float = Field(default=3600.0, gt=0)
    """Age at which a connection is drained, so that certificates are verified again."""
    stream_idle_s: float = Field(default=300.0, gt=0)
    """Time without a byte after which a stream is ended."""
    authz_timeout_s: float = Field(default=2.0, gt=0)
    """Time that authz_service has for a decision."""
