"""Settings of what sidecars share through Redis; section `authz` of the configuration file."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.settings import CommonSettings, from_env

__all__ = ["RedisSettings"]


class RedisSettings(CommonSettings):
    """Where Redis is, and what happens without it."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    redis_url: Annotated[SecretStr, from_env("REDIS_URL")] = SecretStr("")
    """`redis[s]://[user:password@]host:port/db` or `unix:///path` of the Redis (one primary) that sidecars share quotas
    and revocations through; empty means each for itself. Never logged."""

    redis_url_file: Path | None = None
    """File with the URL, instead of `redis_url`."""

    redis_timeout_s: Annotated[float, Field(ge=0.01, le=1)] = 0.1
    """Longest wait for one answer of Redis; then it counts as lost until it answers a probe in the background."""

    when_redis_is_lost: Literal["local", "refuse"] = "local"
    """`local`: known revocations stay in force and quotas are counted in each sidecar. `refuse`: every request is
    refused (UNAVAILABLE)."""

    def redis_location(self) -> str:
        """The URL, empty without Redis; raises `UserError`."""
        if self.redis_url_file is None:
            return self.redis_url.get_secret_value().strip()
        if self.redis_url.get_secret_value():
            raise UserError("redis_url and redis_url_file are both set; set one of them")
        try:
            url = self.redis_url_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UserError(f"redis_url_file {self.redis_url_file} cannot be read: {reason}") from None
        if not url:
            raise UserError(f"redis_url_file {self.redis_url_file} is empty; it must hold the URL of Redis")
        return url
