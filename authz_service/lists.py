"""Which names of a list its caller may use: mcp_bridge asks this before it passes on what an MCP server offers.

`PolicyQuery.Filter` (proto/secure_mcp_grpc/v1/policy_query.proto), bytes in
and bytes out like the check, on the same private socket. The list request
itself went through the whole decision already; this only reads the policy.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from authz_service.policy import Policy
from authz_service.steps.policy import refusal
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

__all__ = ["EXPLAIN", "FILTER", "ListMetrics", "Lists"]

logger = logging.getLogger(__name__)

FILTER: Final = "/secure_mcp_grpc.v1.PolicyQuery/Filter"
EXPLAIN: Final = "grpc:explain"
"""Method in policy: the right to hear why names of a list are hidden; its name is the list method."""

_TEMPLATES: Final = "resources/templates/list"
_USED_BY: Final = {
    "tools/list": "tools/call",
    "resources/list": "resources/read",
    _TEMPLATES: "resources/read",
    "prompts/list": "prompts/get",
}
"""List method → the method that uses what it lists."""
_MAX_NAMES: Final = 1000
_FAULT: Final = b""
"""A response without a value for any name: nothing may be shown."""

_Subject = tuple[str, tuple[str, ...]]
"""An identity, and roles that it has besides those of the policy."""


class ListMetrics:
    """Declared once, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.names = Counter(
            "mcp_authz_list_names_total",
            "Names in lists that were judged for their caller, by result (visible, hidden).",
            ["result"],
            registry=registry,
        )
        self.failures = Counter(
            "mcp_authz_list_failures_total",
            "Lists that could not be judged; nothing of them is shown.",
            registry=registry,
        )


class Lists:
    """`policy` gives the policy in force."""

    def __init__(self, policy: Callable[[], Policy], metrics: ListMetrics) -> None:
        self._policy = policy
        self._metrics = metrics

    def filter(self, body: bytes) -> bytes:
        """A `FilterResponse` for a `FilterRequest`. Never raises: what cannot be judged is answered without values."""
        try:
            response = judge_list(self._policy(), pb.FilterRequest.FromString(body))
            written: bytes = response.SerializeToString()
        except Exception:  # noqa: BLE001 - top of the stack: a bug must hide, never show
            logs.event(logger, logging.ERROR, "list_filter_failed")
            self._metrics.failures.inc()
            return _FAULT
        shown = sum(response.visible)
        self._metrics.names.labels("visible").inc(shown)
        self._metrics.names.labels("hidden").inc(len(response.visible) - shown)
        return written


def judge_list(policy: Policy, request: pb.FilterRequest) -> pb.FilterResponse:
    """Which names of `request` all identities of its caller could use; raises `ValueError` for no list of MCP."""
    method = _USED_BY.get(request.method)
    if method is None or len(request.names) > _MAX_NAMES:
        raise ValueError("not a list that can be judged")
    names = list(request.names)
    subjects = _subjects(request)
    could = policy.could_expand if request.method == _TEMPLATES else policy.could
    columns = [could(subject, method, names, roles) for subject, roles in subjects]
    rows = list(zip(*columns, strict=True)) if columns else [(False,)] * len(names)
    if len(rows) != len(names):
        raise ValueError("the policy did not answer for each name")
    response = pb.FilterResponse(visible=[all(row) for row in rows])
    if request.explain and subjects and _may_explain(policy, request.method, subjects):
        response.explained = True
        for index, row in enumerate(rows):
            if not all(row):
                subject, roles = subjects[row.index(False)]
                response.hidden.append(_reason(policy, index, subject, roles, McpCall(method, names[index], {})))
    return response


def _subjects(request: pb.FilterRequest) -> Sequence[_Subject]:
    """The workload and the user, each judged by itself; nobody where the bridge names no caller.

    Without a client certificate the user is the caller, and stands in both fields.
    """
    if not request.subject:
        return ()
    user: _Subject = (request.user, tuple(request.user_roles))
    if request.user == request.subject:
        return (user,)
    return ((request.subject, ()), user) if request.user else ((request.subject, ()),)


def _may_explain(policy: Policy, list_method: str, subjects: Sequence[_Subject]) -> bool:
    return all(policy.judge(subject, EXPLAIN, list_method, {}, roles).allowed for subject, roles in subjects)


def _reason(policy: Policy, index: int, subject: str, roles: tuple[str, ...], call: McpCall) -> pb.Hidden:
    deny = refusal(subject, call, policy.judge(subject, call.method, call.name, {}, roles))
    return pb.Hidden(index=index, reason=deny.reason, sentence=deny.sentence, rule=deny.rule)
