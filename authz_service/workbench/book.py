"""A policy beside the lines it was made of: which rules a subject has, by which roles, and what they come to.

Verdicts are the engine's (`Policy.judge`, `Policy.trace`); what stands here explains them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from authz_service.policy import (
    Checks,
    Policy,
    PolicyError,
    Problem,
    Rule,
    covers,
    lint,
    load_policy,
    parse,
    read_model,
    wildcard,
)
from authz_service.policy.roles import Roles
from authz_service.workbench.narrower import narrower

__all__ = ["NEVER", "ROLE", "Book", "Effect", "Held", "effect_of", "problems_of"]

ROLE: Final = "role:"
_CACHED: Final = 65_536


@dataclass(frozen=True, slots=True)
class Held:
    """A rule that a subject has."""

    rule: Rule
    via: tuple[str, ...]
    """From the subject over roles to the rule's own subject, all included."""

    @property
    def roles(self) -> str:
        """`role:a → role:b`; "" for a rule on the subject itself."""
        return " → ".join(self.via[1:])


@dataclass(frozen=True, slots=True)
class Effect:
    """What rules come to for one method and name: conditions of those that allow and of those that deny.

    "" is the condition that always holds. Reduced: what cannot change the verdict is left out.
    """

    allows: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()

    @property
    def never(self) -> bool:
        return not self.allows

    @property
    def always(self) -> bool:
        return self.allows == {""} and not self.denies

    def within(self, other: "Effect") -> bool:
        """Whether `other` allows whatever this does, as far as the conditions' text tells."""
        if self.never:
            return True
        return ("" in other.allows or self.allows <= other.allows) and other.denies <= self.denies

    def inside(self, other: "Effect") -> bool:
        """The same, as far as the numbers in the conditions tell, too."""
        if self.never:
            return True
        allows = "" in other.allows or all(_implied(mine, other.allows) for mine in self.allows)
        return allows and all(_implied(theirs, self.denies) for theirs in other.denies)

    def __str__(self) -> str:
        if self.never:
            return "no"
        text = "yes" if "" in self.allows else f"if {' or '.join(sorted(self.allows))}"
        return f"{text}, unless {' or '.join(sorted(self.denies))}" if self.denies else text


NEVER: Final = Effect()


def _implied(condition: str, by: frozenset[str]) -> bool:
    """Whether one of `by` holds wherever `condition` does."""
    return condition in by or any(narrower(condition, one) for one in by)


def effect_of(rules: Iterable[Rule]) -> Effect:
    """What `rules`, all of which match, come to."""
    allows: set[str] = set()
    denies: set[str] = set()
    for rule in rules:
        (allows if rule.allows else denies).add(rule.cond)
    if not allows or "" in denies:
        return NEVER
    return Effect(frozenset({""} if "" in allows else allows), frozenset(denies))


def problems_of(
    model: bytes, policy: bytes, checks: Checks, *, model_name: str, policy_name: str
) -> tuple[Problem, ...]:
    """All that the service would refuse or warn about, as far as `checks` tells what it knows."""
    try:
        accepted = read_model(model, model_name)
        rules = parse(policy, policy_name)
    except PolicyError as error:
        return error.problems
    return tuple(lint(rules, policy_name, checks, overriding=not accepted.extras))


class Book:
    """One policy, its rules, and the contents of its two files; made anew for each change that is tried."""

    def __init__(
        self, model: bytes, policy: bytes, *, model_name: str, policy_name: str, methods: frozenset[str] = frozenset()
    ) -> None:
        """`methods` are those of extensions of MCP that rules may name.

        Raises `PolicyError` for what the service would refuse whatever it knows of tokens and tools.
        """
        checks = Checks(token_roles=True, methods=methods)
        self.policy: Policy = load_policy(
            model, policy, model_name=model_name, policy_name=policy_name, cached=_CACHED, checks=checks
        )
        self.file = policy_name
        self.extras = tuple(extra.text for extra in read_model(model, model_name).extras)
        """What the model's matcher asks beyond subject, method, name and condition: only the engine knows of it."""
        self._contents = (model, policy)
        self._names = {"model_name": model_name, "policy_name": policy_name}
        self._methods = methods
        self._graph = Roles(self.policy.rules.groupings)
        self._rules_of: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.policy.rules.rules:
            self._rules_of[rule.sub].append(rule)
        self._groupings = {(one.member, one.role): one.line for one in reversed(self.policy.rules.groupings)}
        self._held = lru_cache(1024)(self._find_held)

    def subjects(self) -> tuple[str, ...]:
        """Every identity and role that the policy names: identities first, sorted."""
        named = {rule.sub for rule in self.policy.rules.rules}
        for grouping in self.policy.rules.groupings:
            named |= {grouping.member, grouping.role}
        return tuple(sorted(named, key=lambda subject: (subject.startswith(ROLE), subject)))

    def held(self, subject: str, roles: Sequence[str] = ()) -> tuple[Held, ...]:
        """The rules of `subject`, who also has `roles`, in the file's order, each by a shortest way."""
        return self._held(subject, tuple(roles))

    def matching(self, subject: str, method: str, name: str, roles: Sequence[str] = ()) -> list[Held]:
        """Those of them that speak of `method` on `name`, whatever their conditions say."""
        return [
            held
            for held in self.held(subject, roles)
            if wildcard(method, held.rule.method) and wildcard(name, held.rule.name)
        ]

    def effect(self, subject: str, method: str, name: str, roles: Sequence[str] = ()) -> Effect:
        """What the rules of `subject` come to for `method` on `name`, whatever the arguments."""
        return effect_of(held.rule for held in self.matching(subject, method, name, roles))

    def overridden(self, held: Held, among: Iterable[Held]) -> int:
        """The line of a rule in `among` that denies all that `held` allows; 0 where there is none."""
        for other in among:
            if not (held.rule.allows and not other.rule.allows and other.rule.condition is None):
                continue
            if covers(other.rule.method, held.rule.method) and covers(other.rule.name, held.rule.name):
                return other.rule.line
        return 0

    def grouping_lines(self, via: Sequence[str]) -> list[int | None]:
        """The `g` line behind each step of a way; None for a role that the subject was given besides."""
        return [self._groupings.get(step) for step in pairwise(via)]

    def way(self, subject: str, role: str, roles: Sequence[str] = ()) -> tuple[str, ...]:
        """A shortest way from `subject`, who also has `roles`, to `role`, both included."""
        return self._graph.path(subject, role, roles)

    def edited(self, *, without: Iterable[int] = (), plus: str = "") -> "Book":
        """The policy without some lines and with one more at its end. Raises `PolicyError`."""
        model, policy = self._contents
        lines = policy.split(b"\n")
        for number in without:
            lines[number - 1] = b""
        if plus:
            lines.append(plus.encode())
        return Book(model, b"\n".join(lines), methods=self._methods, **self._names)

    def _find_held(self, subject: str, roles: tuple[str, ...]) -> tuple[Held, ...]:
        names = (subject, *self.policy.roles(subject, roles))
        ways = {name: self._graph.path(subject, name, roles) for name in names if name in self._rules_of}
        found = [Held(rule, way) for name, way in ways.items() for rule in self._rules_of[name]]
        return tuple(sorted(found, key=lambda held: held.rule.line))
