"""Verdicts where not all is known: each rule counts, does not count, or may count. Pure."""

from collections.abc import Callable, Iterable
from enum import Enum

from authz_service.policy import Rule
from authz_service.policy.arguments import Paths, Unevaluable
from authz_service.workbench.recorded import Known

__all__ = ["Counts", "counts", "possible_verdicts"]


class Counts(Enum):
    """Whether a rule that matches a call's method and name takes part in the verdict."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


def counts(rule: Rule, known: Known) -> Counts:
    """By its condition, as far as the arguments are known; one that cannot be evaluated counts for refusal."""
    condition = rule.condition
    if condition is None:
        return Counts.YES
    if known.hidden is None or any(path and path[0] in known.hidden for path in condition.paths):
        return Counts.PERHAPS
    try:
        return Counts.YES if condition.holds(Paths(dict(known.arguments))) else Counts.NO
    except Unevaluable:
        return Counts.NO if rule.allows else Counts.YES


def possible_verdicts(rules: Iterable[Rule], how: Callable[[Rule], Counts]) -> frozenset[bool]:
    """The verdicts that `rules`, all of which match, may come to: True for allowed.

    Rules that may count are taken as independent of each other, so that a set of both verdicts may be too wide; a
    single verdict is certain.
    """
    allows, denies = Counts.NO, Counts.NO
    for rule in rules:
        counted = how(rule)
        if rule.allows:
            allows = _stronger(allows, counted)
        else:
            denies = _stronger(denies, counted)
    if denies is Counts.YES or allows is Counts.NO:
        return frozenset({False})
    if denies is Counts.NO and allows is Counts.YES:
        return frozenset({True})
    return frozenset({True, False})


def _stronger(one: Counts, other: Counts) -> Counts:
    if Counts.YES in (one, other):
        return Counts.YES
    return Counts.PERHAPS if Counts.PERHAPS in (one, other) else Counts.NO
