"""Settings of trace_sink; section `sink` of the configuration file."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from secure_mcp_grpc.settings import CommonSettings, from_env

__all__ = ["SinkSettings"]


class SinkSettings(CommonSettings):
    """Where the sink writes, how it batches, and how much it holds while the store is away."""

    section: ClassVar[str] = "sink"
    env_prefix: ClassVar[str] = "MCP_SINK_"

    clickhouse_url: Annotated[SecretStr, from_env("CLICKHOUSE_URL")] = SecretStr("http://writer@127.0.0.1:8123/mcp")
    """`http[s]://user:password@host:port/database`. Never logged."""

    clickhouse_url_file: Path | None = None
    """File with the URL, instead of `clickhouse_url`."""

    clickhouse_password_file: Path | None = None
    """File with the password, for a URL without one; read at every connect, so it may appear or change later."""

    batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """A batch is written when it has this many rows …"""

    batch_delay_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """… or this long after its first row, seconds."""

    urged_delay_s: Annotated[float, Field(ge=0, le=60)] = 0.4
    """Delay instead of `batch_delay_s` while a sender waits for its acknowledgement, seconds."""

    max_pending_rows: Annotated[int, Field(ge=1000)] = 100_000
    """Most rows held in memory while the store is away."""

    max_pending_mib: Annotated[int, Field(ge=1)] = 64
    """Most bytes of entries held in memory while the store is away, MiB."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9092
    """Their port; 0 lets the system choose, the announcement states it."""
