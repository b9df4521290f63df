"""Every answer of the policy engine is that of plain `casbin.Enforcer` over the same model and rules."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import casbin
from authz_requests import MODEL
from casbin.rbac.default_role_manager import RoleManager
from casbin.util.log import disabled_logging
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.policy import Policy, Rule, Rules, parse, read_model, wildcard
from authz_service.policy.arguments import Arg, Unevaluable
from authz_service.policy.conditions import CASBIN_FUNCTIONS
from authz_service.policy.index import Index

CONJUNCTS = (
    "g(r.sub, p.sub)",
    "wildcard(r.method, p.method)",
    "wildcard(r.name, p.name)",
    "eval(p.cond)",
)
EXTRAS = (
    'r.sub != "b"',
    'p.name != "a" || r.name == "a"',
    'keyMatch(r.method, "tools/*")',
    '!(r.name == "ab")',
    'g(r.sub, "role:r1")',
    '"x" in r.args',
    'r.method in ("tools/call", "tools/list")',
)
SUBJECTS = ("a", "b", "user:idp:c")
ROLES = tuple(f"role:r{number}" for number in range(14))
disabled_logging()


def model_with(matcher: str) -> bytes:
    head, _ = MODEL.decode().split("m = ")
    return f"{head}m = {matcher}\n".encode()


class Plain:
    """The same rules in Casbin as it comes: linear, and raising where a condition cannot be evaluated."""

    def __init__(self, model: bytes, rules: Rules, extra: Sequence[tuple[str, str]]) -> None:
        self.model = model
        self.rules = rules
        self.groupings = [*((one.member, one.role) for one in rules.groupings), *extra]

    def allows(self, subject: str, method: str, name: str, arguments: Mapping[str, Any]) -> bool:
        lines = [line_of(rule) for rule in self.rules.rules]
        try:
            return self.enforce(lines, subject, method, name, arguments)
        except Unevaluable:
            return self.enforce(list(self.decided(arguments)), subject, method, name, arguments)

    def decided(self, arguments: Mapping[str, Any]) -> Any:
        """The rules, without each allow that cannot be evaluated, and with each such deny made unconditional."""
        for rule in self.rules.rules:
            line = line_of(rule)
            try:
                everywhere = model_with(" && ".join(CONJUNCTS))
                Plain(everywhere, Rules(), ()).enforce([["s", "*", "*", *line[3:]]], "s", "", "", arguments)
            except Unevaluable:
                if not rule.allows:
                    yield [*line[:4], "True"]
            else:
                yield line

    def enforce(
        self, lines: list[list[str]], subject: str, method: str, name: str, arguments: Mapping[str, Any]
    ) -> bool:
        if not lines:
            return False  # Casbin refuses to evaluate eval() without rules
        enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=self.model.decode()))
        enforcer.set_role_manager(RoleManager(100))
        enforcer.add_function("wildcard", wildcard)
        for function, code in CASBIN_FUNCTIONS.items():
            enforcer.add_function(function, code)
        enforcer.model["p"]["p"].policy = lines
        enforcer.model["g"]["g"].policy = [list(pair) for pair in self.groupings]
        enforcer.build_role_links()
        return bool(enforcer.enforce(subject, method, name, Arg(arguments)))


def line_of(rule: Rule) -> list[str]:
    return [rule.sub, rule.method, rule.name, rule.eft, rule.condition.casbin if rule.condition else "True"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([10**30, 0.5, -2.0]) | st.text("abA!", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=6,
)
arguments = st.dictionaries(st.sampled_from(["x", "y", "format", "a b"]), json_values, max_size=4)
paths = st.sampled_from(["args.x", "args.y", "args.format", 'args["a b"]', "args.x.y", "args.x[0]", "args.y[1].x"])
texts = st.text("abA!*.,&|'", max_size=3).map(repr)
numbers = st.sampled_from(["0", "1", "-2", "2.5", "1000000000000000000000000000000"])
words = st.sampled_from(["true", "False", "null"])
values = paths | st.builds("lower({})".format, paths) | st.builds("len({})".format, paths)
lists = st.lists(texts, min_size=1, max_size=3) | st.lists(numbers, min_size=1, max_size=3)
comparisons = (
    st.builds("{} {} {}".format, values, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), values | numbers | texts)
    | st.builds("{} {} {}".format, values, st.sampled_from(["==", "!="]), words)
    | st.builds("{} <= {} < {}".format, numbers, values, numbers)
    | st.builds("{} in [{}]".format, values, lists.map(", ".join))
    | st.builds("{} {} {}".format, texts | values, st.sampled_from(["in", "not in"]), paths)
    | st.sampled_from(['"x" in args', '"y" not in args', "len(args) < 2"])
    | st.builds("{}({}, {})".format, st.sampled_from(["starts_with", "ends_with", "wildcard"]), paths, texts)
    | paths
)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or", "&&", "||"]), inner)
        | st.builds("{} ({})".format, st.sampled_from(["not", "!"]), inner)
    ),
    max_leaves=3,
)
names = st.text("ab", max_size=4)
patterns = st.text("ab*", max_size=4) | st.just("*")
methods = st.sampled_from(["tools/call", "tools/list", "ping"])
rule_lines = st.builds(
    "p, {}, {}, {}, {}{}".format,
    st.sampled_from([*SUBJECTS, *ROLES[:5], ROLES[-1]]),
    methods | st.sampled_from(["*", "tools/*", "*i*"]),
    patterns,
    st.sampled_from(["allow", "allow", "deny"]),
    st.just("") | conditions.map(", {}".format),
)
grouping_lines = st.builds("g, {}, {}".format, st.sampled_from(SUBJECTS), st.sampled_from(ROLES)) | st.integers(
    0, 12
).flatmap(lambda low: st.integers(low + 1, 13).map(lambda high: f"g, {ROLES[low]}, {ROLES[high]}"))
chains = st.sampled_from([[], [f"g, {low}, {high}" for low, high in itertools.pairwise(ROLES)]])
policies = st.builds(
    lambda rules, groupings, chain: "\n".join([*rules, *groupings, *chain]).encode(),
    st.lists(rule_lines, max_size=10),
    st.lists(grouping_lines, max_size=8),
    chains,
)
matchers = st.builds(
    lambda extras, seed: " && ".join(f"({one})" if "||" in one else one for one in seed([*CONJUNCTS, *extras])),
    st.just([]) | st.lists(st.sampled_from(EXTRAS), max_size=2),
    st.permutations(range(6)).map(lambda order: lambda items: [items[at] for at in order if at < len(items)]),
)
calls = st.tuples(st.sampled_from(SUBJECTS), methods, names | patterns, arguments)


@settings(max_examples=400, deadline=None)
@given(matchers, policies, st.lists(calls, min_size=1, max_size=4), st.lists(st.sampled_from(ROLES), max_size=2))
def test_every_answer_is_that_of_a_plain_enforcer(
    matcher: str, text: bytes, requests: list[tuple[str, str, str, dict[str, Any]]], roles: list[str]
) -> None:
    """Issue 3: prove by a differential property test that every answer equals plain Enforcer.enforce."""
    model, rules = model_with(matcher), parse(text, "policy.csv")
    policy = Policy(read_model(model, "model.conf"), rules, "", cached=8)
    for subject, method, name, args in [*requests, *requests]:  # again: from memory
        plain = Plain(model, rules, [(subject, role) for role in roles])
        ruling = policy.judge(subject, method, name, args, roles)

        assert ruling.allowed == plain.allows(subject, method, name, args)
        if ruling.allowed:
            assert policy.could(subject, method, [name], roles) == [True]
            assert policy.could_expand(subject, method, [name], roles) == [True]
            templates = [f"{name[:low]}{{x}}{name[high:]}" for low in range(3) for high in range(low, 5)]
            assert all(policy.could_expand(subject, method, templates, roles))


@settings(max_examples=100, deadline=None)
@given(policies, calls, st.lists(st.sampled_from(ROLES), max_size=3))
def test_roles_of_a_token_are_those_of_g_lines(
    text: bytes, call: tuple[str, str, str, dict[str, Any]], roles: list[str]
) -> None:
    """Ours: roles beside those of the policy behave as if g lines gave them to the subject."""
    subject, method, name, args = call
    given_by_lines = b"".join(f"\ng, {subject}, {role}".encode() for role in roles)
    model = read_model(MODEL, "model.conf")
    beside, within = (Policy(model, parse(one, "policy.csv"), "", cached=8) for one in (text, text + given_by_lines))

    assert beside.judge(subject, method, name, args, roles) == within.judge(subject, method, name, args)
    assert [(trace.rule.line, trace.outcome) for trace in beside.trace(subject, method, name, args, roles)] == [
        (trace.rule.line, trace.outcome) for trace in within.trace(subject, method, name, args)
    ]


def test_index_finds_what_reading_every_rule_finds() -> None:
    """Ours: no rule is overlooked: all patterns of up to five characters, all names of up to six."""
    words = ["".join(letters) for length in range(7) for letters in itertools.product("ab*", repeat=length)]
    rules = [Rule(line, "", "s", "m", word, "allow") for line, word in enumerate(words, 1) if len(word) <= 5]
    index = Index(rules)
    for name in (word for word in words if "*" not in word or len(word) <= 4):
        assert index.find(("s",), "m", name) == [rule for rule in rules if wildcard(name, rule.name)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text("ab*", min_size=1, max_size=3), st.text("ab*", max_size=12)), max_size=40),
    st.text("ab*", max_size=3),
    st.text("ab*", max_size=12),
)
def test_index_finds_what_reading_every_rule_finds_among_methods(
    pairs: list[tuple[str, str]], method: str, name: str
) -> None:
    """Ours: as above, with patterns of methods and several subjects, and many stars."""
    rules = [Rule(line, "", "ab"[line % 2], *pair, "allow") for line, pair in enumerate(pairs, 1)]

    assert Index(rules).find(("a", "b"), method, name) == [
        rule for rule in rules if wildcard(method, rule.method) and wildcard(name, rule.name)
    ]
