"""Finds the rules that speak about a subject, method and name without reading the others."""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Final

from authz_service.policy.file import Rule
from authz_service.policy.patterns import overlap, wildcard

__all__ = ["Index", "Names", "named"]

_BY_LINE: Final = attrgetter("line")
_GRAM: Final = 3


class Index:
    """Rules by subject, method and name: exact ones in dictionaries, patterns by their fixed beginning or end."""

    def __init__(self, rules: Iterable[Rule], pause: Callable[[], None] = lambda: None) -> None:
        self._subjects: dict[str, _Methods] = {}
        for rule in rules:
            pause()
            methods = self._subjects.get(rule.sub)
            if methods is None:
                methods = self._subjects[rule.sub] = _Methods()
            methods.add(rule)

    def find(self, subjects: Iterable[str], method: str, name: str) -> list[Rule]:
        """The rules of any of `subjects` whose method and name match, in the order of the file."""
        return named(self.about(subjects, method), name)

    def about(self, subjects: Iterable[str], method: str) -> tuple["Names", ...]:
        """The same before the name is known: to be given to `named`."""
        found: list[Names] = []
        for subject in subjects:
            methods = self._subjects.get(subject)
            if methods is not None:
                found += methods.matching(method)
        return tuple(found)

    def overlapping(self, subjects: Iterable[str], method: str, pattern: str) -> list[Rule]:
        """The rules of any of `subjects` whose method matches and whose name shares a text with `pattern`, perhaps."""
        found: list[Rule] = []
        for names in self.about(subjects, method):
            names.overlapping(pattern, found)
        found.sort(key=_BY_LINE)
        return found


def named(about: Iterable["Names"], name: str) -> list[Rule]:
    """The rules of `Index.about` whose name matches, in the order of the file."""
    found: list[Rule] = []
    for names in about:
        names.matching(name, found)
    if len(found) > 1:
        found.sort(key=_BY_LINE)
    return found


class _Methods:
    """The rules of one subject."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self) -> None:
        self._exact: dict[str, Names] = {}
        self._patterns: dict[str, Names] = {}

    def add(self, rule: Rule) -> None:
        group = self._patterns if "*" in rule.method else self._exact
        names = group.get(rule.method)
        if names is None:
            names = group[rule.method] = Names()
        names.add(rule)

    def matching(self, method: str) -> list["Names"]:
        found = [names for pattern, names in self._patterns.items() if wildcard(method, pattern)]
        if (exact := self._exact.get(method)) is not None:
            found.append(exact)
        return found


class Names:
    """The rules of one subject and method.

    A pattern is kept by its longest fixed part: by its beginning, by its end, or
    by three characters of a part between stars, so that few others stand beside it.
    """

    __slots__ = ("_ending", "_exact", "_starting", "_within")

    def __init__(self) -> None:
        self._exact: dict[str, list[Rule]] = {}
        self._starting: _Fixed | None = None
        self._ending: _Fixed | None = None
        self._within: dict[str, list[Rule]] | None = None

    def add(self, rule: Rule) -> None:
        if "*" not in rule.name:
            self._exact.setdefault(rule.name, []).append(rule)
            return
        head, *middle, tail = rule.name.split("*")
        inner = max(middle, key=len, default="")
        if len(inner) >= _GRAM and len(inner) > max(len(head), len(tail)):
            self._within = {} if self._within is None else self._within
            self._within.setdefault(inner[:_GRAM], []).append(rule)
        elif len(tail) > len(head):
            self._ending = self._ending or _Fixed()
            self._ending.add(tail, rule)
        else:
            self._starting = self._starting or _Fixed()
            self._starting.add(head, rule)

    def matching(self, name: str, found: list[Rule]) -> None:
        if exact := self._exact.get(name):
            found += exact
        for rules in self._near(name):
            found += [rule for rule in rules if wildcard(name, rule.name)]

    def _near(self, name: str) -> Iterator[list[Rule]]:
        """Groups of patterns that may match."""
        size = len(name)
        if self._starting is not None:
            for length in self._starting.lengths:
                if length <= size and (rules := self._starting.rules.get(name[:length])):
                    yield rules
        if self._ending is not None:
            for length in self._ending.lengths:
                if length <= size and (rules := self._ending.rules.get(name[size - length :])):
                    yield rules
        if self._within is not None:
            for gram in {name[at : at + _GRAM] for at in range(size - _GRAM + 1)}:
                if rules := self._within.get(gram):
                    yield rules

    def overlapping(self, pattern: str, found: list[Rule]) -> None:
        head = pattern.partition("*")[0]
        for name in [name for name in self._exact if name.startswith(head)]:  # most names go here, quickly
            if wildcard(name, pattern):
                found += self._exact[name]
        fixed = (one.rules for one in (self._starting, self._ending) if one is not None)
        for group in (self._within or {}, *fixed):
            for rules in group.values():
                found += [rule for rule in rules if overlap(rule.name, pattern)]


class _Fixed:
    """Patterns by their fixed beginning (or end), and the lengths that these have."""

    __slots__ = ("lengths", "rules")

    def __init__(self) -> None:
        self.rules: dict[str, list[Rule]] = {}
        self.lengths: set[int] = set()

    def add(self, fixed: str, rule: Rule) -> None:
        self.rules.setdefault(fixed, []).append(rule)
        self.lengths.add(len(fixed))
