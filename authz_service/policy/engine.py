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
from functools import lru_cache
from typing import Any, Final, Literal

from authz_service.policy.answers import Finder, Open, Ruling, Test, paths_of
from authz_service.policy.arguments import Paths, Unevaluable
from authz_service.policy.file import Rule, Rules
from authz_service.policy.model import Model
from authz_service.policy.patterns import expandable
from authz_service.policy.problems import Problem

__all__ = ["Outcome", "Policy", "Ruling", "Trace"]

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {}
_LONGEST_REMEMBERED: Final = 256
_MOST_REMEMBERED_ROLES: Final = 64

Outcome = Literal["matches", "condition_false", "condition_failed"]


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
        # The memories know the finder alone: no cycle, so that a policy is freed when the next one takes its place.
        self._finder = Finder(model, rules, pause)
        self._remembered = lru_cache(cached)(self._finder.settle)
        self._expansions = lru_cache(cached)(self._finder.could_expand)

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
        return self._finder.graph.of(subject, roles)

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
        paths = paths_of(arguments)
        return [
            Trace(rule, *_outcome(test, paths), self._finder.graph.path(subject, rule.sub, also))
            for rule, test in self._finder.rules(subject, method, name, also)
        ]

    def _found(self, subject: str, method: str, name: str, roles: tuple[str, ...]) -> Ruling | Open:
        # What is long is judged each time: remembering it would let a client fill the memory.
        if (
            len(name) <= _LONGEST_REMEMBERED
            and len(subject) <= _LONGEST_REMEMBERED
            and len(roles) <= _MOST_REMEMBERED_ROLES
        ):
            return self._remembered(subject, method, name, roles)
        return self._finder.settle(subject, method, name, roles)


def _outcome(test: Test | None, arguments: Paths) -> tuple[Outcome, str]:
    try:
        return ("matches" if test is None or test(arguments) else "condition_false", "")
    except Unevaluable as error:
        return "condition_failed", str(error)
