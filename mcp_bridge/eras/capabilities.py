"""Whether a client can be asked what a server wants to ask it: its declared capabilities against one request.

Pure functions, for both directions: a handshake server's own request, and
what a modern server puts into an `InputRequiredResult`.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.eras.words import decoded

__all__ = ["lacking", "refusal"]

_OPENS: Final = {"elicitation/create": "elicitation", "roots/list": "roots", "sampling/createMessage": "sampling"}


def lacking(method: str, params: bytes, capabilities: Mapping[str, Any]) -> dict[str, Any] | None:
    """The client capabilities that `method` with `params` needs beyond those declared; None where it may be asked.

    An empty object: there is no such request, whatever a client declares.
    """
    name = _OPENS.get(method)
    if name is None:
        return {}
    declared = capabilities.get(name)
    needed = _needed(method, params)
    if not isinstance(declared, Mapping):
        return {name: needed}
    if name == "elicitation" and not ({"form", "url"} & declared.keys()):
        declared = {"form": {}}  # an empty object means form mode only
    missing = {key: value for key, value in needed.items() if key not in declared}
    return {name: missing} if missing else None


def refusal(method: str, params: bytes, capabilities: Mapping[str, Any]) -> tuple[int, str] | None:
    """Code and sentence for a handshake server that asks what its client cannot answer; None where it can.

    2025-11-25: no such capability is METHOD_NOT_FOUND ("Roots", "Error Handling"), a mode or a
    parameter without its sub-capability INVALID_PARAMS ("Elicitation", "Error Handling").
    """
    missing = lacking(method, params, capabilities)
    if missing is None:
        return None
    name = _OPENS.get(method)
    if name is not None and isinstance(capabilities.get(name), Mapping):
        return wire.INVALID_PARAMS, f"the client did not declare {name}.{next(iter(missing[name]))}"
    return wire.METHOD_NOT_FOUND, f"the client does not support {name}" if name else "Method not found"


def _needed(method: str, params: bytes) -> dict[str, Any]:
    try:
        members = wire.object_of(params) if params else {}
    except wire.NotJson:
        members = {}
    if method == "elicitation/create":
        return {"url": {}} if decoded(members.get("mode")) == "url" else {"form": {}}
    if method == "sampling/createMessage" and {"tools", "toolChoice"} & members.keys():
        return {"tools": {}}
    return {}


def read_capabilities(raw: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, dict) else {}
