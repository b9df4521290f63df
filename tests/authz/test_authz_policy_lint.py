"""Rules that can never match refuse the file; what is odd is said."""

import json
import time
from pathlib import Path

import pytest
from authz_requests import MODEL

from authz_service.policy import Checks, Policy, PolicyError, load_policy, read_catalog
from authz_service.policy.catalog import Catalog
from authz_service.policy.methods import METHODS, WITH_NAME
from authz_service.settings import AuthzSettings
from secure_mcp_grpc.calls import name_of

TOOLS = read_catalog(
    json.dumps(
        {
            "tools": [
                {
                    "name": "query_db",
                    "inputSchema": {
                        "type": "object",
                        "properties": {
                            "limit": {"type": "integer"},
                            "where": {"type": "object", "properties": {"id": {}}},
                            "free": {"type": "object"},
                            "list": {"type": "array", "items": {"properties": {"id": {}}}},
                        },
                    },
                },
                {"name": "query_all", "inputSchema": {"properties": {"page": {}}, "additionalProperties": False}},
                {"name": "open", "inputSchema": {"properties": {}, "additionalProperties": True}},
                {"name": "composed", "inputSchema": {"allOf": [{"properties": {"x": {}}}]}},
                {"name": "now", "inputSchema": {"type": "object"}},
            ]
        }
    ).encode(),
    "tools.json",
)


def load(text: str, *, catalog: Catalog | None = None, token_roles: bool = False) -> Policy:
    checks = Checks(catalog, token_roles, frozenset({"x.example/run"}))
    return load_policy(
        MODEL, text.encode(), model_name="model.conf", policy_name="policy.csv", cached=10, checks=checks
    )


def problems(text: str, *, catalog: Catalog | None = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(text, catalog=catalog)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("p, a, tools/cal, x, allow", "policy.csv:1: no client sends the method tools/cal; perhaps tools/call?"),
        ("\np, a, foo*, x, deny", "policy.csv:2: no client sends the method foo*"),
        ("p, a, sampling/createMessage, *, allow", "policy.csv:1: no client sends the method sampling/createMessage"),
        ("p, a, TOOLS/CALL, x, allow", "policy.csv:1: no client sends the method TOOLS/CALL"),
        ("p, a, tools/list, x, allow", "policy.csv:1: tools/list names nothing that could be x; write *"),
        ("p, a, notifications/*, x*, deny", "policy.csv:1: notifications/* names nothing that could be x*; write *"),
        ("p, role:x, ping, *, allow", "policy.csv:1: nobody has role:x"),
        ("p, role:x, ping, *, allow\ng, role:y, role:x", "policy.csv:1: nobody has role:x"),
        (
            "p, a, resources/read, *, allow, args.x == 1",
            "policy.csv:1: resources/read has no arguments; only prompts/get and tools/call have",
        ),
        ("p, a, tools/call, x\u202ey, allow", "policy.csv:1: no message has such a name: names must not contain"),
        ("p, a, tools/call, git_*, allow\np, a, tools/*, *, deny", "policy.csv:1: line 2 denies all that this allows"),
        (
            "p, a, tools/call, x, allow, args.x == 1\np, a, tools/call, x, deny",
            "policy.csv:1: line 2 denies all that this allows",
        ),
        (
            "p, role:low, tools/call, x*y, allow\np, role:top, *, x*, deny\ng, role:low, role:top\ng, a, role:low",
            "policy.csv:1: line 2 denies all that this allows",
        ),
    ],
)
def test_rule_that_can_never_match_refuses_the_file(text: str, says: str) -> None:
    """Issue 3: unknown method, unknown role, shadowed by a deny: refused as a whole with line numbers."""
    (problem,) = problems(text)

    assert problem.startswith(says)


def test_a_deny_on_top_in_an_emergency_is_told_what_to_do_instead() -> None:
    """Ours: such a file is refused and the old one stays in force, so the operator needs to know what does help."""
    text = "p, role:x, tools/call, read, allow\np, role:x, tools/list, *, allow\np, role:x, *, *, deny\ng, a, role:x"

    assert problems(text) == [
        f"policy.csv:{line}: line 3 denies all that this allows; remove this rule, or in an emergency: "
        "secure-mcp-grpc quarantine or revoke"
        for line in (1, 2)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "p, a, *, *, allow",
        "p, a, notifications/*, *, allow",
        "p, a, grpc:*, *, allow",
        "p, a, tasks/get, *, allow",
        "p, a, ping, , allow",
        "p, a, policy:explain, tools/list, allow",
        "p, a, completion/complete, x, allow",
        "p, a, resources/*, file:///*, allow",
        "p, user:idp:alice, ping, *, allow",
        "p, anonymous, ping, *, allow",
        "p, a, server/discover, *, allow",
        "p, a, subscriptions/listen, *, allow",
        "p, a, x.example/run, *, allow",
        "p, role:x, ping, *, allow\ng, role:y, role:x\ng, a, role:y",
        "p, a, *, *, allow, args.x == 1",
        "p, a, tools/call, *, allow\np, a, tools/call, x*, deny",
        "p, a, tools/call, x, allow\np, a, tools/call, x, deny, args.x == 1",
        "p, a, tools/call, x, allow\np, b, tools/call, x, deny",
        "p, role:r, tools/call, x, allow\np, a, tools/call, x, deny\ng, a, role:r\ng, b, role:r",
        "p, a, tools/call, a*, allow\np, a, tools/call, *a, deny",
    ],
)
def test_rule_that_can_match_is_accepted(text: str) -> None:
    """Ours: nothing is refused that could ever be meant."""
    assert load(text).warnings == ()


