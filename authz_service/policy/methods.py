"""The methods that a client can send, and so the only ones that a rule can speak about."""

import difflib
from typing import Final

from secure_mcp_grpc.calls import END_SESSION, LISTEN, REPLY, SESSION

__all__ = ["METHODS", "WITH_ARGUMENTS", "WITH_NAME", "nobody_sends"]

_BOTH_ERAS: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tools/call",
        "tools/list",
    }
)
_STATELESS: Final = frozenset({"notifications/cancelled", "server/discover", "subscriptions/listen"})
"""MCP 2026-07-28: client requests and notifications."""
_HANDSHAKE: Final = frozenset(
    {
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "notifications/tasks/status",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/cancel",
        "tasks/get",
        "tasks/list",
        "tasks/result",
    }
)
"""MCP 2024-11-05 to 2025-11-25: client requests and notifications."""
_OURS: Final = frozenset({LISTEN, REPLY, END_SESSION, SESSION, "policy:explain"})
"""Calls that carry no MCP method, and the right to hear why something is hidden."""

METHODS: Final = _BOTH_ERAS | _STATELESS | _HANDSHAKE | _OURS

WITH_NAME: Final = frozenset(
    {
        "completion/complete",
        "policy:explain",
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "tools/call",
    }
)
"""Those that name something (see `secure_mcp_grpc.calls.name_of`); the name of all others is empty. `policy:explain`
names the list."""

WITH_ARGUMENTS: Final = frozenset({"tools/call", "prompts/get"})
"""Those with `params.arguments`, which conditions speak about."""


def nobody_sends(method: str, extra: frozenset[str] = frozenset()) -> str:
    """The sentence about a method (or a pattern) that is neither in `METHODS` nor in `extra`, with the closest one."""
    close = difflib.get_close_matches(method, sorted(METHODS | extra), 1)
    return f"no client sends the method {method}" + (f"; perhaps {close[0]}?" if close else "")
