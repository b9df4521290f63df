"""The decision: identity, then what is asked, then policy; the first step that refuses names the reason. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz_service.identity import Identity, IdentityReader
from authz_service.policy import Policy, Ruling
from authz_service.request import read_call
from authz_service.verdict import Allow, Code, Deny
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import McpCall

if TYPE_CHECKING:
    from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

__all__ = ["Decision", "decide", "digest"]

_MAX_REQUEST_ID_CHARS: Final = 128
_MAX_SHOWN_CHARS: Final = 200
_NO_ARGUMENTS: Final = f"sha256:{hashlib.sha256(b'{}').hexdigest()[:16]}"
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what it was based on; what a step before a refusal did not reach is None or empty."""

    verdict: Allow | Deny
    request_id: str = ""
    identity: Identity | None = None
    call: McpCall | None = None
    args_digest: str = ""
    """`sha256:` and 16 hex digits over the canonical JSON of the arguments; see `digest`."""
    roles: tuple[str, ...] = ()
    policy_version: str = ""


def decide(
    request: "CheckRequest", identities: IdentityReader, policy: Policy, *, max_body_bytes: int, now_s: float
) -> Decision:
    """Judge one request of Envoy's."""
    attributes = request.attributes
    http = attributes.request.http
    request_id = http.headers.get(headers.REQUEST_ID, "")[:_MAX_REQUEST_ID_CHARS]
    source = attributes.source
    identity = identities.read(source.certificate, source.principal, now_s)
    if isinstance(identity, Deny):
        return Decision(identity, request_id, policy_version=policy.version)
    call = read_call(http, max_body_bytes)
    if isinstance(call, Deny):
        return Decision(call, request_id, identity, policy_version=policy.version)
    try:
        args_digest = digest(call.arguments)
    except RecursionError:
        too_deep = Deny(Code.INVALID_ARGUMENT, "malformed", "the arguments are nested too deeply")
        return Decision(too_deep, request_id, identity, policy_version=policy.version)
    ruling = policy.judge(identity.subject, call.method, call.name)
    verdict = Allow(ruling.rule) if ruling.allowed else _refusal(identity.subject, call, ruling)
    return Decision(verdict, request_id, identity, call, args_digest, ruling.roles, policy.version)


def digest(arguments: Mapping[str, Any]) -> str:
    """`sha256:` and 16 hex digits over the canonical JSON of `arguments`: sorted keys, no blanks, ASCII."""
    if not arguments:
        return _NO_ARGUMENTS
    return f"sha256:{hashlib.sha256(_canonical(arguments).encode()).hexdigest()[:16]}"


def _refusal(subject: str, call: McpCall, ruling: Ruling) -> Deny:
    """The peer learns that a rule forbids it, not which one: rules name other identities and tools."""
    if ruling.rule:
        sentence = f"{_attempt(subject, call)}: a rule forbids it"
        return Deny(Code.PERMISSION_DENIED, "denied_by_rule", sentence, ruling.rule)
    return Deny(Code.PERMISSION_DENIED, "not_permitted", f"{_attempt(subject, call)}: no rule allows it")


def _attempt(subject: str, call: McpCall) -> str:
    if not call.name:
        return f"{subject} may not use {call.method}"
    name = call.name if len(call.name) <= _MAX_SHOWN_CHARS else f"{call.name[:_MAX_SHOWN_CHARS]}…"
    if call.method == "tools/call":
        return f"{subject} may not call {name}"
    return f"{subject} may not use {call.method} on {name}"
