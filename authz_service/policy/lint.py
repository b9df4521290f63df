"""Finds rules that can never match, which nobody writes on purpose, and what else is odd. Pure; near-linear in time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from authz_service.policy.catalog import Catalog
from authz_service.policy.file import Grouping, Rule, Rules
from authz_service.policy.index import Index
from authz_service.policy.methods import METHODS, WITH_ARGUMENTS, WITH_NAME, nobody_sends
from authz_service.policy.patterns import wildcard
from authz_service.policy.problems import Problem
from authz_service.policy.roles import Roles
from secure_mcp_grpc.calls import Malformed, check_name

__all__ = ["Checks", "lint"]

_ROLE: Final = "role:"
_INSTEAD: Final = "remove this rule, or in an emergency: secure-mcp-grpc quarantine or revoke"
"""A deny on top of allows refuses the file, so that the old one, with the allows, stays in force."""


@dataclass(frozen=True, slots=True)
class Checks:
    """What is known beside the policy."""

    catalog: Catalog | None = None
    """The tools that exist; None where they are not known."""
    token_roles: bool = False
    """Tokens bring roles, so a role that no `g` line gives may exist."""
    methods: frozenset[str] = frozenset()
    """Methods of extensions of MCP, beside those of its specification."""


Found = tuple[int, str, bool]
"""Line, sentence, whether it is a warning only."""


def lint(
    rules: Rules, file: str, checks: Checks, *, overriding: bool = True, pause: Callable[[], None] = lambda: None
) -> list[Problem]:
    """Everything that is wrong or odd, in the order of the file.

    Wrong: a method or a name that no message (or none with the method) can have, a condition where there
    are no arguments or on an argument that no such tool has, a role that nobody
    has, an allow that a deny without condition always overrides (not judged
    unless `overriding`: where the matcher has further conjuncts). Odd: the same
    line twice, a tool that does not exist, a role without rules. `pause` is
    called at each rule.
    """
    found: list[Found] = []
    for check in _checks(rules, checks, overriding):
        for rule in rules.rules:
            pause()
            found += check(rule)
    found += _groupings(rules)
    found.sort()
    return [Problem(file, line, sentence, warning) for line, sentence, warning in found]


def _checks(rules: Rules, checks: Checks, overriding: bool) -> Iterator[Callable[[Rule], Iterable[Found]]]:
    methods = cache(partial(_methods, METHODS | checks.methods))
    yield partial(_method, methods, checks.methods)
    yield partial(_name, methods)
    yield partial(_arguments, methods)
    if checks.catalog is not None:
        yield partial(_tools, methods, cache(partial(_matching, checks.catalog)), checks.catalog)
    if not checks.token_roles:
        yield partial(_role, _held(rules.groupings))
    denies = [rule for rule in rules.rules if not rule.allows and rule.condition is None]
    if denies and overriding:
        yield partial(_shadowed, Index(denies), cache(Roles(rules.groupings).of))
    yield partial(_again, {})


def _methods(known: frozenset[str], pattern: str) -> frozenset[str]:
    """The methods that `pattern` speaks about."""
    return frozenset(method for method in known if wildcard(method, pattern))


def _method(methods: Callable[[str], frozenset[str]], extra: frozenset[str], rule: Rule) -> Iterator[Found]:
    if not methods(rule.method):
        yield rule.line, nobody_sends(rule.method, extra), False


def _name(methods: Callable[[str], frozenset[str]], rule: Rule) -> Iterator[Found]:
    spoken_about = methods(rule.method)
    if spoken_about and spoken_about.isdisjoint(WITH_NAME) and not wildcard("", rule.name):
        yield rule.line, f"{rule.method} names nothing that could be {rule.name}; write *", False
    try:
        check_name(rule.name)
    except Malformed as error:
        yield rule.line, f"no message has such a name: {error}", False


def _arguments(methods: Callable[[str], frozenset[str]], rule: Rule) -> Iterator[Found]:
    spoken_about = methods(rule.method)
    if rule.condition is not None and spoken_about and spoken_about.isdisjoint(WITH_ARGUMENTS):
        yield rule.line, f"{rule.method} has no arguments; only {' and '.join(sorted(WITH_ARGUMENTS))} have", False


def _matching(catalog: Catalog, pattern: str) -> tuple[str, ...]:
    if "*" not in pattern:
        return (pattern,) if pattern in catalog.schemas else ()
    return tuple(tool for tool in catalog.schemas if wildcard(tool, pattern))


def _tools(
    methods: Callable[[str], frozenset[str]],
    matching: Callable[[str], tuple[str, ...]],
    catalog: Catalog,
    rule: Rule,
) -> Iterator[Found]:
    if methods(rule.method) & WITH_ARGUMENTS != {"tools/call"}:
        return
    tools = matching(rule.name)
    if not tools:
        yield rule.line, f"there is no tool {rule.name}", True
    elif rule.condition is not None:
        for path in rule.condition.paths:
            if all(catalog.lacks(tool, path) for tool in tools):
                whose = f"the tool {rule.name}" if "*" not in rule.name else f"no tool {rule.name}"
                has = "has no argument" if "*" not in rule.name else "has an argument"
                yield rule.line, f"{whose} {has} {'.'.join(map(str, path))}", False


def _held(groupings: Iterable[Grouping]) -> frozenset[str]:
    """Every role that somebody has."""
    roles_of: dict[str, list[str]] = {}
    for grouping in groupings:
        roles_of.setdefault(grouping.member, []).append(grouping.role)
    return _reached((member for member in roles_of if not member.startswith(_ROLE)), roles_of)


def _role(held: frozenset[str], rule: Rule) -> Iterator[Found]:
    if rule.sub.startswith(_ROLE) and rule.sub not in held:
        yield rule.line, f"nobody has {rule.sub}", False


def _shadowed(denies: Index, roles_of: Callable[[str], tuple[str, ...]], rule: Rule) -> Iterator[Found]:
    # Read as texts, the patterns of a rule match just the patterns that cover them.
    if rule.allows and (over := denies.find((rule.sub, *roles_of(rule.sub)), rule.method, rule.name)):
        yield rule.line, f"line {over[0].line} denies all that this allows; {_INSTEAD}", False


def _again(seen: dict[tuple[str, ...], int], rule: Rule) -> Iterator[Found]:
    first = seen.setdefault(rule.fields, rule.line)
    if first != rule.line:
        yield rule.line, f"line {first} says the same", True


def _groupings(rules: Rules) -> Iterator[Found]:
    members_of: dict[str, list[str]] = {}
    for grouping in rules.groupings:
        members_of.setdefault(grouping.role, []).append(grouping.member)
    useful = _reached((rule.sub for rule in rules.rules), members_of)
    seen: dict[tuple[str, str], int] = {}
    for grouping in rules.groupings:
        first = seen.setdefault((grouping.member, grouping.role), grouping.line)
        if first != grouping.line:
            yield grouping.line, f"line {first} says the same", True
        if grouping.role not in useful:
            yield grouping.line, f"{grouping.role} has no rules", True


def _reached(start: Iterable[str], edges: dict[str, list[str]]) -> frozenset[str]:
    reached = set(start)
    waiting = list(reached)
    while waiting:
        new = [other for other in edges.get(waiting.pop(), ()) if other not in reached]
        reached.update(new)
        waiting += new
    return frozenset(reached)