@pytest.mark.parametrize(
    ("name", "condition", "says"),
    [
        ("query_db", "args.limit <= 1", ""),
        ("query_db", "args.limits <= 1", "the tool query_db has no argument limits"),
        ("query_db", "args.limit <= 1 or args.page == 1", "the tool query_db has no argument page"),
        ("query_db", "args.where.id == 1", ""),
        ("query_db", "args.where.ip == 1", "the tool query_db has no argument where.ip"),
        ("query_db", "args.free.any == 1", ""),
        ("query_db", "args.list[3].id == 1", ""),
        ("query_db", "args.list[3].ip == 1", "the tool query_db has no argument list.3.ip"),
        ("query_db", '"limits" in args', ""),
        ("query_*", "args.page == 1", ""),
        ("query_*", "args.pages == 1", "no tool query_* has an argument pages"),
        ("open", "args.any == 1", ""),
        ("composed", "args.any == 1", ""),
        ("now", "args.any == 1", "the tool now has no argument any"),
    ],
)
def test_argument_that_no_such_tool_has_refuses_the_file(name: str, condition: str, says: str) -> None:
    """Issue 3: a condition on an argument the tool's schema does not have."""
    text = f"p, a, tools/call, {name}, allow, {condition}"
    load(text)
    if says:
        assert problems(text, catalog=TOOLS) == [f"policy.csv:1: {says}"]
    else:
        assert load(text, catalog=TOOLS).warnings == ()


def test_methods_with_names_are_those_that_name_something() -> None:
    """Ours: the list of methods and the reading of messages agree."""
    params = {"name": "x", "uri": "x", "ref": {"name": "x"}}

    assert {method for method in METHODS if name_of(method, params)} | {"policy:explain"} == WITH_NAME


def test_what_is_odd_is_said_and_accepted() -> None:
    """Ours: warnings."""
    text = "p, a, ping, *, allow\np, a, ping, *, allow\ng, a, role:x\ng, a, role:x\np, a, tools/call, qery_db, allow"

    assert [str(warning) for warning in load(text, catalog=TOOLS).warnings] == [
        "policy.csv:2: line 1 says the same",
        "policy.csv:3: role:x has no rules",
        "policy.csv:4: line 3 says the same",
        "policy.csv:4: role:x has no rules",
        "policy.csv:5: there is no tool qery_db",
    ]


def test_every_problem_is_said_the_first_one_first() -> None:
    """Issue 3: with line numbers."""
    bad = "p, role:x, pong, *, allow\np, a, ping, *, allow\np, role:y, ping, *, allow"
    with pytest.raises(PolicyError, match=r"^policy\.csv:1: no client sends the method pong; .* \(and 2 more\)$"):
        load(bad)
    assert [line.split(": ")[0] for line in problems(bad)] == ["policy.csv:1", "policy.csv:1", "policy.csv:3"]
    assert [line.split(": ")[0] for line in problems("p, a\ng, a\nq")] == [f"policy.csv:{line}" for line in (1, 2, 3)]


def test_roles_of_tokens_need_no_holder() -> None:
    """Ours: tokens may bring roles."""
    assert load("p, role:x, ping, *, allow", token_roles=True).judge("a", "ping", "", {}, ("role:x",)).allowed


@pytest.mark.parametrize(
    "content", [b"", b"[", b"1", b'{"tools": {}}', b'[{"name": 1}]', b'[{"name": "a", "inputSchema": []}]', b"\xff"]
)
def test_file_of_tools_that_is_none_is_named(content: bytes) -> None:
    """Ours: bad input gets a clear error."""
    with pytest.raises(PolicyError, match=r"^tools\.json: "):
        read_catalog(content, "tools.json")


def test_policies_of_this_project_have_no_problem() -> None:
    """Ours: what we ship passes our own checks."""
    root = Path(__file__).parents[2]
    for path in (AuthzSettings.model_fields["policy_file"].default, root / "secure_mcp_grpc/demo/policy.csv"):
        assert load(path.read_text()).warnings == ()


def test_checks_of_many_rules_take_time_in_proportion() -> None:
    """Ours: 20,000 rules, with denies, roles and patterns, in seconds where each against each takes minutes."""
    lines = [f"p, role:r{n % 500}, tools/call, t{n}_*, {'deny' if n % 3 else 'allow'}" for n in range(20_000)]
    lines += [f"g, role:r{n}, role:r{n + 1}" for n in range(499) if n % 20] + [
        f"g, m{n}, role:r{n}" for n in range(500)
    ]
    started = time.monotonic()
    load("\n".join(lines), catalog=TOOLS)

    assert time.monotonic() - started < 10
