"""Logs as events with fields: readable text on a terminal, JSON lines otherwise.

A line holds only what the caller names as a field, so nothing is logged by
accident; values of fields are written as given and callers never pass tokens,
keys or arguments of tools.
"""

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

__all__ = ["configure", "event"]

_RESERVED = ("ts", "level", "service", "event")


def event(logger: logging.Logger, level: int, name: str, **fields: Any) -> None:
    """Log the event `name` (snake_case, stable) with `fields`. An exception being handled is added at ERROR."""
    if logger.isEnabledFor(level):
        failing = level >= logging.ERROR and sys.exc_info()[0] is not None
        logger.log(level, name, extra={"fields": fields}, exc_info=failing)


def configure(
    service: str, *, level: str = "INFO", form: Literal["auto", "json", "text"] = "auto", stream: TextIO | None = None
) -> None:
    """Send this process's logs to `stream` (stderr by default)."""
    stream = stream or sys.stderr
    text = form == "text" or (form == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextFormatter(service) if text else _JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


class _TextFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.gmtime(record.created))
        fields = "".join(f" {key}={value!r}" for key, value in getattr(record, "fields", {}).items())
        line = f"{stamp}Z {record.levelname:7} {self._service}: {_printable(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in getattr(record, "fields", {}).items() if k not in _RESERVED}
        line = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _printable(text: str) -> str:
    """Foreign text must not move the cursor or forge a line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
