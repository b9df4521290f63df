"""What of Envoy's configuration serves plain streamable HTTP (`streamable_http`). Pure.

Settings in, values for the placeholders of `envoy/envoy.yaml` out, all None
while it is off; the fragments stand in `envoy/parts.yaml`.
"""

from collections.abc import Mapping
from typing import Any, Final

from secure_mcp_grpc.envoy_settings import EnvoySettings
from secure_mcp_grpc.envoy_template import fill
from secure_mcp_grpc.headers import MCP_FILTER_NAMESPACE
from secure_mcp_grpc.http_calls import PATH, refusal_body
from secure_mcp_grpc.lifecycle import socket_path

__all__ = ["BRIDGE_SOCKET", "plain_http_replies", "plain_http_values"]

BRIDGE_SOCKET: Final = "bridge-http"
"""Name of the bridge's second socket in run_dir."""

_HERE: Final = f'request.url_path == "{PATH}"'
_OWN: Final = f'{_HERE} && response.code_details != "ext_authz_denied"'
_SECOND: Final = {"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def plain_http_values(settings: EnvoySettings, parts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Placeholders and their values; `known` has the other values that the fragments name."""
    names = ("mcp_filter", "plain_http", "plain_http_others", "plain_http_cluster")
    if not settings.streamable_http:
        return dict.fromkeys((*names, "mcp_namespaces"))
    socket = str(socket_path(settings.run_dir, BRIDGE_SOCKET).absolute())
    values = {**known, "bridge_http_socket": socket, "answered_here": parts["answered_here"]}
    values["mcp_filter_on"] = parts["mcp_filter_on"] if settings.mcp_filter else None
    found = {name: fill(parts[name], values) for name in names} | {"mcp_namespaces": [MCP_FILTER_NAMESPACE]}
    return found if settings.mcp_filter else found | {"mcp_filter": None, "mcp_namespaces": None}


def plain_http_replies(settings: EnvoySettings, parts: Mapping[str, Any], too_large: str) -> list[dict[str, Any]]:
    """Mappers of local replies, to stand before those for gRPC: what Envoy says itself, as JSON-RPC errors."""
    if not settings.streamable_http:
        return []

    def reply(when: str, sentence: str, status: str, *, later: bool = False) -> dict[str, Any]:
        body = refusal_body(b"null", sentence, status).decode()
        extra = [_SECOND] if later else None
        return dict(fill(parts["plain_reply"], {"when": when, "body": body, "extra": extra}))

    again = "try again in a second"
    said = reply(f'{_HERE} && response.code == 503 && response.code_details == "ext_authz_denied"', "", "UNAVAILABLE")
    del said["body_format_override"]  # authz_service's own words stay
    return [
        said,
        reply(f"{_HERE} && response.code == 413", too_large, "RESOURCE_EXHAUSTED"),
        reply(
            f'{_HERE} && response.code_details.startsWith("ext_authz_error")',
            f"authorization is unavailable; {again}",
            "UNAVAILABLE",
            later=True,
        ),
        reply(f"{_OWN} && response.code == 403", "authorization gave no decision", "PERMISSION_DENIED"),
        reply(f"{_OWN} && response.code == 405", "this HTTP method is not served here", "UNIMPLEMENTED"),
        reply(f"{_OWN} && response.code == 429", f"too many requests; {again}", "RESOURCE_EXHAUSTED", later=True),
        reply(f"{_OWN} && response.code == 503", f"the MCP bridge is unavailable; {again}", "UNAVAILABLE", later=True),
    ]
