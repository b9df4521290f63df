"""Settings of the embedded store; section `store` of the configuration file."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["StoreSettings"]

Port = Annotated[int, Field(ge=0, le=65535)]


class StoreSettings(CommonSettings):
    """Where the store keeps its data, who may connect, and how much memory it may take."""

    section: ClassVar[str] = "store"
    env_prefix: ClassVar[str] = "MCP_STORE_"

    data_dir: Path = Path("store")
    """Private directory (0700): the engine's files, its lock, and the password files unless named otherwise."""

    listen_fd: Annotated[int, Field(ge=3)] | None = None
    """Listening socket inherited from the supervisor; without one the store binds 127.0.0.1:`port` itself."""

    port: Port = 8123
    """Port on 127.0.0.1; 0 lets the system choose."""
    writer_password_file: Path | None = None
    """Password of user `writer`; made with random content (0600) if missing. Default: `<data_dir>/writer.password`."""

    reader_password_file: Path | None = None
    """Password of user `reader`, who can neither write nor touch files. Default: `<data_dir>/reader.password`."""

    max_memory_mib: Annotated[int, Field(ge=256, le=1_048_576)] = 1024
    """Cap on the engine's memory, MiB; a single query may take half of it."""

    max_query_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Longest run of one query, seconds."""

    fsync: bool = False
    """Fsync each inserted part, for machines that lose power; kill -9 needs it not."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    metrics_port: Port = 9093
    """Their port; 0 lets the system choose, the announcement states it."""

    @property
    def writer_password_path(self) -> Path:
        return self.writer_password_file or self.data_dir / "writer.password"

    @property
    def reader_password_path(self) -> Path:
        return self.reader_password_file or self.data_dir / "reader.password"
