"""Step: whether policy allows it. The only step that permits."""

from authz_service.case import Case
from authz_service.policy import Ruling
from authz_service.verdict import FAULT, Allow, Code, Deny
from secure_mcp_grpc.calls import McpCall

__all__ = ["PolicyStep"]

_MAX_SHOWN_CHARS = 200


class PolicyStep:
    """Asks policy for each of the identities that a request has: all of them must be allowed."""

    def judge(self, case: Case) -> Deny | None:
        call, rulings = case.call, []
        if call is None:
            return FAULT
        if case.identity is not None:
            subject = case.identity.subject
            ruling = case.policy.judge(subject, call.method, call.name, call.arguments)
            case.roles = ruling.roles
            rulings.append((subject, ruling))
        if case.principal is not None:
            principal = case.principal
            ruling = case.policy.judge(principal.subject, call.method, call.name, call.arguments, principal.roles)
            case.user_roles = ruling.roles
            rulings.append((principal.subject, ruling))
        for subject, ruling in rulings:
            if not ruling.allowed:
                return _refusal(subject, call, ruling)
        if not rulings:
            return FAULT
        case.permit = Allow("; ".join(ruling.rule for _, ruling in rulings))
        return None


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
