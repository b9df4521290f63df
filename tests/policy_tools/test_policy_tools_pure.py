"""Properties of what the tools compute, against the engine that decides in production."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_tools_harness import POLICY, accepted, book
from policy_tools_strategies import ARGUMENTS, CONCRETE, SUBJECTS, groupings, lines, rules

from authz_service.policy import covers, wildcard
from authz_service.steps.message import digest
from authz_service.workbench.diff import compare
from authz_service.workbench.explain import Question, explain
from authz_service.workbench.patterns import common
from authz_service.workbench.recorded import Known, known_arguments
from authz_service.workbench.weigh import counts, possible_verdicts
from mcp_bridge.sanitize import sanitized

patterns = st.text("ab*", max_size=6)


@given(patterns, patterns, st.text("ab", max_size=7))
def test_what_patterns_have_in_common_is_inside_both(one: str, other: str, text: str) -> None:
    """Ours: and there is something exactly where some text matches both."""
    for shared in common(one, other):
        assert covers(one, shared)
        assert covers(other, shared)
    if wildcard(text, one) and wildcard(text, other):
        assert common(one, other)


@given(lines)
def test_a_policy_does_not_differ_from_itself(text: list[str]) -> None:
    """Issue 3: diff(A, A) is empty."""
    assert compare(accepted(text), accepted(text)).changes == ()


@settings(max_examples=300)
@given(lines, lines)
def test_every_difference_is_confirmed_by_the_engine(old_lines: list[str], new_lines: list[str]) -> None:
    """Issue 3: every gain or loss that diff reports is so for the engine, on a representative."""
    old, new = accepted(old_lines), accepted(new_lines)
    for change in compare(old, new).changes:
        answers = []
        for arguments in ARGUMENTS:
            asked = (change.subject, change.method, change.name, arguments)
            answers.append((old.policy.judge(*asked).allowed, new.policy.judge(*asked).allowed))
        if change.kind == "gains":
            assert (True, False) not in answers
        if change.kind == "loses":
            assert (False, True) not in answers
        for effect, verdicts in zip((change.before, change.after), zip(*answers, strict=True), strict=True):
            assert not effect.always or all(verdicts)
            assert not effect.never or not any(verdicts)
        assert change.before != change.after


@settings(max_examples=300)
@given(lines, st.one_of(rules, groupings))
def test_no_change_of_one_line_stays_unseen(text: list[str], line: str) -> None:
    """Ours: whatever one more line makes the engine answer differently, some change of diff is about."""
    old, new = accepted(text), accepted([*text, line])
    changes = compare(old, new).changes
    for subject, method, name, arguments in product(SUBJECTS, ("tools/call", "ping"), CONCRETE, ARGUMENTS):
        if old.policy.judge(subject, method, name, arguments).allowed != (
            new.policy.judge(subject, method, name, arguments).allowed
        ):
            assert any(
                change.subject == subject and wildcard(method, change.method) and wildcard(name, change.name)
                for change in changes
            ), (subject, method, name, arguments)


def test_exceptions_of_a_wide_change_are_named() -> None:
    """Ours: "gains git_*" with "except git_push" is not "gains git_push"."""
    old = book("p, m, tools/call, git_log, allow\n")
    new = book("p, m, tools/call, git_*, allow\np, m, tools/call, git_push, deny\n")
    (change,) = compare(old, new).changes

    assert (change.kind, change.name) == ("gains", "git_*")
    assert set(change.exceptions) == {("tools/call", "git_log"), ("tools/call", "git_push")}


@settings(max_examples=200)
@given(
    lines,
    st.sampled_from(SUBJECTS),
    st.sampled_from(CONCRETE),
    st.sampled_from(ARGUMENTS),
    st.sampled_from((None, frozenset({"n"}), frozenset({"s"}), frozenset({"n", "s"}), frozenset())),
)
def test_a_certain_verdict_is_the_engines(
    text: list[str], subject: str, name: str, arguments: dict[str, Any], hidden: frozenset[str] | None
) -> None:
    """Issue 3: never guess: what is called certain without some arguments is what the engine says with them."""
    policy = accepted(text)
    shown = {} if hidden is None else {key: "[redacted]" if key in hidden else item for key, item in arguments.items()}
    known = Known(shown, None if hidden is None else hidden & set(arguments))
    found = [held.rule for held in policy.matching(subject, "tools/call", name)]
    possible = possible_verdicts(found, lambda rule: counts(rule, known))
    verdict = policy.policy.judge(subject, "tools/call", name, arguments).allowed

    assert verdict in possible
    if known.complete:
        assert len(possible) == 1


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
keys = st.one_of(st.text(max_size=5), st.sampled_from(("limit", "token", "api_key", "sql")))


@given(st.dictionaries(keys, json_values, max_size=5), st.sampled_from((20, 60, 4096)))
def test_known_arguments_are_what_was_called(arguments: dict[str, Any], max_bytes: int) -> None:
    """Ours: with the bridge's own sanitizer: whatever is not called hidden has its true value."""
    known = known_arguments(sanitized(arguments, max_bytes), digest(arguments))

    if known.hidden is not None:
        assert set(known.arguments) == set(arguments)
        for key, value in known.arguments.items():
            if key not in known.hidden:
                assert value == arguments[key]
    if known.complete:
        assert digest(known.arguments) == digest(arguments)


