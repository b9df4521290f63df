"""How a request ended, in one word, from what Envoy or the bridge logged about it. Pure.

Flags are Envoy's response flags ("Access log format rules", %RESPONSE_FLAGS%).
"""

from collections.abc import Collection
from typing import Final

__all__ = ["FLAGS", "LASTING", "OUTCOMES", "outcome", "outcome_of_interaction"]

OUTCOMES: Final = ("allowed", "denied", "limited", "cancelled", "unavailable", "error", "public")

FLAGS: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Field of ResponseFlags → Envoy's short name; UAEX is the message `unauthorized_details`."""

LASTING: Final = frozenset({"grpc:session", "grpc:listen", "subscriptions/listen"})
"""Methods whose streams last until their client leaves: that is their ordinary end, and no cancel."""

_CLIENT_LEFT = frozenset({"DC", "DR"})
# The next hop is away, not ready, or broke off: asking again later may help.
_HOP_AWAY = frozenset({"LH", "UH", "UF", "UC", "UR", "UO", "URX", "RLSE", "OM", "DF", "NC", "NFCF"})
# The rest are faults of this request or this configuration: UT, LR, NR, IH, DPE, SI, UMSDR, DT, UPE, FI.
# DI and RFCF say nothing about how it ended.
_SAYS_NOTHING = frozenset({"DI", "RFCF"})

_CANCELLED, _PERMISSION_DENIED, _UNAVAILABLE, _UNAUTHENTICATED = 1, 7, 14, 16
_BRIDGE_REFUSED = frozenset({_PERMISSION_DENIED, _UNAUTHENTICATED})
"""What the bridge answers after an allow: to a tool that drifted, to a stream whose caller was revoked."""
_HTTP_REFUSED = frozenset({401, 403})
"""The same over plain HTTP."""
_LIMITS = frozenset({"quota_exceeded", "rate_limited"})


def outcome(
    *,
    decision: str,
    reason: str = "",
    grpc_status: int,
    http_status: int,
    flags: Collection[str],
    details: str,
    method: str = "",
) -> str:
    """One of `OUTCOMES`; the first that fits.

    `grpc_status` is -1 where none was sent. An MCP error travels with gRPC OK
    and is `allowed`. What authorization denied is `denied` however the
    connection ended, unless a quota was its reason; an answer of the RBAC filter is a refusal that authorization
    did not make, and counts as `denied` too, like one of the bridge after an allow. `public` is what Envoy itself
    tells anybody: protected-resource metadata (RFC 9728).
    """
    if decision == "deny" and reason == "quota_exceeded":
        return "limited"
    if decision == "deny" or details.startswith("rbac_access_denied"):
        return "denied"
    if "RL" in flags or details == "local_rate_limited":
        return "limited"
    left = "allowed" if decision == "allow" and method in LASTING else "cancelled"
    if _CLIENT_LEFT.intersection(flags):
        return left
    if "UAEX" in flags and not decision:
        return "unavailable"
    if _HOP_AWAY.intersection(flags) or grpc_status == _UNAVAILABLE or (grpc_status < 0 and http_status == 503):
        return "unavailable"
    if grpc_status == _CANCELLED:
        return left
    if decision == "allow" and (grpc_status in _BRIDGE_REFUSED or (grpc_status < 0 and http_status in _HTTP_REFUSED)):
        return "denied"
    if details == "direct_response" and http_status == 200 and grpc_status < 0:
        return "public"
    fault = set(flags) - _SAYS_NOTHING
    answered = grpc_status == 0 or (grpc_status < 0 and 200 <= http_status < 300)
    return "allowed" if decision == "allow" and answered and not fault else "error"


def outcome_of_interaction(*, ended: str, reason: str, grpc_status: int, method: str = "") -> str:
    """The same word for what the bridge executed or refused: how Envoy's entry would read, had it been a call alone.

    `ended` and the rest are those of an `InteractionRecord`.
    """
    if ended in ("ok", "tool_error", "mcp_error"):
        return "allowed"
    if ended == "cancelled" or grpc_status == _CANCELLED:
        return "allowed" if method in LASTING else "cancelled"
    if reason in _LIMITS:
        return "limited"
    if grpc_status == _UNAVAILABLE:
        return "unavailable"
    return "denied" if reason or grpc_status in _BRIDGE_REFUSED else "error"
