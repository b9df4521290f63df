"""Which handler serves which path, and how it is called."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from secure_mcp_grpc.http2.rpc import Methods, Streaming, Unary

__all__ = ["Kind", "Table"]


class Kind(Enum):
    """How a handler is called and what it gives."""

    PLAIN = auto()
    """With the message; an answer, or something that will be one."""
    CALL = auto()
    """With the message and the `Rpc`; something that will be an answer."""
    STREAM = auto()
    """As `CALL`; an iterator of answers."""
    SESSION = auto()
    """With an iterator of messages and the `Rpc`; an iterator of answers."""


class Table:
    """Handlers by gRPC path. A path has one handler."""

    def __init__(self, unary: Mapping[str, Unary], streaming: Mapping[str, Streaming], methods: Methods) -> None:
        self.handlers: dict[str, tuple[Kind, Any]] = {
            **{path: (Kind.PLAIN, handler) for path, handler in unary.items()},
            **{path: (Kind.STREAM, _without_rpc(handler)) for path, handler in streaming.items()},
            **{path: (Kind.CALL, handler) for path, handler in methods.calls.items()},
            **{path: (Kind.STREAM, handler) for path, handler in methods.streams.items()},
            **{path: (Kind.SESSION, handler) for path, handler in methods.sessions.items()},
        }
        self.paths = frozenset(self.handlers)
        self.sessions = frozenset(methods.sessions)


def _without_rpc(handler: Streaming) -> Any:
    return lambda message, _rpc: handler(message)
