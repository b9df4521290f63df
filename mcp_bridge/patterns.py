"""What the form of a request says about how it has to travel. For everything that takes requests from MCP clients."""

from collections.abc import Mapping
from typing import Any, Final

from secure_mcp_grpc import calls

__all__ = ["declared_version", "expects_notifications", "meta_of", "name_or_nothing"]

_ASKS_FOR_NOTIFICATIONS: Final = frozenset({"progressToken", "io.modelcontextprotocol/logLevel"})


def meta_of(params: Any) -> Mapping[str, Any]:
    """`params._meta`; empty where there is none or it is no object."""
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else {}


def expects_notifications(method: str, meta: Mapping[str, Any]) -> bool:
    """Whether the client wants messages before the response, so that they need a stream of the request's own."""
    return method == "subscriptions/listen" or not _ASKS_FOR_NOTIFICATIONS.isdisjoint(meta)


def name_or_nothing(method: str, params: Mapping[str, Any]) -> str:
    """`calls.name_of`, and "" where params do not name what they must: authz_service refuses that with a sentence."""
    try:
        return calls.name_of(method, params)
    except calls.Malformed:
        return ""


def declared_version(meta: Mapping[str, Any]) -> Any:
    """2026-07-28, "Per-request protocol fields": the version that makes a request stateless; None without one."""
    return meta.get(calls.PROTOCOL_VERSION_META_KEY)
