"""The records that authz_service and mcp_bridge send to trace_sink, as JSON in an access-log entry's `record` tag."""

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

__all__ = ["DecisionRecord", "InteractionRecord", "timestamp"]


def timestamp(time_us: int) -> str:
    """`time_us` (microseconds since the epoch) as a record's `ts`: RFC 3339, UTC, microseconds."""
    seconds, micros = divmod(time_us, 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(4)
def _second(seconds: int) -> str:
    """Formatting a date costs as much as the rest of a record."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the decision journal. `hash` is over the line without its own field; see authz_service.journal."""

    kind: str = "decision"
    """`decision`, or `start`, `policy`, `gap`, `anchor`, `revocation` for events of the chain itself."""
    chain: str
    """Identifier of the journal: one per authz_service process start."""
    seq: int
    """1, 2, 3, … within the chain."""
    ts: str
    """RFC 3339, UTC, microseconds: `2026-11-20T21:40:00.000000Z`."""
    decision: str = ""
    """`allow` or `deny`."""
    reason: str = ""
    """Stable code: `permitted`, `not_permitted`, `no_identity`, `malformed`, …"""
    rule: str = ""
    """The policy rule that matched, as written; empty when none did."""
    policy_version: str = ""
    """Short hash of model and policy."""
    identity: str = ""
    spiffe_id: str = ""
    user: str = ""
    """The principal that a token spoke for: `user:<issuer>:<sub>`; empty without one."""
    roles: tuple[str, ...] = ()
    user_roles: tuple[str, ...] = ()
    token_roles: tuple[str, ...] = ()
    """Those of `user_roles` that the token itself gave; the others are policy's."""
    actors: tuple[str, ...] = ()
    """Delegation (RFC 8693 `act`), the current actor first."""
    token_id: str = ""
    """`jti` of the token."""
    method: str = ""
    tool: str = ""
    args_digest: str = ""
    """`sha256:` and 16 hex digits over the canonical JSON of the arguments; never the arguments."""
    request_id: str = ""
    session_id: str = ""
    peer_fingerprint: str = ""
    """SHA-256 of the client certificate, hex."""
    prev: str = ""
    hash: str = ""


class InteractionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One MCP request or notification as mcp_bridge executed, or refused to execute, it."""

    ts: str
    """Start, RFC 3339, UTC, microseconds."""
    request_id: str
    chain: str = ""
    seq: int = 0
    """The decision it was executed under."""
    identity: str = ""
    user: str = ""
    server: str = ""
    """Name of the upstream MCP server."""
    rpc: str = ""
    method: str = ""
    tool: str = ""
    session_id: str = ""
    protocol_version: str = ""
    outcome: str = ""
    """`ok`, `tool_error` (isError), `mcp_error` (JSON-RPC error), `refused`, `cancelled`, `failed`."""
    error_code: int = 0
    """JSON-RPC error code, 0 without one."""
    grpc_status: int = -1
    """What the RPC ended with, or a frame's own call would have; -1 where nothing says."""
    reason: str = ""
    """Why a frame was not executed, or a stream ended: authz_service's code, or `rate_limited`; empty mostly."""
    duration_us: int = 0
    """From its arrival, or a frame's admission, to its end; microseconds."""
    upstream_us: int = 0
    """Time the upstream took, microseconds."""
    request_bytes: int = 0
    response_bytes: int = 0
    notifications: int = 0
    """Messages streamed before the response."""
    finding: str = ""
    """Stable code of what a guard of the bridge found, such as `tool_drift`; empty mostly."""
    arguments: str = ""
    """Sanitized JSON of the arguments, cut at a configured size; valid JSON exactly where it was not cut."""
    request: str = ""
    """What the params say beside `arguments` and `tool`, likewise."""
    response: str = ""
    """The result, or the JSON-RPC error, likewise; `{"grpcStatus": …, "message": …}` for a refusal."""
    payload_encoding: str = ""
    """`sealed1` where the three above are sealed for the owner of a key (`mcp_bridge.capture.sealing`)."""
    trace_id: str = ""
    """W3C trace id, 32 hex digits."""
    span_id: str = ""
    """Of this hop, 16 hex digits: the parent of what the MCP server does with the request."""
    parent_span_id: str = ""
    """Empty where the trace began here; may name a span of a client, which no record tells of."""
    correlation_id: str = ""
    """Chosen by whoever began; the trace id where nobody chose."""
    hops: int = 0
    """Bridges the chain went through, this one included, as the callers tell it."""
    resources: tuple[str, ...] = ()
    """URIs that were read, or stand in the result."""
    digests_in: tuple[str, ...] = ()
    """Keyed digests (16 hex digits) of longer texts in the arguments."""
    digests_out: tuple[str, ...] = ()
    """The same of texts and files in the result: equal values have equal digests."""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_source: str = ""
    """`reported` by the message, or `estimated` from its size; see `mcp_bridge.capture.tokens`."""
