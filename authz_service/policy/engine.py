"""The policy in force: the answer to (subject, method, name, arguments), which rule gave it, which roles were seen.

A `Policy` never changes; a reload makes a new one and swaps it in whole. Its
answers are those of `casbin.Enforcer` over the same model and rules, by way of
an index and a memory: Casbin itself reads every rule for every request.

A condition that cannot be evaluated (see `conditions`) makes its rule count
for refusal: an allow does not match, a deny does. A further conjunct of the
model's matcher that cannot be evaluated does the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal, final

from authz_service.policy.arguments import Arg, Unevaluable
from authz_service.policy.file import Rule, Rules
from authz_service.policy.index import Index
from authz_service.policy.model import Extra, Model, casbin_functions
from authz_service.policy.patterns import covers, expandable
from authz_service.policy.problems import Problem
from authz_service.policy.roles import Roles

__all__ = ["Outcome", "Policy", "Ruling", "Trace"]

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {}
_LONGEST_REMEMBERED: Final = 256
_MOST_REMEMBERED_ROLES: Final = 64

Outcome = Literal["matches", "condition_false", "condition_failed"]


@final
@dataclass(frozen=True, slots=True)
class Ruling:
    """One answer. `rule` is the line that decided, as written ("" where none matched)."""

    allowed: bool
    rule: str
    line: int
    roles: tuple[str, ...]
    """Every role of the subject, inherited ones included, sorted."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one rule that speaks about the subject, method and name says to the arguments."""

    rule: Rule
    outcome: Outcome
    detail: str
    """Why the condition could not be evaluated; "" otherwise."""
    via: tuple[str, ...]
    """From the subject over roles to the rule's subject, all included."""

    @property
    def counts(self) -> bool:
        """Whether the rule took part in the answer: a deny does even where its condition could not be evaluated."""
        return self.outcome == "matches" or (self.outcome == "condition_failed" and not self.rule.allows)


