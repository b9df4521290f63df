"""`PolicyQuery.Filter` of authz_service: which names of a list its caller may use, and why not."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from authz_service import lists
from authz_service.lists import ListMetrics, Lists
from authz_service.policy import Policy, parse, read_model
from authz_service.settings import AuthzSettings
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

MODEL = AuthzSettings.model_fields["model_file"].default.read_bytes()
USER = "user:corp:ann"


def policy_of(*lines: str) -> Policy:
    """Any policy, also one that a check for rules without effect would refuse."""
    rules = parse("\n".join(lines).encode(), "policy.csv")
    return Policy(read_model(MODEL, "model.conf"), rules, "version", cached=64)


async def wait(answered: Awaitable[bytes]) -> bytes:
    return await answered


class Desk:
    """The handler over a policy, and its metrics."""

    def __init__(self, *lines: str) -> None:
        self.registry = CollectorRegistry()
        self.policy = policy_of(*lines)
        self._lists = Lists(lambda: self.policy, ListMetrics(self.registry))

    def ask(self, *names: str, **fields: Any) -> pb.FilterResponse:
        fields = {"subject": "model-a", "method": "tools/list"} | fields
        return self.raw(pb.FilterRequest(names=names, **fields).SerializeToString())

    def raw(self, body: bytes) -> pb.FilterResponse:
        answered = self.answer(body)
        return pb.FilterResponse.FromString(answered if isinstance(answered, bytes) else asyncio.run(wait(answered)))

    def answer(self, body: bytes) -> bytes | Awaitable[bytes]:
        return self._lists.filter(body)

    def visible(self, *names: str, **fields: Any) -> list[str]:
        visible = self.ask(*names, **fields).visible
        return [name for name, bit in zip(names, visible, strict=True) if bit]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("listed", "used"),
    [
        ("tools/list", "tools/call"),
        ("prompts/list", "prompts/get"),
        ("resources/list", "resources/read"),
        ("resources/templates/list", "resources/read"),
    ],
)
def test_caller_sees_what_it_may_use(listed: str, used: str) -> None:
    """Issue 3: the policy that judges a use judges the list."""
    desk = Desk(
        f"p, role:r, {used}, file:///docs/*, allow",
        f"p, model-a, {used}, file:///docs/secret, deny",
        f"p, role:r, {listed}, *, allow",
        "p, role:r, other/method, *, allow",
        "g, model-a, role:r",
    )
    names = ("file:///docs/a", "file:///docs/secret", "file:///etc/passwd", "file:///docs/{path}", "")

    assert desk.visible(*names, method=listed) == ["file:///docs/a", "file:///docs/{path}"]
    assert desk.visible(*names, method=listed, subject="model-b") == []


def test_workload_and_user_must_both_be_allowed() -> None:
    """Issue 3: with a certificate and a token both identities must be allowed, in lists as in calls."""
    desk = Desk(
        "p, model-a, tools/call, a*, allow",
        f"p, {USER}, tools/call, *b, allow",
        "p, role:token, tools/call, c, allow",
    )

    assert desk.visible("a", "b", "ab") == ["a", "ab"]
    assert desk.visible("a", "b", "ab", user=USER) == ["ab"]
    assert desk.visible("a", "b", "ab", subject=USER, user=USER) == ["b", "ab"]
    assert desk.visible("a", "b", "ab", subject="model-b", user=USER) == []
    assert desk.visible("b", "c", subject=USER, user=USER, user_roles=["role:token"]) == ["b", "c"]
    assert desk.visible("b", "c", user=USER, user_roles=["role:token"]) == []


def test_nobody_sees_nothing() -> None:
    """Ours: a request without a caller is no caller that may."""
    desk = Desk("p, model-a, tools/call, *, allow", "p, model-a, policy:explain, *, allow")
    answer = desk.ask("x", "y", subject="", explain=True)

    assert (list(answer.visible), answer.explained, list(answer.hidden)) == ([False, False], False, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "tools/call"},
        {"method": ""},
        {"method": "Tools/List"},
        {"names": ["x"] * 1001},
    ],
)
def test_what_is_no_list_shows_nothing(fields: dict[str, Any]) -> None:
    """Ours: no value for any name, which the bridge takes as a refusal."""
    desk = Desk("p, model-a, *, *, allow")
    request = pb.FilterRequest(subject="model-a", **({"method": "tools/list", "names": ["x"]} | fields))

    assert desk.raw(request.SerializeToString()) == pb.FilterResponse()
    assert desk.value("mcp_authz_list_failures_total") == 1


@given(st.binary(max_size=80))
def test_no_bytes_raise_or_show(body: bytes) -> None:
    """Issue 3: no exception leaves the handler, and nothing random is shown under an empty policy."""
    assert not any(Desk().raw(body).visible)


def test_bug_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Style: a broad except stands only at the top, and there it denies."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(lists, "judge_list", broken)
    assert Desk("p, model-a, *, *, allow").ask("x") == pb.FilterResponse()


async def test_long_list_lets_others_in_between_and_keeps_its_policy() -> None:
    """Ours: decisions do not wait behind a list, and one list is judged under one policy."""
    desk = Desk("p, model-a, tools/call, a*, allow")
    names = [f"{'ab'[number % 2]}{number}" for number in range(1000)]
    request = pb.FilterRequest(subject="model-a", method="tools/list", names=names)
    answered = desk.answer(request.SerializeToString())
    assert not isinstance(answered, bytes)
    desk.policy = policy_of()
    waiting = asyncio.ensure_future(wait(answered))
    turns = 0
    while not waiting.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns > 40
    assert list(pb.FilterResponse.FromString(waiting.result()).visible) == [True, False] * 500


async def test_bug_in_a_long_list_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Style: as at once, so in turns."""
    desk = Desk("p, model-a, *, *, allow")

    def broken(*_: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(desk.policy, "could", broken)
    request = pb.FilterRequest(subject="model-a", method="tools/list", names=["x"] * 100)
    answered = desk.answer(request.SerializeToString())
    assert not isinstance(answered, bytes)
    assert await answered == b""


def test_policy_is_the_one_in_force() -> None:
    """Ours: nothing is remembered over a reload."""
    desk = Desk("p, model-a, tools/call, x, allow")
    assert desk.visible("x", "y") == ["x"]
    desk.policy = policy_of("p, model-a, tools/call, y, allow")
    assert desk.visible("x", "y") == ["y"]
    assert desk.value("mcp_authz_list_names_total", result="visible") == 2
    assert desk.value("mcp_authz_list_names_total", result="hidden") == 2


RULES = (
    "p, model-a, tools/call, open, allow",
    "p, role:r, tools/call, *, deny",
    "p, role:r, tools/call, git_*, allow",
    "p, model-c, tools/call, open, allow",
    "p, model-c, policy:explain, tools/list, allow",
    "g, model-b, role:r",
    "p, model-b, policy:explain, tools/list, allow",
)


def test_reasons_are_for_those_who_may_have_them() -> None:
    """Issue 3: a caller with the right to it can ask why something is hidden; rules only then."""
    desk = Desk(*RULES)
    may, may_by_rule, may_not = (
        desk.ask("open", "shell", subject=subject, explain=True) for subject in ("model-c", "model-b", "model-a")
    )

    assert may.explained
    assert [(one.index, one.reason, one.sentence, one.rule) for one in may.hidden] == [
        (1, "not_permitted", "model-c may not call shell: no rule allows it", "")
    ]
    assert [(one.index, one.reason, one.rule) for one in may_by_rule.hidden] == [
        (0, "denied_by_rule", "p, role:r, tools/call, *, deny"),
        (1, "denied_by_rule", "p, role:r, tools/call, *, deny"),
    ]
    assert (may_not.explained, list(may_not.hidden)) == (False, [])
    assert list(may_not.visible) == list(desk.ask("open", "shell").visible) == [True, False]


def test_reasons_are_not_given_unasked_or_for_another_list() -> None:
    """Ours: the right is for one list method."""
    desk = Desk(*RULES)

    assert not desk.ask("shell", subject="model-c").hidden
    other = desk.ask("greet", subject="model-c", method="prompts/list", explain=True)
    assert (other.explained, list(other.hidden)) == (False, [])


_SUBJECTS = ("model-a", "model-b", "role:r", "role:s")
_METHODS = ("tools/call", "*", "tools/*", "prompts/get")
_NAME = st.sampled_from(["a", "ab", "b", "ba", "*", ""])
_PATTERN = st.sampled_from(["a", "ab", "*", "a*", "*b", "b"])
_EFFECT = st.sampled_from(["allow", "allow", "deny"])
_PLAIN = st.builds("p, {}, {}, {}, {}".format, st.sampled_from(_SUBJECTS), st.sampled_from(_METHODS), _PATTERN, _EFFECT)
_CONDITION = st.sampled_from(["args.limit <= 100", "args.limit > 100", 'args.path == "x"'])
_CONDITIONAL = st.builds("{}, {}".format, _PLAIN, _CONDITION)
_GROUPS = st.lists(
    st.sampled_from(["g, model-a, role:r", "g, model-b, role:s", "g, role:r, role:s"]), unique=True, max_size=3
)
_ARGUMENTS = st.dictionaries(
    st.sampled_from(["limit", "path"]), st.integers(0, 200) | st.sampled_from(["x", "y"]), max_size=2
)
_SUBJECT = st.sampled_from(["model-a", "model-b", "model-c"])
_CALLS = st.lists(_NAME, max_size=6)


@given(rules=st.lists(_PLAIN, max_size=8), groups=_GROUPS, names=_CALLS, subject=_SUBJECT, arguments=_ARGUMENTS)
def test_without_conditions_a_name_is_visible_just_when_it_may_be_called(
    rules: list[str], groups: list[str], names: list[str], subject: str, arguments: dict[str, Any]
) -> None:
    """Issue 3: one policy for listing and calling."""
    desk = Desk(*rules, *groups)

    for name, bit in zip(names, desk.ask(*names, subject=subject).visible, strict=True):
        ruling = desk.policy.judge(subject, "tools/call", name, arguments)
        assert bit == ruling.allowed
        assert not bit or ruling.rule.endswith("allow")


@given(
    rules=st.lists(_PLAIN | _CONDITIONAL, max_size=8),
    groups=_GROUPS,
    names=_CALLS,
    subject=_SUBJECT,
    arguments=st.lists(_ARGUMENTS, max_size=4),
)
def test_hidden_is_what_no_arguments_would_make_allowed(
    rules: list[str], groups: list[str], names: list[str], subject: str, arguments: list[dict[str, Any]]
) -> None:
    """Issue 3: over random policies with conditions; and what is visible has a rule that could allow it."""
    desk = Desk(*rules, *groups)
    answer = desk.ask(*names, subject=subject, user=USER)
    assert not any(answer.visible)  # the user has no rule
    answer = desk.ask(*names, subject=subject)

    for name, bit in zip(names, answer.visible, strict=True):
        if not bit:
            assert not any(desk.policy.judge(subject, "tools/call", name, one).allowed for one in arguments)
        else:
            assert any(", allow" in rule for rule in rules)


@given(
    rules=st.lists(_PLAIN | _CONDITIONAL, max_size=8), names=st.lists(_NAME, min_size=1, max_size=6), subject=_SUBJECT
)
def test_every_hidden_name_has_a_reason_that_refuses(rules: list[str], names: list[str], subject: str) -> None:
    """Issue 3: in order, each hidden name once, by a deny as written or by no rule at all."""
    desk = Desk(*rules, f"p, {subject}, policy:explain, tools/list, allow")
    answer = desk.ask(*names, subject=subject, explain=True)

    assert answer.explained or any(rule.endswith("deny") for rule in rules)
    if answer.explained:
        assert [one.index for one in answer.hidden] == [at for at, bit in enumerate(answer.visible) if not bit]
    for one in answer.hidden:
        assert (one.reason, bool(one.rule)) in (("not_permitted", False), ("denied_by_rule", True))
        assert not one.rule or (one.rule in rules and ", deny" in one.rule)


def test_conditional_rule_makes_visible_and_conditional_deny_does_not_hide() -> None:
    """Issue 3: the argument is not known yet when a list is shown."""
    desk = Desk(
        "p, model-a, tools/call, query_db, allow, args.limit <= 100",
        "p, model-a, tools/call, read, allow",
        'p, model-a, tools/call, read, deny, args.path == "x"',
        "p, model-a, tools/call, write, deny",
        "p, model-a, tools/call, write, allow, args.limit <= 100",
    )

    assert desk.visible("query_db", "read", "write", "drop") == ["query_db", "read"]


def test_template_is_visible_where_some_expansion_could_be_read() -> None:
    """Issue 3: rules speak of URIs, and a template stands for many."""
    desk = Desk("p, model-a, resources/read, file:///docs/a.txt, allow", "p, model-a, resources/read, db://*/x, allow")
    templates = ("file:///docs/{name}", "file:///etc/{name}", "db://{table}/{column}", "file:///docs/b{name}")

    assert desk.visible(*templates, method="resources/templates/list") == [templates[0], templates[2]]
    assert desk.visible(*templates, method="resources/list") == []
