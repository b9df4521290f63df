"""What a replay may and may not conclude where records do not say everything."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_tools_harness import accepted, book
from policy_tools_strategies import ARGUMENTS, lines

from authz_service.steps.message import digest
from authz_service.steps.policy import judge_all
from authz_service.workbench.recorded import NOTHING, Known
from authz_service.workbench.replay import Flip, Replay, Undecided
from authz_service.workbench.weigh import Counts, counts, possible_verdicts
from secure_mcp_grpc.calls import McpCall

ROLES = "p, role:a, tools/call, x, allow\np, role:b, tools/call, y, deny\np, n, tools/call, *, allow\n"
DIGEST = digest({"limit": 5})


def nothing_recorded(calls: Sequence[tuple[str, int, datetime]]) -> Mapping[tuple[str, int], str]:
    return {}


def line(**fields: Any) -> str:
    record = {"chain": "c", "seq": 1, "ts": "2026-11-20T21:40:00.000000Z", "kind": "decision", "method": "tools/call"}
    return json.dumps({**record, "args_digest": digest({}), **fields})


def outcomes(policy: str, *lines: str) -> tuple[Replay, list[Flip | Undecided]]:
    replayed = Replay(book(policy), nothing_recorded)
    return replayed, list(replayed.outcomes(lines))


@pytest.mark.parametrize(
    ("effect", "known", "counted"),
    [
        ("allow", Known({"limit": 5}, frozenset()), Counts.YES),
        ("allow", Known({"limit": 500}, frozenset()), Counts.NO),
        ("allow", Known({}, frozenset()), Counts.NO),
        ("allow", Known({"limit": "5"}, frozenset()), Counts.NO),
        ("deny", Known({"limit": 5}, frozenset()), Counts.YES),
        ("deny", Known({"limit": 500}, frozenset()), Counts.NO),
        ("deny", Known({}, frozenset()), Counts.YES),
        ("deny", Known({"limit": "5"}, frozenset()), Counts.YES),
        ("allow", Known({"limit": "[redacted]"}, frozenset({"limit"})), Counts.PERHAPS),
        ("deny", Known({"limit": 5, "key": "[redacted]"}, frozenset({"key"})), Counts.YES),
        ("deny", NOTHING, Counts.PERHAPS),
    ],
)
def test_a_condition_that_cannot_be_evaluated_counts_for_refusal(effect: str, known: Known, counted: Counts) -> None:
    """Issue 3: as in production: an allow does not match then, a deny does."""
    (rule,) = book(f"p, m, tools/call, x, {effect}, args.limit <= 100").policy.rules.rules

    assert counts(rule, known) is counted


def test_one_certain_deny_makes_everything_certain() -> None:
    """Ours: what may count besides cannot turn it."""
    rules = book("p, m, tools/call, x, allow\np, m, tools/call, *, deny, args.a == 1").policy.rules.rules
    allow, deny = rules

    assert possible_verdicts(rules, {allow: Counts.PERHAPS, deny: Counts.YES}.__getitem__) == {False}
    assert possible_verdicts(rules, {allow: Counts.YES, deny: Counts.PERHAPS}.__getitem__) == {True, False}
    assert possible_verdicts(rules, {allow: Counts.YES, deny: Counts.NO}.__getitem__) == {True}
    assert possible_verdicts(rules, {allow: Counts.NO, deny: Counts.PERHAPS}.__getitem__) == {False}
    assert possible_verdicts((), {}.__getitem__) == {False}


def test_a_record_that_does_not_tell_the_tokens_roles_is_not_guessed_at() -> None:
    """Ours: roles of an old record are the token's or the old policy's; where that matters it is said."""
    old = {"user": "user:i:u", "identity": "user:i:u", "user_roles": ["role:a", "role:b"], "tool": "x"}
    _, (undecided,) = outcomes(ROLES, line(decision="allow", reason="permitted", **old))
    assert isinstance(undecided, Undecided)
    assert "roles" in undecided.why

    _, told = outcomes(ROLES, line(decision="allow", reason="permitted", token_roles=["role:a"], **old))
    assert told == []
    _, (flip,) = outcomes(ROLES, line(decision="allow", reason="permitted", token_roles=[], **old))
    assert isinstance(flip, Flip)
    assert not flip.allowed
    _, elsewhere = outcomes(ROLES, line(decision="deny", reason="not_permitted", **{**old, "tool": "z"}))
    assert elsewhere == []


def test_the_workload_decides_where_the_users_roles_are_open() -> None:
    """Ours: all subjects must be allowed, so one refusal is enough."""
    both = {"identity": "m", "user": "user:i:u", "user_roles": ["role:a"], "tool": "x"}
    _, (flip,) = outcomes(ROLES, line(decision="allow", reason="permitted", **both))
    assert isinstance(flip, Flip)
    _, (undecided,) = outcomes(ROLES, line(decision="allow", reason="permitted", **{**both, "identity": "n"}))
    assert isinstance(undecided, Undecided)


def test_the_recorded_rule_tells_which_condition_held() -> None:
    """Ours: a call that was allowed under `args.limit <= 100` met it; under another condition nothing is known."""
    rule = "p, m, tools/call, x, allow, args.limit <= 100"
    call = line(decision="allow", reason="permitted", identity="m", tool="x", rule=rule, args_digest=DIGEST)
    two = line(
        decision="allow",
        reason="permitted",
        identity="m",
        tool="x",
        rule=f"{rule}; p, n, *, *, allow",
        args_digest=DIGEST,
    )

    assert outcomes("p, role:r, tools/call, x, allow, args.limit <= 100\ng, m, role:r", call)[1] == []
    assert outcomes(rule, two)[1] == []
    assert isinstance(outcomes("p, m, tools/call, x, allow, args.limit <= 200", call)[1][0], Undecided)
    denied = f"{rule}\np, m, tools/call, x, deny, args.limit <= 100"
    assert isinstance(outcomes(denied, call)[1][0], Undecided)


def test_the_policy_of_then_tells_which_conditions_did_not_hold() -> None:
    """Ours: a call that no rule allowed met no condition of an allow; an allowed one met none of a deny."""
    then = book("p, m, tools/call, x, allow, args.limit <= 100\np, m, tools/call, x, deny, args.force")
    common = {"identity": "m", "tool": "x", "args_digest": DIGEST, "policy_version": then.policy.version}
    refused = line(decision="deny", reason="not_permitted", **common)
    allowed = line(decision="allow", reason="permitted", rule=then.policy.rules.rules[0].text, **common)
    by_rule = line(decision="deny", reason="denied_by_rule", rule=then.policy.rules.rules[1].text, **common)

    def replayed(policy: str, call: str) -> list[Flip | Undecided]:
        return list(Replay(book(policy), nothing_recorded, then).outcomes([call]))

    same = "p, role:r, tools/call, *, allow, args.limit <= 100\np, m, tools/call, x, deny, args.force\ng, m, role:r"
    assert replayed(same, refused) == replayed(same, allowed) == replayed(same, by_rule) == []
    assert isinstance(replayed(same.replace("100", "50"), allowed)[0], Undecided)
    assert isinstance(replayed(same.replace("100", "50"), refused)[0], Undecided)
    (flip,) = replayed("p, m, tools/call, x, allow\np, m, tools/call, x, deny, args.force", refused)
    assert isinstance(flip, Flip)
    assert flip.allowed
    elsewhere = refused.replace(then.policy.version, "another")
    assert isinstance(replayed(same, elsewhere)[0], Undecided)
    two = line(decision="deny", reason="not_permitted", user="user:i:u", token_roles=[], **common)
    assert isinstance(replayed(f"{same}\np, user:i:u, tools/call, x, allow, args.limit <= 100", two)[0], Undecided)


def test_of_two_rules_that_allow_only_the_one_that_decided_is_known() -> None:
    """Ours: the other one's condition may have held as well."""
    then = book("p, m, tools/call, x, allow, args.a == 1\np, m, tools/call, x, allow, args.b == 1")
    first, second = (rule.text for rule in then.policy.rules.rules)
    fields = {"identity": "m", "tool": "x", "args_digest": DIGEST, "policy_version": then.policy.version}
    call = line(decision="allow", reason="permitted", rule=first, **fields)

    assert list(Replay(book(first), nothing_recorded, then).outcomes([call])) == []
    assert isinstance(next(Replay(book(second), nothing_recorded, then).outcomes([call])), Undecided)


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("p, z, ping, *, allow", "deny: no rule allows it"),
        ("p, m, tools/call, x, deny", "deny by p, m, tools/call, x, deny"),
        ("p, user:i:u, tools/call, x, deny", "deny by p, user:i:u, tools/call, x, deny"),
        (
            "p, m, tools/call, x, deny\np, user:i:u, *, x, deny",
            "deny by p, m, tools/call, x, deny; p, user:i:u, *, x, deny",
        ),
        # Known without the arguments: they can change nothing.
        (
            "p, role:r, tools/call, x, allow, args.a\np, m, *, x*, deny\ng, m, role:r",
            "deny by p, m, *, x*, deny",
        ),
        ("p, m, tools/call, *, allow\np, m, *, x, deny, args.a", "deny: no rule allows it"),
    ],
)
def test_a_flip_says_by_which_rule_or_that_none_allows_it(candidate: str, said: str) -> None:
    """Ours: of two subjects, those that are refused by a rule name it, and none is left with a lone separator."""
    call = line(
        decision="allow",
        reason="permitted",
        identity="m",
        user="user:i:u",
        token_roles=[],
        tool="x",
        args_digest=digest({}) if "args.a" not in candidate else DIGEST,
    )
    _, (flip,) = outcomes(candidate, call)

    assert isinstance(flip, Flip)
    assert flip.verdict == said


