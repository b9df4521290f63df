"""Settings of the dashboard; section `dashboard` of the file, variables `MCP_DASHBOARD_*`."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.settings import CommonSettings, from_env

__all__ = ["DashboardSettings"]


class DashboardSettings(CommonSettings):
    """Where the dashboard listens and which store it reads."""

    section: ClassVar[str] = "dashboard"
    env_prefix: ClassVar[str] = "MCP_DASHBOARD_"

    host: str = "127.0.0.1"
    """Address to listen on. There is no login yet: leave it on loopback."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8501
    """0 lets the system choose; the announcement states the port."""

    listen_fd: Annotated[int | None, Field(ge=0)] = None
    """Descriptor of an inherited listening socket; `host` and `port` are not used with it."""

    allowed_hosts: list[str] = Field(["localhost", "127.0.0.1", "::1"], min_length=1)
    """Host names under which browsers may reach the dashboard; others are refused (DNS rebinding)."""

    clickhouse_url: Annotated[SecretStr | None, from_env("CLICKHOUSE_URL")] = None
    """`http://user:password@host:port/database` of the store; a user that can only read is enough."""

    clickhouse_url_file: Path | None = None
    """File that holds the URL; wins over `clickhouse_url`. It is read again after each failed connection."""

    refresh_s: Annotated[float, Field(ge=0.5, le=3600)] = 2.0
    """How often a live page asks the store."""

    query_timeout_s: Annotated[int, Field(ge=1, le=120)] = 10
    """Longest that one query may take."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9094
    """Their port; 0 lets the system choose, the announcement states it."""

    def require_store(self) -> None:
        """Raise `UserError` where no store is named."""
        if self.clickhouse_url is None and self.clickhouse_url_file is None:
            raise UserError("no store is named; set CLICKHOUSE_URL or MCP_DASHBOARD_CLICKHOUSE_URL_FILE")
