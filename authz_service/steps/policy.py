"""Step: whether policy allows it. The only step that permits."""

from collections.abc import Sequence

from authz_service.case import Case
from authz_service.policy import Policy, Ruling
from authz_service.verdict import FAULT, Allow, Code, Deny
from secure_mcp_grpc.calls import McpCall

__all__ = ["PolicyStep", "judge_all", "refusal"]

_MAX_SHOWN_CHARS = 200


class PolicyStep:
    """Asks policy for each of the identities that a request has: all of them must be allowed."""

    def judge(self, case: Case) -> Deny | None:
        call = case.call
        if call is None:
            return FAULT
        identity = case.identity.subject if case.identity is not None else None
        principal, token_roles = (case.principal.subject, case.principal.roles) if case.principal else (None, ())
        rulings = judge_all(case.policy, identity, principal, token_roles, call)
        if identity is not None:
            case.roles = rulings[0][1].roles
        if principal is not None:
            case.user_roles = rulings[-1][1].roles
        for subject, ruling in rulings:
            if not ruling.allowed:
                roles = token_roles if subject == principal else ()
                otherwise = not ruling.rule and case.policy.could(subject, call.method, [call.name], roles)[0]
                return refusal(subject, call, ruling, otherwise=otherwise)
        if not rulings:
            return FAULT
        case.permit = Allow("; ".join(ruling.rule for _, ruling in rulings))
        return None


def judge_all(
    policy: Policy, identity: str | None, principal: str | None, token_roles: Sequence[str], call: McpCall
) -> list[tuple[str, Ruling]]:
    """Policy's answer for each of the subjects that a request has, the workload first.

    The request is allowed if there is one at least and all are. `token_roles` are the principal's alone. A record
    of the journal is judged anew through here, too.
    """
    rulings = []
    if identity is not None:
        rulings.append((identity, policy.judge(identity, call.method, call.name, call.arguments)))
    if principal is not None:
        rulings.append((principal, policy.judge(principal, call.method, call.name, call.arguments, token_roles)))
    return rulings


def refusal(subject: str, call: McpCall, ruling: Ruling, *, otherwise: bool = False) -> Deny:
    """The peer learns that a rule forbids it, not which one: rules name other identities and tools.

    `otherwise`: with other arguments it could be allowed.
    """
    if ruling.rule:
        sentence = f"{_attempt(subject, call)}: a rule forbids it"
        return Deny(Code.PERMISSION_DENIED, "denied_by_rule", sentence, ruling.rule)
    hint = " with these arguments" if otherwise else ""
    return Deny(Code.PERMISSION_DENIED, "not_permitted", f"{_attempt(subject, call)}: no rule allows it{hint}")


def _attempt(subject: str, call: McpCall) -> str:
    if not call.name:
        return f"{subject} may not use {call.method}"
    name = call.name if len(call.name) <= _MAX_SHOWN_CHARS else f"{call.name[:_MAX_SHOWN_CHARS]}…"
    if call.method == "tools/call":
        return f"{subject} may not call {name}"
    return f"{subject} may not use {call.method} on {name}"
