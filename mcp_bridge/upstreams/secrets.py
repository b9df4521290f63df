"""Static headers for MCP servers that want an API key: values come from files and environment variables only."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from secure_mcp_grpc.errors import UserError

__all__ = ["RESERVED", "SOURCE", "SecretHeaders"]

SOURCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
RESERVED = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "host"}
    | {"last-event-id", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Header names that belong to the protocol; so does everything that starts with `mcp-`."""
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,8190}[\x21-\x7e])?")


class SecretHeaders:
    """Header names → where their values are (`env:NAME`, `file:PATH`). Nothing here prints a value."""

    def __init__(self, upstream: str, sources: Mapping[str, str]) -> None:
        self._upstream = upstream
        self._sources = dict(sources)
        self._values: dict[str, str] = {}

    @property
    def values(self) -> Mapping[str, str]:
        """What to send; read before by `load`."""
        return self._values

    def load(self) -> None:
        """Read all values, at start and when the server no longer takes them. Raises `UserError`."""
        self._values = {name.lower(): self._read(name, source) for name, source in self._sources.items()}

    def _read(self, name: str, source: str) -> str:
        kind, _, where = source.partition(":")
        what = f"upstream {self._upstream}: header {name}"
        if kind == "env":
            value = os.environ.get(where, "")
        else:
            try:
                value = Path(where).read_text(encoding="ascii", errors="replace").strip()
            except OSError as error:
                raise UserError(f"{what}: {where} cannot be read: {error.strerror}") from None
        if not _VALUE.fullmatch(value):
            raise UserError(f"{what}: {source} must hold one line of visible ASCII characters, not empty")
        return value

    def __repr__(self) -> str:
        return f"SecretHeaders({sorted(self._sources)})"
