"""The policy file and Casbin's answers to it."""

import re
from contextlib import suppress

import pytest
from authz_requests import MODEL, POLICY, policy_of
from hypothesis import given
from hypothesis import strategies as st

from authz_service.policy import Policy, PolicyError, Ruling, load_policy, wildcard


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
    policy = policy_of(b"p, a, tools/list, , allow\np, a, ping, *, allow\np, a, prompts/*, x, allow")

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
        (b"p, user:alice, ping, *, allow", ":1: a subject is an identity, user:issuer:name"),
        (b"p, user::alice, ping, *, allow", ":1: a subject is an identity, user:issuer:name"),
        (b"g, a, reader", ":1: roles are named role:something, not 'reader'"),
        (b"g, a, role:", ":1: roles are named"),
        (b"g, a, role:x, extra", ":1: a grouping is"),
        (b"p2, a, b, c, allow", ":1: a line starts with p or g"),
        (b"p, a, \xff\xfe, x, allow", ":1: the text is not UTF-8"),
        (b'p, a, b, "x, allow', ":1: the quotes do not match"),
        (b"p, a, b, x\x00y, allow", ":1: control characters"),
        (b"p, a, b, x\xc2\x85y, allow", ":1: control characters"),
        (b"p, a, tools/call, %s, allow" % (b"x" * 9000), ":1: a line has at most 8192 characters"),
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


MATCHER = "g(r.sub, p.sub) && wildcard(r.method, p.method) && wildcard(r.name, p.name) && eval(p.cond)"


def policy_under(matcher: str, text: bytes) -> Policy:
    model = MODEL.replace(MATCHER.encode(), matcher.encode())
    assert matcher.encode() in model
    return load_policy(model, text, model_name="model.conf", policy_name="policy.csv", cached=10)


@pytest.mark.parametrize(
    ("matcher", "says"),
    [
        (f'{MATCHER} || r.sub == "root"', "must be a conjunction (&&) with g(r.sub, p.sub) in it"),
        (f"!({MATCHER})", "must be a conjunction"),
        (MATCHER.removesuffix(" && eval(p.cond)"), "with eval(p.cond) in it"),
        (MATCHER.replace("g(r.sub, p.sub)", "r.sub == p.sub"), "with g(r.sub, p.sub) in it"),
        (MATCHER.replace("wildcard(r.name", "keyMatch(r.name"), "with wildcard(r.name, p.name) in it"),
        (MATCHER.replace("r.name, p.name", "p.name, r.name"), "with wildcard(r.name, p.name) in it"),
        (f"{MATCHER} && eval(p.sub)", "calls eval, which does not exist"),
        (f"{MATCHER} && r.name.startswith(p.name)", "calls r_name.startswith, which does not exist"),
        (f"{MATCHER} && open(r.name)", "calls open, which does not exist"),
        (f'{MATCHER} && p.cond == ""', "speaks of p_cond, which does not exist"),
        (f"{MATCHER} && r.time == p.name", "speaks of r_time, which does not exist"),
        (f"{MATCHER} && [x for x in r.name] == p.name", "speaks of x, which does not exist"),
        (f"{MATCHER} && (", "is not an expression"),
    ],
)
def test_matcher_that_the_index_cannot_answer_for_is_refused(matcher: str, says: str) -> None:
    """Ours: one form of matcher, so that the index is always right."""
    with pytest.raises(PolicyError, match=r"^model\.conf: the matcher ") as caught:
        policy_under(matcher, POLICY)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "definition", [b"r2 = sub\n", b"p2 = sub\n", b"e2 = some(where (p.eft == allow))\n", b"m2 = r.sub\n"]
)
def test_second_definition_is_refused(definition: bytes) -> None:
    """Ours: nothing in the model is silently left aside."""
    first = definition[:1] + b" = "
    with pytest.raises(PolicyError, match=r"^model\.conf: there must be one definition of"):
        load_policy(
            MODEL.replace(first, definition + first), POLICY, model_name="model.conf", policy_name="p", cached=1
        )


def test_further_conjunct_limits_rules_and_fails_closed() -> None:
    """Ours: a deployment may add to the matcher; what cannot be evaluated counts for refusal."""
    text = b"p, a, tools/call, x*, allow\np, a, tools/call, xy, deny\np, a, tools/call, *, allow, args.n == 1"
    policy = policy_under(f"{MATCHER} && r.args.limit <= 5", text)

    assert policy.judge("a", "tools/call", "xx", {"limit": 5}).allowed
    assert not policy.judge("a", "tools/call", "xx", {"limit": 6}).allowed
    assert not policy.judge("a", "tools/call", "xx", {"limit": "5"}).allowed
    assert policy.judge("a", "tools/call", "z", {"limit": 1, "n": 1}).allowed
    assert policy.judge("a", "tools/call", "xy", {}).line == 2
    assert policy.judge("a", "tools/call", "xy", {"limit": 6}).line == 0
    assert policy.could("a", "tools/call", ["xx", "xy", "z"]) == [True, True, True]
    assert policy_under(f'{MATCHER} && r.name != "xx"', text).could("a", "tools/call", ["xx", "xy", "xz"]) == [
        False,
        False,
        True,
    ]


def test_roles_of_a_token_bring_what_these_inherit() -> None:
    """Ours: as if a g line gave them."""
    policy = policy_of(
        b"p, role:low, ping, *, allow\np, role:top, tools/list, *, allow\ng, role:low, role:top\ng, b, role:low"
    )

    assert policy.judge("user:idp:a", "tools/list", "", {}, ("role:low",)) == Ruling(
        True, "p, role:top, tools/list, *, allow", 2, ("role:low", "role:top")
    )
    assert not policy.judge("user:idp:a", "tools/list", "").allowed
    (trace,) = policy.trace("user:idp:a", "tools/list", "", {}, ("role:low",))
    assert trace.via == ("user:idp:a", "role:low", "role:top")
