"""Settings of authz_service."""

from typing import Annotated, ClassVar

from pydantic import Field

from authz_service.audit.settings import JournalSettings
from authz_service.frames.settings import FrameSettings
from authz_service.http_request import PlainHttpSettings
from authz_service.policy.settings import PolicySettings
from authz_service.quotas.settings import QuotaSettings
from authz_service.redis_settings import RedisSettings
from authz_service.revocations.settings import RevocationSettings
from authz_service.server import ServerSettings
from authz_service.tokens.settings import TokenSettings

__all__ = ["AuthzSettings"]


class AuthzSettings(
    ServerSettings,
    PolicySettings,
    JournalSettings,
    QuotaSettings,
    RevocationSettings,
    RedisSettings,
    TokenSettings,
    FrameSettings,
    PlainHttpSettings,
):
    """Section `authz` of the file, environment variables `MCP_AUTHZ_*`."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9090
    """Their port; 0 lets the system choose, the announcement states it."""

    sink_address: str = ""
    """gRPC address of the access log server; empty means `unix:<run_dir>/sink.sock`."""

    ship_batch: Annotated[int, Field(ge=1, le=50_000)] = 10_000
    """Most records in one acknowledged batch to the sink."""

    ship_delay_s: Annotated[float, Field(ge=0, le=5)] = 0.5
    """Longest time that a record waits for others to travel with."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=3 * 1024 * 1024)] = 1024 * 1024
    """Largest request body that is judged; a larger one is refused."""

    steps: Annotated[tuple[str, ...], Field(min_length=1)] = ("identity", "revocation", "quarantine", "quota", "policy")
    """The decision, step by step: the built-in ones, each once, and names of entry points of the group
    `secure_mcp_grpc.decision_steps` among them. The first step that refuses decides."""

    decision_timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.5
    """Longest time that a decision waits for others (keys, introspection, Redis); then it is a refusal. Less than
    Envoy's own `authz_timeout_s`."""

    certificate_cache: Annotated[int, Field(ge=1)] = 1024
    """Client certificates remembered as read."""