def test_a_flip_to_allowed_names_what_allows_it() -> None:
    """Ours: one rule for each subject, where it is known which."""
    policy = "p, m, tools/call, x, allow\np, user:i:u, tools/call, *, allow"
    call = {"decision": "deny", "reason": "not_permitted", "identity": "m", "user": "user:i:u", "token_roles": []}
    (flip,) = outcomes(policy, line(**call, tool="x"))[1]
    assert isinstance(flip, Flip)
    assert flip.verdict == "allow by p, m, tools/call, x, allow; p, user:i:u, tools/call, *, allow"

    assert Flip(flip.call, allowed=True, rule="").verdict == "allow"


def test_a_model_that_asks_more_is_decided_only_with_whole_arguments() -> None:
    """Ours: only the engine knows further conjuncts of the matcher."""
    from policy_tools_harness import MODEL

    from authz_service.workbench.book import Book

    model = MODEL.replace(b"&& eval(p.cond)", b'&& eval(p.cond) && r.sub != "m"')
    further = Book(model, b"p, m, tools/call, x, allow", model_name="model.conf", policy_name="policy.csv")
    whole = line(decision="allow", reason="permitted", identity="m", tool="x")
    part = line(decision="allow", reason="permitted", identity="m", tool="x", args_digest=DIGEST)

    assert isinstance(next(Replay(further, nothing_recorded).outcomes([whole])), Flip)
    assert isinstance(next(Replay(further, nothing_recorded).outcomes([part])), Undecided)


