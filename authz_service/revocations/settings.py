"""Settings of revocations; section `authz` of the configuration file."""

from pathlib import Path
from typing import ClassVar

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["RevocationSettings"]


class RevocationSettings(CommonSettings):
    """Where this sidecar remembers what is revoked."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    revocations_file: Path = Path("revocations.json")
    """What is revoked, as this sidecar knows it; written by it and by `secure-mcp-grpc revoke`. On a disk that outlives
    the process: with Redis away it is the only memory."""
