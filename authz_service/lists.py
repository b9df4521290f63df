"""Which names of a list its caller may use: mcp_bridge asks this before it passes on what an MCP server offers.

`PolicyQuery.Filter` (proto/secure_mcp_grpc/v1/policy_query.proto), bytes in
and bytes out like the check, on the same private socket. The list request
itself went through the whole decision already; this only reads the policy.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
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
EXPLAIN: Final = "policy:explain"
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
_AT_ONCE: Final = 20
"""Names judged in one turn of the event loop; a new name under 10,000 rules takes a third of a millisecond."""
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

    def filter(self, body: bytes) -> bytes | Awaitable[bytes]:
        """A `FilterResponse` for a `FilterRequest`; a long one is judged while checks go on between.

        Never raises: what cannot be judged is answered without values.
        """
        try:
            request = pb.FilterRequest.FromString(body)
            judging = judge_list(self._policy(), request)
            if len(request.names) > _AT_ONCE:
                return self._in_turns(judging)
            return self._answer(_finish(judging))
        except Exception:  # noqa: BLE001 - top of the stack: a bug must hide, never show
            return self._fail()

    async def _in_turns(self, judging: "Judging") -> bytes:
        try:
            while True:
                try:
                    next(judging)
                except StopIteration as end:
                    return self._answer(end.value)
                await asyncio.sleep(0)
        except Exception:  # noqa: BLE001 - as in `filter`
            return self._fail()

    def _answer(self, response: pb.FilterResponse) -> bytes:
        written: bytes = response.SerializeToString()
        shown = sum(response.visible)
        self._metrics.names.labels("visible").inc(shown)
        self._metrics.names.labels("hidden").inc(len(response.visible) - shown)
        return written

    def _fail(self) -> bytes:
        logs.event(logger, logging.ERROR, "list_filter_failed")
        self._metrics.failures.inc()
        return _FAULT


def judge_list(policy: Policy, request: pb.FilterRequest) -> "Judging":
    """Which names of `request` all identities of its caller could use, under one policy.

    Pauses after every few names. Raises `ValueError` for no list of MCP.
    """
    method = _USED_BY.get(request.method)
    if method is None or len(request.names) > _MAX_NAMES:
        raise ValueError("not a list that can be judged")
    subjects = _subjects(request)
    could = policy.could_expand if request.method == _TEMPLATES else policy.could
    response = pb.FilterResponse()
    response.explained = request.explain and bool(subjects) and _may_explain(policy, request.method, subjects)
    for first in range(0, len(request.names), _AT_ONCE):
        names = request.names[first : first + _AT_ONCE]
        columns = [could(subject, method, names, roles) for subject, roles in subjects]
        rows = list(zip(names, *columns, strict=True)) if columns else [(name, False) for name in names]
        for index, (name, *bits) in enumerate(rows, first):
            response.visible.append(all(bits))
            if response.explained and not all(bits):
                subject, roles = subjects[bits.index(False)]
                response.hidden.append(_reason(policy, index, subject, roles, McpCall(method, name, {})))
        yield
    return response


Judging = Generator[None, None, pb.FilterResponse]


def _finish(judging: Judging) -> pb.FilterResponse:
    while True:
        try:
            next(judging)
        except StopIteration as end:
            response: pb.FilterResponse = end.value
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
