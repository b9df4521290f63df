"""Who gains and loses what between two policies. Pure.

How it is computed. For every identity and role that either policy names, the
rules that it has (its own and those of its roles) are compared as sets; where
they are equal, nothing can differ. Otherwise both policies are asked about
the patterns of those rules, and about what each two overlapping patterns have
in common, on one representative each: the pattern taken as a name, whose `*`
only a `*` of a rule can match. What a representative is answered holds for
every text of its pattern, save for those that a narrower pattern in either
policy matches too; these are listed as exceptions or on their own. Of two
patterns that overlap in several ways, three are looked at. Where a subject has
more than 100 patterns with wildcards, only overlaps with those of changed
rules are looked at, and none where that were more than 20,000
(`Difference.overlaps` says so). Conditions are compared as text, or, where they
differ in one number only, by that number. Subjects that neither policy names
have no rules in either.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Final, Literal

from authz_service.policy import covers, overlap
from authz_service.workbench.book import Book, Effect, Held, effect_of
from authz_service.workbench.patterns import common

__all__ = ["Change", "Difference", "compare"]

_FEW: Final = 100
_MAX_OVERLAPS: Final = 20_000
Kind = Literal["gains", "loses", "changes"]
Pair = tuple[str, str]
"""Patterns of a method and a name."""


@dataclass(frozen=True, slots=True)
class Change:
    """What `subject` may do with `name` under `method` (patterns), before and after."""

    subject: str
    method: str
    name: str
    before: Effect
    after: Effect
    old_rules: tuple[Held, ...]
    """The old policy's rules on it."""
    new_rules: tuple[Held, ...]
    exceptions: tuple[Pair, ...] = ()
    """Narrower patterns for which this is not so."""

    @property
    def pair(self) -> Pair:
        return self.method, self.name

    @property
    def said(self) -> tuple[Effect, Effect]:
        return self.before, self.after

    @property
    def kind(self) -> Kind:
        """`changes`: the conditions differ, and neither side certainly allows all that the other does."""
        if self.before.within(self.after):
            return "gains"
        if self.after.within(self.before):
            return "loses"
        wider, smaller = self.before.inside(self.after), self.after.inside(self.before)
        return "changes" if wider == smaller else "gains" if wider else "loses"


@dataclass(frozen=True, slots=True)
class Difference:
    changes: tuple[Change, ...]
    overlaps: bool
    """False where there were too many patterns to look at all that each two have in common."""


def compare(old: Book, new: Book) -> Difference:
    """Every change from `old` to `new` that the module's method finds; none between a policy and itself."""
    changes: list[Change] = []
    complete = True
    for subject in dict.fromkeys((*old.subjects(), *new.subjects())):
        before, after = _Side(old.held(subject)), _Side(new.held(subject))
        if before.meaning == after.meaning:
            continue
        written = {meaning[:2] for meaning in before.meaning | after.meaning}
        pairs, all_overlaps = _pairs(written, {meaning[:2] for meaning in before.meaning ^ after.meaning})
        complete &= all_overlaps
        changes += _reduced([_change(subject, pair, before, after) for pair in pairs])
    return Difference(tuple(changes), complete)


class _Side:
    """One policy's rules for one subject; those without wildcards are found by name."""

    def __init__(self, rules: Iterable[Held]) -> None:
        self.meaning: set[tuple[str, str, str, str]] = set()
        self._wild: list[Held] = []
        self._exact: dict[Pair, list[Held]] = {}
        for held in rules:
            rule = held.rule
            self.meaning.add((rule.method, rule.name, rule.eft, rule.cond))
            if "*" in rule.method or "*" in rule.name:
                self._wild.append(held)
            else:
                self._exact.setdefault((rule.method, rule.name), []).append(held)

    def on(self, pair: Pair) -> tuple[Held, ...]:
        """The rules that match all of `pair`."""
        wild = [held for held in self._wild if _covers((held.rule.method, held.rule.name), pair)]
        return (*wild, *self._exact.get(pair, ()))


def _pairs(written: set[Pair], changed: set[Pair]) -> tuple[list[Pair], bool]:
    """`written` and what each two of it have in common; whether all of that was looked at."""
    wild = sorted(pair for pair in written if _is_wild(pair))
    few = len(wild) <= _FEW
    firsts = wild if few else [pair for pair in wild if pair in changed]
    if not few and len(firsts) * len(wild) > _MAX_OVERLAPS:
        return sorted(written), False
    pairs = set(written)
    for one, other in combinations(wild, 2) if few else product(firsts, wild):
        if _overlap(one, other) and not _covers(one, other) and not _covers(other, one):
            pairs |= set(product(common(one[0], other[0]), common(one[1], other[1])))
    return sorted(pairs), few


def _change(subject: str, pair: Pair, before: _Side, after: _Side) -> Change:
    old_rules, new_rules = before.on(pair), after.on(pair)
    old_effect, new_effect = (effect_of(held.rule for held in rules) for rules in (old_rules, new_rules))
    return Change(subject, *pair, old_effect, new_effect, old_rules, new_rules)


def _reduced(answers: list[Change]) -> Iterator[Change]:
    """The changes among `answers`, without those that a wider one says already, each with its exceptions."""
    wild = [answer for answer in answers if _is_wild(answer.pair)]
    for answer in answers:
        if answer.before == answer.after:
            continue
        wider = [one for one in wild if _strictly_covers(one.pair, answer.pair)]
        closest = [one for one in wider if not any(_strictly_covers(one.pair, other.pair) for other in wider)]
        if any(one.said == answer.said for one in closest):
            continue
        others = [one for one in answers if one.said != answer.said and _strictly_covers(answer.pair, one.pair)]
        widest = [one.pair for one in others if not any(_strictly_covers(more.pair, one.pair) for more in others)]
        yield replace(answer, exceptions=tuple(widest))


def _is_wild(pair: Pair) -> bool:
    return "*" in pair[0] or "*" in pair[1]


def _covers(wide: Pair, narrow: Pair) -> bool:
    return covers(wide[0], narrow[0]) and covers(wide[1], narrow[1])


def _overlap(one: Pair, other: Pair) -> bool:
    return overlap(one[0], other[0]) and overlap(one[1], other[1])


def _strictly_covers(wide: Pair, narrow: Pair) -> bool:
    return _covers(wide, narrow) and not _covers(narrow, wide)