@pytest.mark.parametrize(
    ("text", "called", "hidden"),
    [
        ("", {}, frozenset()),
        ("", {"limit": 1}, None),
        ('{"limit":1', {"limit": 1}, None),
        ('{"limit":1}', {"limit": 1}, frozenset()),
        ('{"limit":2}', {"limit": 1}, None),
        ("[1]", {"limit": 1}, None),
        ('{"limit":1,"token":"[redacted]"}', {"limit": 1, "token": "x"}, frozenset({"token"})),
        ('{"a":{"key":"[redacted]"},"b":1}', {"a": {"key": 1}, "b": 1}, frozenset({"a"})),
        ('{"note":"[redacted]"}', {"note": "[redacted]"}, frozenset()),
    ],
)
def test_missing_cut_and_redacted_arguments_are_told_apart(text: str, called: Any, hidden: Any) -> None:
    """Issue 3: where the recorded arguments are missing, cut or redacted, say so."""
    assert known_arguments(text, digest(called)).hidden == hidden


@given(
    lines,
    st.sampled_from(SUBJECTS),
    st.sampled_from(("a", "ab", "c")),
    st.sampled_from(ARGUMENTS),
    st.sampled_from(((), ("role:y",))),
)
def test_explanations_agree_with_the_engine(
    text: list[str], subject: str, name: str, arguments: dict[str, Any], roles: tuple[str, ...]
) -> None:
    """Issue 3: same engine as production; what is said to turn the verdict, does."""
    policy = accepted(text)
    asked = (subject, "tools/call", name, arguments, roles)
    told = explain(policy, Question(*asked))

    assert told.ruling == policy.policy.judge(*asked)
    assert not told.ruling.line or told.ruling.line in {trace.rule.line for trace in told.traces}
    for change in told.changes:
        assert _turned(text, policy, asked, change) is not told.ruling.allowed, change


def _turned(text: list[str], policy: Any, asked: tuple[Any, ...], change: str) -> bool:
    subject, method, name, arguments, roles = asked
    if change.startswith("call with "):
        key, _, value = change.removeprefix("call with ").partition(" = ")
        return bool(policy.policy.judge(subject, method, name, {**arguments, key: json.loads(value)}, roles).allowed)
    if change.startswith("call without "):
        rest = {key: value for key, value in arguments.items() if key != change.removeprefix("call without ")}
        return bool(policy.policy.judge(subject, method, name, rest, roles).allowed)
    removed, _, added = change.partition("add: ")
    numbers = {int(word.strip(",")) for word in removed.split() if word.strip(",").isdecimal()}
    source = policy._contents[1].decode().split("\n")
    kept = [line for number, line in enumerate(source, 1) if number not in numbers]
    return bool(book("\n".join([*kept, added])).policy.judge(*asked).allowed)


def test_a_role_that_may_is_offered() -> None:
    """Issue 3: what would change it: a rule to add."""
    told = explain(book(POLICY), Question("model-b", "tools/call", "git_log", {}))

    assert told.changes == (
        "add: p, model-b, tools/call, git_log, allow",
        "add: g, model-b, role:analyst",
        "add: g, model-b, role:user",
    )
