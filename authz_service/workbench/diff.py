"""Who gains and loses what between two policies. Pure.

How it is computed. For every identity and role that either policy names, the
rules that it has (its own and those of its roles) are compared as sets; where
they are equal, nothing can differ. Otherwise both policies are asked about
the patterns of those rules, and about what each two overlapping patterns have
in common, on one representative each: the pattern taken as a name, whose `*`
only a `*` of a rule can match. What a representative is answered holds for
every text of its pattern, save for those that a narrower pattern in either
policy matches too; these are listed as exceptions or on their own. Of two
patterns that overlap in several ways, three are looked at, and above 300
patterns with wildcards for one subject their overlaps are left out
(`Difference.overlaps`). Conditions are compared as text. Subjects that neither policy names have no
rules in either.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Final, Literal

from authz_service.policy import covers
from authz_service.workbench.book import Book, Effect, Held, effect_of
from authz_service.workbench.patterns import common

__all__ = ["Change", "Difference", "compare"]

_MAX_OVERLAPPING: Final = 300
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
        """`changes`: the conditions differ, and neither side allows all that the other does as far as text tells."""
        if self.before.within(self.after):
            return "gains"
        return "loses" if self.after.within(self.before) else "changes"


@dataclass(frozen=True, slots=True)
class Difference:
    changes: tuple[Change, ...]
    overlaps: bool
    """False where there were too many patterns to look at what each two have in common."""


def compare(old: Book, new: Book) -> Difference:
    """Every change from `old` to `new` that the module's method finds; none between a policy and itself."""
    changes: list[Change] = []
    complete = True
    for subject in dict.fromkeys((*old.subjects(), *new.subjects())):
        before, after = _Side(old.held(subject)), _Side(new.held(subject))
        if before.meaning == after.meaning:
            continue
        pairs, all_overlaps = _pairs({meaning[:2] for meaning in before.meaning | after.meaning})
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


def _pairs(written: set[Pair]) -> tuple[list[Pair], bool]:
    """`written` and what each two of it have in common; whether all of that was looked at."""
    wild = sorted(pair for pair in written if _is_wild(pair))
    if len(wild) > _MAX_OVERLAPPING:
        return sorted(written), False
    pairs = set(written)
    for one, other in combinations(wild, 2):
        if not _covers(one, other) and not _covers(other, one):
            pairs |= set(product(common(one[0], other[0]), common(one[1], other[1])))
    return sorted(pairs), True


def _change(subject: str, pair: Pair, before: _Side, after: _Side) -> Change:
    old_rules, new_rules = before.on(pair), after.on(pair)
    old_effect, new_effect = (effect_of(held.rule for held in rules) for rules in (old_rules, new_rules))
    return Change(subject, *pair, old_effect, new_effect, old_rules, new_rules)


def _reduced(answers: list[Change]) -> Iterator[Change]:
    """The changes among `answers`, without those that a wider one says already, each with its exceptions."""
    inside: dict[Pair, list[Change]] = {}
    nearest: dict[Pair, list[Change]] = {}
    for wide in answers:
        if _is_wild(wide.pair):
            inside[wide.pair] = [narrow for narrow in answers if _strictly_covers(wide.pair, narrow.pair)]
            for narrow in inside[wide.pair]:
                nearest.setdefault(narrow.pair, []).append(wide)
    for answer in answers:
        wider = nearest.get(answer.pair, [])
        closest = [one for one in wider if not any(_strictly_covers(one.pair, other.pair) for other in wider)]
        if answer.before == answer.after or any(one.said == answer.said for one in closest):
            continue
        others = [one for one in inside.get(answer.pair, ()) if one.said != answer.said]
        widest = [one.pair for one in others if not any(_strictly_covers(more.pair, one.pair) for more in others)]
        yield replace(answer, exceptions=tuple(widest))


def _is_wild(pair: Pair) -> bool:
    return "*" in pair[0] or "*" in pair[1]


def _covers(wide: Pair, narrow: Pair) -> bool:
    return covers(wide[0], narrow[0]) and covers(wide[1], narrow[1])


def _strictly_covers(wide: Pair, narrow: Pair) -> bool:
    return _covers(wide, narrow) and not _covers(narrow, wide)
