"""What OpenTelemetry's own loggers say, as events of ours: with a status, without its sentences, and rarely."""

import logging
import time
from collections.abc import Callable
from typing import Final

import grpc

from secure_mcp_grpc import logs

__all__ = ["ExporterEvents", "as_events"]

logger = logging.getLogger(__name__)

_THEIRS: Final = "opentelemetry"
_EVERY_S: Final = 10.0


class ExporterEvents(logging.Handler):
    """Writes `otlp_export_failed` with the collector's gRPC status, or `otlp_trouble` for what is no failed export.

    Each at most once in ten seconds, and then how many were `left_out` since;
    a collector that is away would fill the log otherwise. Sentences of the
    collector are not written. `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:  # under the handler's lock: exporters have threads
        arguments = record.args if isinstance(record.args, tuple) else ()
        status = next((one.name for one in arguments if isinstance(one, grpc.StatusCode)), "")
        name = "otlp_export_failed" if status else "otlp_trouble"
        if self._clock() < self._next.get(name, 0.0):
            self._left_out[name] = self._left_out.get(name, 0) + 1
            return
        self._next[name] = self._clock() + _EVERY_S
        # Of a sentence only the template, which is OpenTelemetry's own. Not at ERROR: that would add a stack.
        fields = {"status": status, "tries_again": record.levelno < logging.ERROR} if status else {"what": record.msg}
        logs.event(logger, logging.WARNING, name, **fields, left_out=self._left_out.pop(name, 0))


def as_events() -> None:
    """From now on, and for as long as this process lives: its threads may log after the last span."""
    theirs = logging.getLogger(_THEIRS)
    if not any(isinstance(one, ExporterEvents) for one in theirs.handlers):
        theirs.addHandler(ExporterEvents())
        theirs.propagate = False
