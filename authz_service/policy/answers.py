"""Settles what can be settled without arguments, and keeps the rest open. Between the index and the engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, final

from authz_service.policy.arguments import Paths, Unevaluable
from authz_service.policy.file import Rule, Rules
from authz_service.policy.index import Index, Names, named
from authz_service.policy.model import Extra, Model, casbin_functions
from authz_service.policy.patterns import covers
from authz_service.policy.roles import Roles

__all__ = ["Finder", "Open", "Ruling", "Test", "paths_of"]

Test = Callable[[Paths], bool]
"""Whether a rule matches the arguments; raises `Unevaluable`."""


@final
@dataclass(frozen=True, slots=True)
class Ruling:
    """One answer. `rule` is the line that decided, as written ("" where none matched)."""

    allowed: bool
    rule: str
    line: int
    roles: tuple[str, ...]
    """Every role of the subject, inherited ones included, sorted."""


_REMEMBERED_SUBJECTS: Final = 1024


class Finder:
    """Finds the rules that speak about a request, and what they say before its arguments are known."""

    def __init__(self, model: Model, rules: Rules, pause: Callable[[], None]) -> None:
        self.graph = Roles(rules.groupings)
        self._extras = model.extras
        self._index = Index(rules.rules, pause)
        # Many names are asked for by one subject, and the way over its roles is most of the work. A function of the
        # parts, not a method of this: no cycle.
        self._about = lru_cache(_REMEMBERED_SUBJECTS)(partial(_about, self.graph, self._index))

    def rules(self, subject: str, method: str, name: str, also: tuple[str, ...]) -> list[tuple[Rule, Test | None]]:
        """The rules of the subject, method and name, with what remains to be asked of each (None: nothing)."""
        further = self._further(subject, method, name, also)
        found = named(self._about(subject, method, also)[1], name)
        return [(rule, _test(rule, further)) for rule in found]

    def settle(self, subject: str, method: str, name: str, also: tuple[str, ...]) -> "Ruling | Open":
        roles, about = self._about(subject, method, also)
        rules = named(about, name)
        if self._extras:
            return Open(rules, roles, self._further(subject, method, name, also))
        if denies := [rule for rule in rules if not rule.allows and rule.condition is None]:
            return _ruling(denies[0], roles)
        if all(rule.allows and rule.condition is None for rule in rules):
            return _ruling(rules[0], roles) if rules else Ruling(False, "", 0, roles)
        return Open(rules, roles, None)

    def could_expand(self, subject: str, method: str, pattern: str, also: tuple[str, ...]) -> bool:
        rules = self._index.overlapping((subject, *self.graph.of(subject, also)), method, pattern)
        if any(
            not rule.allows and rule.condition is None and not self._extras and covers(rule.name, pattern)
            for rule in rules
        ):
            return False
        return any(rule.allows for rule in rules)

    def _further(self, subject: str, method: str, name: str, also: tuple[str, ...]) -> "_Further | None":
        return _Further(self._extras, self.graph, subject, method, name, also) if self._extras else None


def _about(
    graph: Roles, index: Index, subject: str, method: str, also: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Names, ...]]:
    roles = graph.of(subject, also)
    return roles, index.about((subject, *roles), method)


def paths_of(arguments: Mapping[str, Any]) -> Paths:
    return Paths(arguments if type(arguments) is dict else dict(arguments))


def _ruling(rule: Rule, roles: tuple[str, ...]) -> Ruling:
    return Ruling(rule.allows, rule.text, rule.line, roles)


class _Further:
    """The further conjuncts of the model's matcher, for one subject, method and name."""

    def __init__(
        self, extras: Sequence[Extra], graph: Roles, subject: str, method: str, name: str, also: tuple[str, ...]
    ) -> None:
        self._extras = extras
        self._request = {"r_sub": subject, "r_method": method, "r_name": name}
        self._functions = casbin_functions(partial(_has_role, graph, subject, also))

    def holds(self, rule: Rule, arguments: Paths) -> bool:
        """Raises `Unevaluable`."""
        return self._all(self._extras, rule, arguments)

    def could_hold(self, rule: Rule) -> bool:
        """The same, of the conjuncts that do not read arguments."""
        return self._all([extra for extra in self._extras if not extra.reads_arguments], rule, Paths({}))

    @property
    def read_arguments(self) -> bool:
        return any(extra.reads_arguments for extra in self._extras)

    def _all(self, extras: Sequence[Extra], rule: Rule, arguments: Paths) -> bool:
        names = {**self._request, "r_args": arguments[()], "True": True, "False": False, "None": None}
        names.update(p_sub=rule.sub, p_method=rule.method, p_name=rule.name, p_eft=rule.eft)
        held = [extra.holds(names, self._functions) for extra in extras]
        if False in held:
            return False
        if None in held:
            raise Unevaluable("the matcher of the model cannot be evaluated")
        return True


def _has_role(graph: Roles, subject: str, also: tuple[str, ...], member: str, role: str) -> bool:
    return member == role or role in graph.of(member, also if member == subject else ())


class Open:
    """An answer that depends on the arguments (or on further conjuncts)."""

    __slots__ = ("_allows", "_denies", "_further", "_no", "_rules")

    def __init__(self, rules: Sequence[Rule], roles: tuple[str, ...], further: _Further | None) -> None:
        self._rules = rules
        self._further = further
        self._no = Ruling(False, "", 0, roles)
        self._denies = [(_test(rule, further), _ruling(rule, roles)) for rule in rules if not rule.allows]
        self._allows = [(_test(rule, further), _ruling(rule, roles)) for rule in rules if rule.allows]

    def decide(self, arguments: Mapping[str, Any]) -> Ruling:
        paths = paths_of(arguments)
        for test, ruling in self._denies:
            try:
                if test is None or test(paths):
                    return ruling
            except Unevaluable:
                return ruling
        for test, ruling in self._allows:
            try:
                if test is None or test(paths):
                    return ruling
            except Unevaluable:
                continue
        return self._no

    @property
    def could(self) -> bool:
        """Whether some arguments would be allowed."""
        return any(rule.allows and self._could_match(rule) for rule in self._rules) and not any(
            not rule.allows and self._must_match(rule) for rule in self._rules
        )

    def _could_match(self, rule: Rule) -> bool:
        try:
            return self._further is None or self._further.could_hold(rule)
        except Unevaluable:
            return False

    def _must_match(self, rule: Rule) -> bool:
        if rule.condition is not None or (self._further is not None and self._further.read_arguments):
            return False
        try:
            return self._further is None or self._further.could_hold(rule)
        except Unevaluable:
            return True


def _test(rule: Rule, further: _Further | None) -> Test | None:
    """What decides whether `rule` matches; None where it does."""
    condition = rule.condition
    if further is None:
        return condition.holds if condition is not None else None
    return lambda paths: further.holds(rule, paths) and (condition is None or condition.holds(paths))
