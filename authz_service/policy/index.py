"""Finds the rules that speak about a subject, method and name without reading the others."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final

from authz_service.policy.file import Rule
from authz_service.policy.patterns import overlap, wildcard

__all__ = ["Index"]

_BY_LINE: Final = attrgetter("line")


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
        found: list[Rule] = []
        for subject in subjects:
            methods = self._subjects.get(subject)
            if methods is not None:
                for names in methods.matching(method):
                    names.matching(name, found)
        if len(found) > 1:
            found.sort(key=_BY_LINE)
        return found

    def overlapping(self, subjects: Iterable[str], method: str, pattern: str) -> list[Rule]:
        """The rules of any of `subjects` whose method matches and whose name shares a text with `pattern`, perhaps."""
        found: list[Rule] = []
        for subject in subjects:
            methods = self._subjects.get(subject)
            if methods is not None:
                for names in methods.matching(method):
                    found += [rule for rule in names.all() if overlap(rule.name, pattern)]
        found.sort(key=_BY_LINE)
        return found


class _Methods:
    """The rules of one subject."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self) -> None:
        self._exact: dict[str, _Names] = {}
        self._patterns: dict[str, _Names] = {}

    def add(self, rule: Rule) -> None:
        group = self._patterns if "*" in rule.method else self._exact
        names = group.get(rule.method)
        if names is None:
            names = group[rule.method] = _Names()
        names.add(rule)

    def matching(self, method: str) -> list["_Names"]:
        found = [names for pattern, names in self._patterns.items() if wildcard(method, pattern)]
        if (exact := self._exact.get(method)) is not None:
            found.append(exact)
        return found


class _Names:
    """The rules of one subject and method."""

    __slots__ = ("_ending", "_exact", "_starting")

    def __init__(self) -> None:
        self._exact: dict[str, list[Rule]] = {}
        self._starting: _Fixed | None = None
        self._ending: _Fixed | None = None

    def add(self, rule: Rule) -> None:
        name = rule.name
        if "*" not in name:
            self._exact.setdefault(name, []).append(rule)
            return
        head, tail = name[: name.index("*")], name[name.rindex("*") + 1 :]
        if head or not tail:
            self._starting = self._starting or _Fixed()
            self._starting.add(head, rule)
        else:
            self._ending = self._ending or _Fixed()
            self._ending.add(tail, rule)

    def matching(self, name: str, found: list[Rule]) -> None:
        if exact := self._exact.get(name):
            found += exact
        size = len(name)
        if self._starting is not None:
            for length in self._starting.lengths:
                if length <= size and (rules := self._starting.rules.get(name[:length])):
                    found += [rule for rule in rules if wildcard(name, rule.name)]
        if self._ending is not None:
            for length in self._ending.lengths:
                if length <= size and (rules := self._ending.rules.get(name[size - length :])):
                    found += [rule for rule in rules if wildcard(name, rule.name)]

    def all(self) -> Iterable[Rule]:
        groups = [self._exact, *(fixed.rules for fixed in (self._starting, self._ending) if fixed is not None)]
        return (rule for group in groups for rules in group.values() for rule in rules)


class _Fixed:
    """Patterns by their fixed beginning (or end), and the lengths that these have."""

    __slots__ = ("lengths", "rules")

    def __init__(self) -> None:
        self.rules: dict[str, list[Rule]] = {}
        self.lengths: set[int] = set()

    def add(self, fixed: str, rule: Rule) -> None:
        self.rules.setdefault(fixed, []).append(rule)
        self.lengths.add(len(fixed))
