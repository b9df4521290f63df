"""The policy file and Casbin's answers to it."""

import re
from contextlib import suppress

import pytest
from authz_requests import MODEL, POLICY, policy_of
from hypothesis import given
from hypothesis import strategies as st

from authz_service.policy import PolicyError, load_policy, wildcard


def test_empty_policy_denies() -> None:
    """Ours: default deny; Casbin alone evaluates its matcher against empty fields here."""
    for text in (b"", b"# nothing\n\n", b"g, model-a, role:reader\n"):
        assert not policy_of(text).judge("model-a", "tools/call", "x").allowed


def test_deny_overrides_allow_whatever_their_order() -> None:
    """Ours: deny overrides."""
    allow, deny = "p, a, tools/call, *, allow", "p, a, tools/call, x, deny"
    for lines in ([allow, deny], [deny, allow]):
        policy = policy_of("\n".join(lines).encode())
        ruling = policy.judge("a", "tools/call", "x")

        assert (ruling.allowed, ruling.rule, ruling.line) == (False, deny, lines.index(deny) + 1)
        assert policy.judge("a", "tools/call", "y").rule == allow


def test_rule_that_allowed_is_named() -> None:
    """Ours: the journal shows the rule as written."""
    ruling = policy_of(POLICY).judge("model-c", "tools/call", "git_log")

    assert (ruling.allowed, ruling.rule, ruling.line) == (True, "p, role:writer, tools/call, git_*, allow", 3)
    assert ruling.roles == ("role:writer",)


def test_roles_inherit_to_any_depth_and_a_deny_at_the_top_counts() -> None:
    """Ours: Casbin alone stops at ten levels, which would overlook the deny."""
    groups = "\n".join(f"g, role:r{i}, role:r{i + 1}" for i in range(40))
    policy = policy_of(f"p, a, *, *, allow\np, role:r40, ping, *, deny\ng, a, role:r0\n{groups}".encode())

    assert not policy.judge("a", "ping", "").allowed
    assert len(policy.judge("a", "ping", "").roles) == 41


def test_methods_without_a_name_match_an_empty_or_starred_name() -> None:
    """Ours: README, Policy."""
    policy = policy_of(b"p, a, tools/list, , allow\np, a, ping, *, allow\np, a, prompts/list, x, allow")

    assert policy.judge("a", "tools/list", "").allowed
    assert policy.judge("a", "ping", "").allowed
    assert not policy.judge("a", "prompts/list", "").allowed


def test_subjects_are_compared_whole() -> None:
    """Ours: no prefix, case or role trick on the subject."""
    policy = policy_of(b"p, model-a, *, *, allow\np, role:x, *, *, allow\ng, y, role:x")

    for subject in ("model-a2", "Model-a", "model", "x", "spiffe://other/model-a", "*"):
        assert not policy.judge(subject, "ping", "").allowed


def test_name_with_a_comma_is_written_in_quotes() -> None:
    """Ours: resource URIs may contain commas."""
    policy = policy_of(b'p, a, resources/read, "file:///a,b", allow\r\n')

    assert policy.judge("a", "resources/read", "file:///a,b").allowed


def test_long_names_are_judged_too() -> None:
    """Ours: names beyond what is remembered."""
    policy = policy_of(b"p, a, tools/call, x*, allow")

    assert policy.judge("a", "tools/call", "x" * 2000).allowed
    assert not policy.judge("a", "tools/call", "y" * 2000).allowed


def test_version_depends_on_model_and_policy() -> None:
    """Ours: a policy version names both files."""
    versions = {
        load_policy(model, policy, model_name="m", policy_name="p", cached=1).version
        for model in (MODEL, MODEL + b"\n# x\n")
        for policy in (b"", b"p, a, tools/call, c, allow")
    }

    assert len(versions) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"p, a, b\n", ":1: a rule is"),
        (b"# x\n\np, a, tools/call, x, maybe", ":3: the effect is allow or deny, not 'maybe'"),
        (b"p, a, tools/call, x, Allow", ":1: the effect"),
        (b"p, a, tools/call, x, allow, more", ":1: 'more' is neither true nor false"),
        (b"p, , tools/call, x, allow", ":1: the subject is empty"),
        (b"p, a, , x, allow", ":1: the method is empty"),
        (b"p, *, tools/call, x, allow", ":1: a subject is one"),
        (b"p, group:a, tools/call, x, allow", ":1: a subject is an identity"),
        (b"g, a, reader", ":1: roles are named role:something, not 'reader'"),
        (b"g, a, role:", ":1: roles are named"),
        (b"g, a, role:x, extra", ":1: a grouping is"),
        (b"p2, a, b, c, allow", ":1: a line starts with p or g"),
        (b"p, a, \xff\xfe, x, allow", ":1: the text is not UTF-8"),
        (b'p, a, b, "x, allow', ":1: the quotes do not match"),
        (b"p, a, b, x\x00y, allow", ":1: control characters"),
        (
            b"g, role:a, role:b\ng, role:b, role:c\ng, role:c, role:a\ng, x, role:a",
            ":1: role:a would contain itself",
        ),
        (b"g, role:a, role:a", ":1: role:a would contain itself"),
    ],
)
def test_bad_line_refuses_the_file_and_is_named(text: bytes, says: str) -> None:
    """Ours: "policy.csv:N: …"."""
    with pytest.raises(PolicyError, match=r"^policy\.csv:\d+: ") as caught:
        policy_of(text)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"not a model",
        b"\xff",
        MODEL.replace(b"wildcard(r.name", b"unknown(r.name"),
        MODEL.replace(b"m = g(", b"m = ((g("),
        MODEL.replace(b" && !some(where (p.eft == deny))", b""),
        MODEL.replace(b"r = sub, method, name", b"r = sub, obj"),
        MODEL.replace(b"r.sub", b"r.nobody"),
    ],
)
def test_model_that_could_not_answer_is_refused(model: bytes) -> None:
    """Ours: a bad model shows when it is loaded, not at a request."""
    with pytest.raises(PolicyError, match=r"^model\.conf: "):
        load_policy(model, POLICY, model_name="model.conf", policy_name="policy.csv", cached=1)


@pytest.mark.parametrize(
    ("text", "pattern", "matches"),
    [
        ("git_log", "git_*", True),
        ("git_", "git_*", True),
        ("xgit_log", "git_*", False),
        ("", "*", True),
        ("a\nb", "a*b", True),
        ("ab", "a*b*", True),
        ("aXbXc", "a*b*c", True),
        ("ac", "a*b*c", False),
        ("aba", "ab*ba", False),
        ("abba", "ab*ba", True),
        ("a.c", "a?c", False),
        ("axc", "a.c", False),
    ],
)
def test_star_stands_for_any_characters(text: str, pattern: str, matches: bool) -> None:
    """Ours: `*` is the only wildcard, wherever it stands."""
    assert wildcard(text, pattern) is matches


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_star_agrees_with_a_regular_expression(pattern: str, text: str) -> None:
    """Ours: linear matching gives the same answers as backtracking."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))

    assert wildcard(text, pattern) is bool(re.fullmatch(expression, text, re.DOTALL))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_policy_or_a_named_error(text: bytes) -> None:
    """Ours: nothing but PolicyError leaves the loader."""
    with suppress(PolicyError):
        policy_of(text)
