"""Settings of the decisions on streams that stay open."""

from typing import Annotated, ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["FrameSettings"]


class FrameSettings(CommonSettings):
    """How long it counts who a stream was when it opened."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    stream_max_age_s: Annotated[float, Field(gt=0, le=86_400)] = 3900.0
    """Longest life of a stream in seconds, whatever its certificate and token say; its client then opens another one.
    A little more than `max_stream_s` of section `limits`, by which Envoy ends it."""