def test_records_that_are_none_or_come_twice_are_counted_apart() -> None:
    """Ours: no line stops a replay, and none counts twice."""
    good = line(decision="allow", reason="permitted", identity="n", tool="x")
    other = line(decision="deny", reason="revoked", identity="n", tool="x", seq=2)
    replayed, found = outcomes(
        ROLES, good, good, other, "{", "{}", line(seq=3, ts="yesterday"), line(seq=4, kind="start")
    )

    assert found == []
    assert (replayed.read, replayed.same, replayed.untouched, replayed.unreadable) == (6, 1, 2, 3)


def test_groups_stay_bounded() -> None:
    """Issue 3: memory bounded, whatever names were called."""
    from authz_service.workbench import replay

    replayed = Replay(book(ROLES), nothing_recorded)
    calls = [
        line(seq=number, decision="allow", reason="permitted", identity="m", tool=f"t{number}")
        for number in range(replay._MOST_GROUPS + 50)
    ]

    assert sum(1 for _ in replayed.outcomes(calls)) == len(calls)
    assert len(replayed.groups) == replay._MOST_GROUPS + 1
    assert replayed.groups["", "", "", "", "allow → deny"] == 50


def decided(
    policy: Any, workload: str | None, user: str | None, roles: tuple[str, ...], call: McpCall
) -> dict[str, Any]:
    """The record of a call, as the policy step decides it."""
    rulings = [ruling for _, ruling in judge_all(policy, workload, user, roles, call)]
    refusing = [ruling for ruling in rulings if not ruling.allowed]
    reason = "permitted" if not refusing else "denied_by_rule" if refusing[0].rule else "not_permitted"
    return {
        "decision": "deny" if refusing else "allow",
        "reason": reason,
        "rule": refusing[0].rule if refusing else "; ".join(ruling.rule for ruling in rulings),
        "policy_version": policy.version,
        "identity": workload or user or "",
        "user": user or "",
        "user_roles": rulings[-1].roles if user else [],
        "tool": call.name,
        "args_digest": digest(call.arguments),
    }


@settings(max_examples=500, deadline=None)
@given(
    lines,
    lines,
    st.sampled_from((("m", None), ("n", None), (None, "n"), ("m", "n"), ("n", "m"))),
    st.sampled_from(((), ("role:x",), ("role:y",))),
    st.sampled_from(("a", "ab", "c")),
    st.sampled_from(ARGUMENTS),
    st.sampled_from(("whole", "redacted", "missing")),
    st.booleans(),
    st.booleans(),
)
def test_no_replay_guesses(
    old_lines: list[str],
    new_lines: list[str],
    subjects: tuple[str | None, str | None],
    roles: tuple[str, ...],
    name: str,
    arguments: dict[str, Any],
    recorded: str,
    roles_recorded: bool,
    old_known: bool,
) -> None:
    """Issue 3: whatever was recorded of a call: what is said of it is what the engine says, or it is undecided."""
    old, new = accepted(old_lines), accepted(new_lines)
    token_roles = roles if subjects[1] else ()
    call = McpCall("tools/call", name, arguments)
    fields = decided(old.policy, *subjects, token_roles, call)
    if roles_recorded:
        fields["token_roles"] = token_roles
    shown = {key: "[redacted]" if recorded == "redacted" and key == "n" else value for key, value in arguments.items()}
    texts = {} if recorded == "missing" else {("c", 1): json.dumps(shown)}
    replayed = Replay(new, lambda calls: texts if calls else {}, old if old_known else None)
    found = list(replayed.outcomes([line(**fields)]))
    allowed = all(ruling.allowed for _, ruling in judge_all(new.policy, *subjects, token_roles, call))

    if not found:
        assert allowed == (fields["decision"] == "allow")
    elif isinstance(found[0], Flip):
        assert found[0].allowed is allowed
        assert allowed != (fields["decision"] == "allow")
