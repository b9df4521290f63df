"""What a child process may use, for settings and launcher."""

import sys
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ChildLimits"]

_MIB = 1024 * 1024


class ChildLimits(BaseModel):
    """Limits of one child, kept by the kernel; each process that it starts has them for itself again.

    Core dumps are always off: they would hold what callers sent. For limits over all
    processes together use the container's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    memory_mib: Annotated[int, Field(ge=16)] | None = None
    """Private memory in MiB (`RLIMIT_DATA`; off Linux the address space, `RLIMIT_AS`). Off unless given: what a server
    needs is its own affair, 256 is enough for most Python servers and 512 for most Node servers."""
    cpu_s: Annotated[int, Field(ge=1)] | None = None
    """CPU seconds over its whole life; then it is killed and the next request starts another. Off unless given."""
    files: Annotated[int, Field(ge=16)] | None = 1024
    """Open files."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """Processes and threads of this operating system user in all, so only of use where the sidecar has a user of its
    own; does not bind root. Off unless given."""

    def for_launch(self) -> str:
        """As `mcp_bridge.upstreams.launch` takes them."""
        wanted = {
            "CORE": 0,
            "DATA" if sys.platform == "linux" else "AS": self.memory_mib and self.memory_mib * _MIB,
            "CPU": self.cpu_s,
            "NOFILE": self.files,
            "NPROC": self.processes,
        }
        return ",".join(f"{name}={value}" for name, value in wanted.items() if value is not None)