class Policy:
    """Answers from one model and one set of rules."""

    def __init__(
        self,
        model: Model,
        rules: Rules,
        version: str,
        *,
        cached: int,
        warnings: Sequence[Problem] = (),
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.version = version
        """Short hash of model and policy."""
        self.size = len(rules.rules)
        self.rules = rules
        self.warnings = tuple(warnings)
        """What is odd in the files, without being wrong."""
        self._extras = model.extras
        self._graph = Roles(rules.groupings)
        self._index = Index(rules.rules, pause)
        self._remembered = lru_cache(cached)(self._candidates)
        self._expansions = lru_cache(cached)(self._could_expand)

    def judge(
        self,
        subject: str,
        method: str,
        name: str,
        arguments: Mapping[str, Any] = _NO_ARGUMENTS,
        roles: Sequence[str] = (),
    ) -> Ruling:
        """Whether `subject`, who also has `roles` (and what these inherit), may use `method` on `name`."""
        found = self._found(subject, method, name, tuple(roles))
        return found if type(found) is Ruling else found.decide(arguments)

    def could(self, subject: str, method: str, names: Sequence[str], roles: Sequence[str] = ()) -> list[bool]:
        """For each of `names`, whether some arguments would be allowed: what a list may show.

        A conditional allow counts, a conditional deny does not.
        """
        also = tuple(roles)
        found = (self._found(subject, method, name, also) for name in names)
        return [one.allowed if type(one) is Ruling else one.could for one in found]

    def could_expand(
        self, subject: str, method: str, templates: Sequence[str], roles: Sequence[str] = ()
    ) -> list[bool]:
        """For each URI template (RFC 6570), whether some expansion could be allowed.

        Patterns are compared by their ends, and of denies only one that covers
        the whole template counts: a template may be shown of which nothing is
        allowed, but none is hidden of which something is.
        """
        also = tuple(roles)
        return [self._expansions(subject, method, expandable(template), also) for template in templates]

    def roles(self, subject: str, roles: Sequence[str] = ()) -> tuple[str, ...]:
        """Every role of `subject`, who also has `roles`: inherited ones included, sorted."""
        return self._graph.of(subject, roles)

    def trace(
        self,
        subject: str,
        method: str,
        name: str,
        arguments: Mapping[str, Any] = _NO_ARGUMENTS,
        roles: Sequence[str] = (),
    ) -> list[Trace]:
        """What each rule that speaks about subject, method and name says, in the order of the file."""
        also = tuple(roles)
        rules = self._index.find((subject, *self._graph.of(subject, also)), method, name)
        further = _Further(self._extras, self._graph, subject, method, name, also) if self._extras else None
        arg = Arg(arguments)
        return [
            Trace(rule, *_outcome(_test(rule, further), arg), self._graph.path(subject, rule.sub, also))
            for rule in rules
        ]

    def _found(self, subject: str, method: str, name: str, roles: tuple[str, ...]) -> "Ruling | _Open":
        # What is long is judged each time: remembering it would let a client fill the memory.
        if (
            len(name) <= _LONGEST_REMEMBERED
            and len(subject) <= _LONGEST_REMEMBERED
            and len(roles) <= _MOST_REMEMBERED_ROLES
        ):
            return self._remembered(subject, method, name, roles)
        return self._candidates(subject, method, name, roles)

    def _candidates(self, subject: str, method: str, name: str, also: tuple[str, ...]) -> "Ruling | _Open":
        roles = self._graph.of(subject, also)
        rules = self._index.find((subject, *roles), method, name)
        if self._extras:
            return _Open(rules, roles, _Further(self._extras, self._graph, subject, method, name, also))
        if denies := [rule for rule in rules if not rule.allows and rule.condition is None]:
            return _ruling(denies[0], roles)
        if all(rule.allows and rule.condition is None for rule in rules):
            return _ruling(rules[0], roles) if rules else Ruling(False, "", 0, roles)
        return _Open(rules, roles, None)

    def _could_expand(self, subject: str, method: str, pattern: str, also: tuple[str, ...]) -> bool:
        rules = self._index.overlapping((subject, *self._graph.of(subject, also)), method, pattern)
        if any(
            not rule.allows and rule.condition is None and not self._extras and covers(rule.name, pattern)
            for rule in rules
        ):
            return False
        return any(rule.allows for rule in rules)


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

    def holds(self, rule: Rule, arguments: Arg) -> bool:
        """Raises `Unevaluable`."""
        return self._all(self._extras, rule, arguments)

    def could_hold(self, rule: Rule) -> bool:
        """The same, of the conjuncts that do not read arguments."""
        return self._all([extra for extra in self._extras if not extra.reads_arguments], rule, Arg({}))

    @property
    def read_arguments(self) -> bool:
        return any(extra.reads_arguments for extra in self._extras)

    def _all(self, extras: Sequence[Extra], rule: Rule, arguments: Arg) -> bool:
        names = {**self._request, "r_args": arguments, "True": True, "False": False, "None": None}
        names.update(p_sub=rule.sub, p_method=rule.method, p_name=rule.name, p_eft=rule.eft)
        held = [extra.holds(names, self._functions) for extra in extras]
        if False in held:
            return False
        if None in held:
            raise Unevaluable("the matcher of the model cannot be evaluated")
        return True


def _has_role(graph: Roles, subject: str, also: tuple[str, ...], member: str, role: str) -> bool:
    return member == role or role in graph.of(member, also if member == subject else ())


Test = Callable[[Arg], bool]


class _Open:
    """An answer that depends on the arguments (or on further conjuncts)."""

    __slots__ = ("_allows", "_denies", "_further", "_no", "_rules")

    def __init__(self, rules: Sequence[Rule], roles: tuple[str, ...], further: _Further | None) -> None:
        self._rules = rules
        self._further = further
        self._no = Ruling(False, "", 0, roles)
        self._denies = [(_test(rule, further), _ruling(rule, roles)) for rule in rules if not rule.allows]
        self._allows = [(_test(rule, further), _ruling(rule, roles)) for rule in rules if rule.allows]

    def decide(self, arguments: Mapping[str, Any]) -> Ruling:
        arg = Arg(arguments)
        for test, ruling in self._denies:
            try:
                if test is None or test(arg):
                    return ruling
            except Unevaluable:
                return ruling
        for test, ruling in self._allows:
            try:
                if test is None or test(arg):
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
    return lambda arg: further.holds(rule, arg) and (condition is None or condition.holds(arg))


def _outcome(test: Test | None, arguments: Arg) -> tuple[Outcome, str]:
    try:
        return ("matches" if test is None or test(arguments) else "condition_false", "")
    except Unevaluable as error:
        return "condition_failed", str(error)
