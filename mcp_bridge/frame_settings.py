"""Settings of pipelined sessions and of streams that stay open."""

from typing import Annotated, ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["FrameSettings"]


class FrameSettings(CommonSettings):
    """What one stream may have under way, and how often streams are judged again."""

    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    max_frames_in_flight: Annotated[int, Field(ge=1, le=4096)] = 64
    """Messages of one pipelined session that are judged or executed at the same time. As many again are held; its
    client waits with more."""
    frame_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How long authz_service may take to judge frames; then they are refused. More than its own
    `decision_timeout_s`."""
    recheck_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Streams that are open (Stream, Listen, Session) are judged again at this interval, so that revocation,
    quarantine and changes of policy end them within it."""
    recheck_grace_s: Annotated[float, Field(ge=0, le=3600)] = 15.0
    """How long open streams outlive an authz_service that does not answer."""
