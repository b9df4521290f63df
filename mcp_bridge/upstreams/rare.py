"""Log events that a hostile MCP server could cause without end, at a bounded rate; the rest is counted."""

import logging
import time
from typing import Any

from secure_mcp_grpc import logs

__all__ = ["Rare"]


class Rare:
    """At most `per_s` events a second; the next one after that says how many were `left_out`."""

    def __init__(self, logger: logging.Logger, *, per_s: int = 5, **fields: Any) -> None:
        self._logger = logger
        self._per_s = per_s
        self._fields = fields
        self._second = 0
        self._written = 0
        self._left_out = 0

    def event(self, level: int, name: str, **fields: Any) -> None:
        if (now := int(time.monotonic())) != self._second:
            self._second, self._written = now, 0
        if self._written >= self._per_s:
            self._left_out += 1
            return
        self._written += 1
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        logs.event(self._logger, level, name, **self._fields, **fields)
