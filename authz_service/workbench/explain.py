"""Why a call is allowed or refused, and the smallest changes that would turn it. Pure.

Every change that is named was tried: the edited policy, or the call with the
edited arguments, was given to the engine.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz_service.policy import Condition, PolicyError, Ruling, Trace
from authz_service.workbench.book import ROLE, Book

__all__ = ["Explanation", "Question", "explain"]

_MOST_ROLES: Final = 3
_MOST_ARGUMENTS: Final = 5


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks for what."""

    subject: str
    method: str
    name: str
    arguments: Mapping[str, Any]
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    ruling: Ruling
    traces: tuple[Trace, ...]
    """What each rule on subject, method and name says, in the order of the file."""
    ways: tuple[tuple[str, ...], ...]
    """To each of the subject's roles, from the subject on."""
    changes: tuple[str, ...]
    """Sentences, the smallest change first; each alone turns the verdict."""


def explain(book: Book, question: Question) -> Explanation:
    """The engine's answer to `question` and what stands behind it."""
    asked = (question.subject, question.method, question.name, question.arguments, question.roles)
    ruling = book.policy.judge(*asked)
    traces = tuple(book.policy.trace(*asked))
    ways = tuple(book.way(question.subject, role, question.roles) for role in ruling.roles)
    changes = _to_refuse(book, question, traces) if ruling.allowed else _to_allow(book, question, traces)
    return Explanation(ruling, traces, ways, tuple(dict.fromkeys(changes)))


def _to_refuse(book: Book, question: Question, traces: Sequence[Trace]) -> Iterator[str]:
    allowing = [trace.rule.line for trace in traces if trace.counts]
    if _edited(book, question, without=allowing) is False:
        yield f"remove {_lines(allowing)}"
    rule = _rule(question, "deny")
    if _edited(book, question, plus=rule) is False:
        yield f"add: {rule}"
    yield from _by_arguments(book, question, traces, allowed=False)


def _to_allow(book: Book, question: Question, traces: Sequence[Trace]) -> Iterator[str]:
    yield from _by_arguments(book, question, traces, allowed=True)
    denying = [trace.rule.line for trace in traces if trace.counts and not trace.rule.allows]
    if denying and _edited(book, question, without=denying):
        yield f"remove {_lines(denying)}"
        return
    without = f"remove {_lines(denying)} and " if denying else ""
    rule = _rule(question, "allow")
    if _edited(book, question, without=denying, plus=rule):
        yield f"{without}add: {rule}"
    mine = set(book.policy.roles(question.subject, question.roles))
    asked = (question.method, question.name, question.arguments)
    others = [one for one in book.subjects() if one.startswith(ROLE) and one not in mine and one != question.subject]
    found = 0
    for role in others:
        if found < _MOST_ROLES and book.policy.judge(role, *asked).allowed:
            grouping = f"g, {question.subject}, {role}"
            if _edited(book, question, without=denying, plus=grouping):
                found += 1
                yield f"{without}add: {grouping}"


def _lines(numbers: Sequence[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _rule(question: Question, effect: str) -> str:
    # A name in quotes may hold commas; a star in it would be a pattern, wider than what was asked.
    fields = [question.subject, question.method, question.name]
    quoted = ['"' + field.replace('"', '""') + '"' if set(field) & set(',"') else field for field in fields]
    return ", ".join(["p", *quoted, effect])


def _edited(book: Book, question: Question, *, without: Sequence[int] = (), plus: str = "") -> bool | None:
    """The verdict of the edited policy; None where that is no policy, or the edit does not say what was asked."""
    try:
        edited = book.edited(without=without, plus=plus)
    except PolicyError:
        return None
    asked = (question.subject, question.method, question.name, question.arguments, question.roles)
    return edited.policy.judge(*asked).allowed


def _by_arguments(book: Book, question: Question, traces: Sequence[Trace], *, allowed: bool) -> Iterator[str]:
    """Changes of one argument that turn the verdict, tried with the values that the rules' conditions name."""
    conditions = [trace.rule.condition for trace in traces if trace.rule.condition is not None]
    values = list(dict.fromkeys(value for one in conditions for value in _values(one)))
    paths = dict.fromkeys(path for condition in conditions for path in condition.paths)
    found = 0
    for path in paths:
        if len(path) != 1 or not isinstance(path[0], str):
            continue
        name = path[0]
        if found < _MOST_ARGUMENTS and (change := _one_argument(book, question, name, values, allowed)):
            found += 1
            yield change


def _one_argument(
    book: Book, question: Question, name: str, values: Sequence[tuple[type, Any]], allowed: bool
) -> str | None:
    def verdict(arguments: Mapping[str, Any]) -> bool:
        asked = (question.subject, question.method, question.name, arguments, question.roles)
        return book.policy.judge(*asked).allowed

    for _, value in values:
        if verdict({**question.arguments, name: value}) is allowed:
            return f"call with {name} = {json.dumps(value, ensure_ascii=False)}"
    rest = {key: value for key, value in question.arguments.items() if key != name}
    if name in question.arguments and verdict(rest) is allowed:
        return f"call without {name}"
    return None


def _values(condition: Condition) -> Iterator[tuple[type, Any]]:
    """What the condition compares with, and the numbers beside; with their types, since true equals 1 in Python."""
    keys = {id(node.slice) for node in ast.walk(condition.tree) if isinstance(node, ast.Subscript)}
    for node in ast.walk(condition.tree):
        if not isinstance(node, ast.Constant) or id(node) in keys:
            continue
        value = node.value
        if isinstance(value, bool):
            yield from ((bool, value), (bool, not value))
        elif isinstance(value, int | float):
            yield from ((type(value), near) for near in (value, value - 1, value + 1))
        elif isinstance(value, str):
            yield str, value
