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
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.rules import Rules
from mcp_bridge.capture.sanitize import Sanitizer

patterns = st.text("ab*", max_size=6)


@settings(deadline=None)
@given(patterns, patterns, st.text("ab", max_size=7))
def test_what_patterns_have_in_common_is_inside_both(one: str, other: str, text: str) -> None:
    """Ours: and there is something exactly where some text matches both."""
    for shared in common(one, other):
        assert covers(one, shared)
        assert covers(other, shared)
    if wildcard(text, one) and wildcard(text, other):
        assert common(one, other)


@settings(deadline=None)
@given(lines)
def test_a_policy_does_not_differ_from_itself(text: list[str]) -> None:
    """Issue 3: diff(A, A) is empty."""
    assert compare(accepted(text), accepted(text)).changes == ()


@settings(max_examples=300, deadline=None)
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


@settings(max_examples=300, deadline=None)
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


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("args.n <= 100", "args.n <= 50", "loses"),
        ("args.n <= 50", "args.n <= 100", "gains"),
        ("args.n >= 5", "args.n >= 5.5", "loses"),
        ("args.n < -5", "args.n < 0", "gains"),
        ("10 > args.n", "20 > args.n", "gains"),
        ("0 < args.n <= 100", "0 < args.n <= 50", "loses"),
        ("0 < args.n <= 100", "1 < args.n <= 100", "loses"),
        ("args.s in ['a'] and len(args.s) < 9 and args.m", 'args.s in ["a"] && len(args.s) < 5 && args.m', "loses"),
        ("args.n <= 100", "args.n <= 100.0", "changes"),
        ("args.n <= 100", "args.n < 50", "changes"),
        ("args.n <= 100", "args.m <= 50", "changes"),
        ("args.n == 100", "args.n == 50", "changes"),
        ("args.n[1] < 5", "args.n[2] < 5", "changes"),
        ("args.n <= 100 and args.m <= 5", "args.n <= 50 and args.m <= 9", "changes"),
        ("args.n <= 100 and args.m <= 5", "args.n <= 50 and args.m <= 4", "changes"),
        ("args.n <= 100 or args.m", "args.n <= 50 or args.m", "changes"),
        ("not args.n <= 100", "not args.n <= 50", "changes"),
        ("args.n <= 100 and args.m", "args.n <= 50", "changes"),
        ("args.n in [1, 2]", "args.n in [1, 3]", "changes"),
    ],
)
def test_one_number_tells_which_of_two_conditions_is_narrower(before: str, after: str, kind: str) -> None:
    """Ours: said only where the text makes it certain; for a deny it is the other way about."""
    old, new = (book(f"p, m, tools/call, x, allow, {condition}") for condition in (before, after))
    (change,) = compare(old, new).changes
    assert change.kind == kind

    old, new = (
        book(f"p, m, tools/call, x, allow\np, m, tools/call, x, deny, {condition}") for condition in (before, after)
    )
    (change,) = compare(old, new).changes
    assert change.kind == {"gains": "loses", "loses": "gains"}.get(kind, kind)


def test_a_narrower_rule_that_goes_beside_a_wider_one_is_a_loss_as_text() -> None:
    """Ours: what the text alone tells comes first."""
    wide, narrow = (f"p, m, tools/call, x, allow, args.n <= {most}\n" for most in (100, 50))
    (change,) = compare(book(wide + narrow), book(wide)).changes
    assert change.kind == "loses"
    (change,) = compare(book(wide + narrow), book(wide + narrow.replace("50", "60"))).changes
    assert change.kind == "changes"


CONJUNCTS = ("args.n <= 0", "args.n <= 1", "args.n < 2", "args.n < 1.5", "0 <= args.n < 2", "0 <= args.n < 1")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from((*CONJUNCTS, 'args.s == "x"', "args.b", "len(args.s) > 0")), min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from(CONJUNCTS),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "n": st.one_of(st.integers(-1, 3), st.floats(), st.none(), st.text(max_size=1), st.booleans()),
                "s": st.one_of(st.sampled_from(("", "x")), st.integers(0, 1)),
                "b": st.one_of(st.booleans(), st.integers(0, 1)),
            },
        ),
        min_size=5,
        max_size=20,
    ),
)
def test_narrower_is_so_for_the_engine(
    conjuncts: list[str], place: int, other: str, calls: list[dict[str, Any]]
) -> None:
    """Ours: also where a condition cannot be evaluated, for what allows and for what denies."""
    place %= len(conjuncts)
    texts = (" and ".join(conjuncts), " and ".join([*conjuncts[:place], other, *conjuncts[place + 1 :]]))
    for lines_of_one in ("p, m, tools/call, x, allow, {}", "p, m, tools/call, x, allow\np, m, tools/call, x, deny, {}"):
        old, new = (book(lines_of_one.format(text)) for text in texts)
        for change in compare(old, new).changes:
            asked = [("m", "tools/call", "x", arguments) for arguments in calls]
            answers = {(old.policy.judge(*one).allowed, new.policy.judge(*one).allowed) for one in asked}
            assert {"gains": (True, False), "loses": (False, True)}.get(change.kind) not in answers


def test_exceptions_of_a_wide_change_are_named() -> None:
    """Ours: "gains git_*" with "except git_push" is not "gains git_push"."""
    old = book("p, m, tools/call, git_log, allow\n")
    new = book("p, m, tools/call, git_*, allow\np, m, tools/call, git_push, deny\n")
    (change,) = compare(old, new).changes

    assert (change.kind, change.name) == ("gains", "git_*")
    assert set(change.exceptions) == {("tools/call", "git_log"), ("tools/call", "git_push")}


@settings(max_examples=200, deadline=None)
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


@settings(deadline=None)
@given(st.dictionaries(keys, json_values, max_size=5), st.sampled_from((20, 60, 4096)))
def test_known_arguments_are_what_was_called(arguments: dict[str, Any], max_bytes: int) -> None:
    """Ours: with the bridge's own sanitizer: whatever is not called hidden has its true value."""
    known = known_arguments(Sanitizer(Rules(), Keyed(b"key")).text(arguments, max_bytes), digest(arguments))

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


@settings(deadline=None)
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
