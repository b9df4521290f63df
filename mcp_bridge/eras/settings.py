"""Settings of the translation between protocol eras."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["Era", "EraSettings"]

Era = Literal["auto", "modern", "handshake"]


class EraSettings(CommonSettings):
    """Limits of calls that wait for their client's input while client and server speak different eras."""

    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    input_wait_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """How long a call may wait for what its server asked its client, where the two speak different protocol eras."""
    max_parked_calls: Annotated[int, Field(ge=1)] = 256
    """Calls of one upstream that wait so, over all identities; one identity gets at most a quarter of them."""
