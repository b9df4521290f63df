"""Reads policy CSV into rules, with line numbers; a file with one bad line is refused as a whole. Pure.

    p, <identity or role:name>, <MCP method>, <tool, prompt or URI>, <allow or deny>[, <condition on args>]
    g, <identity or role:name>, <role:name>

Fields are separated by commas and trimmed; a field with a comma in it stands
in double quotes, but for the condition, which is the rest of the line (and
may stand in double quotes as well). Empty lines and lines that start with `#`
are comments. What a condition can say: see `conditions`.
"""

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from authz_service.policy.conditions import Condition, ConditionError, read_condition
from authz_service.policy.problems import PolicyError, Problem

__all__ = ["Grouping", "Rule", "Rules", "parse"]

_ROLE: Final = "role:"
_MAX_LINE_CHARS: Final = 8192
_PREFIXES: Final = (_ROLE, "spiffe://", "user:")
_USER: Final = re.compile(r"user:[^:]+:.+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_FIELD: Final = re.compile(r'[ \t]*(?:"((?:[^"]|"")*)"[ \t]*|([^", \t][^,]*)?)(,|$)')


@dataclass(frozen=True, slots=True)
class Rule:
    """One `p` line."""

    line: int
    text: str
    """As written, without surrounding blanks."""
    sub: str
    method: str
    name: str
    eft: str
    condition: Condition | None = None

    @property
    def cond(self) -> str:
        """The condition as written, "" without one."""
        return self.condition.text if self.condition is not None else ""

    @property
    def allows(self) -> bool:
        return self.eft == "allow"

    @property
    def fields(self) -> tuple[str, str, str, str, str]:
        return (self.sub, self.method, self.name, self.eft, self.cond)


@dataclass(frozen=True, slots=True)
class Grouping:
    """One `g` line: `member` has `role`."""

    line: int
    member: str
    role: str


@dataclass(frozen=True, slots=True)
class Rules:
    rules: tuple[Rule, ...] = ()
    groupings: tuple[Grouping, ...] = ()


def _no_pause() -> None:
    pass


def parse(content: bytes, file: str, *, pause: Callable[[], None] = _no_pause) -> Rules:
    """The rules in `content`; `file` is the name that errors give. Raises `PolicyError` with every bad line.

    `pause` is called at each line, so that a thread can let others run.
    """
    reader = _LineReader()
    problems: list[Problem] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        pause()
        try:
            reader.read(number, raw)
        except UnicodeDecodeError:
            problems.append(Problem(file, number, "the text is not UTF-8"))
        except _BadLine as error:
            problems.append(Problem(file, number, str(error)))
    problems += _cycles(reader.groupings, file)
    if problems:
        raise PolicyError(*problems)
    return Rules(tuple(reader.rules), tuple(reader.groupings))


class _BadLine(ValueError):
    """What is wrong with a line."""


class _LineReader:
    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.groupings: list[Grouping] = []
        self._conditions: dict[str, Condition] = {}

    def read(self, number: int, raw: bytes) -> None:
        line = raw.decode().strip()
        if not line or line.startswith("#"):
            return
        if len(line) > _MAX_LINE_CHARS:
            raise _BadLine(f"a line has at most {_MAX_LINE_CHARS} characters, not {len(line)}")
        if _CONTROL.search(line):
            raise _BadLine("control characters are not allowed")
        match _fields(line):
            case ["p", *fields]:
                self.rules.append(self._rule(number, line, fields))
            case ["g", *fields]:
                self.groupings.append(_grouping(number, fields))
            case [kind, *_]:
                raise _BadLine(f"a line starts with p or g, not {kind!r}")

    def _rule(self, number: int, line: str, fields: list[str]) -> Rule:
        if len(fields) not in (4, 5):
            raise _BadLine(
                f"a rule is p, subject, method, name, allow or deny, and perhaps a condition: 5 or 6 fields, "
                f"not {len(fields) + 1}"
            )
        sub, method, name, eft = fields[:4]
        _check_subject(sub)
        if not method:
            raise _BadLine("the method is empty; write * for every method")
        if eft not in ("allow", "deny"):
            raise _BadLine(f"the effect is allow or deny, not {eft!r}")
        return Rule(number, line, sub, method, name, eft, self._condition(fields[4]) if len(fields) == 5 else None)

    def _condition(self, text: str) -> Condition | None:
        if not text:
            return None
        if text not in self._conditions:
            try:
                self._conditions[text] = read_condition(text)
            except ConditionError as error:
                raise _BadLine(str(error)) from None
        return self._conditions[text]


def _fields(line: str) -> list[str]:
    """At most six: the last is the rest of the line."""
    if '"' not in line:
        return [field.strip() for field in line.split(",", 5)]
    fields: list[str] = []
    position, more = 0, True
    while more:
        if len(fields) == 5:
            return [*fields, _last(line[position:].strip())]
        found = _FIELD.match(line, position)
        if found is None:
            raise _BadLine("the quotes do not match")
        quoted, plain, comma = found.groups()
        fields.append((quoted.replace('""', '"') if quoted is not None else plain or "").strip())
        position, more = found.end(), bool(comma)
    return fields


def _last(rest: str) -> str:
    """The condition: quoted as CSV quotes if it reads so as a whole (`"drop" in args.sql` does not)."""
    if rest.startswith('"'):
        try:
            (fields,) = csv.reader([rest], strict=True)
        except csv.Error:
            return rest
        if len(fields) == 1:
            return fields[0].strip()
    return rest


def _grouping(number: int, fields: list[str]) -> Grouping:
    if len(fields) != 2:
        raise _BadLine(f"a grouping is g, identity or role, role: 3 fields, not {len(fields) + 1}")
    member, role = fields
    _check_subject(member)
    if not role.startswith(_ROLE) or role == _ROLE:
        raise _BadLine(f"roles are named role:something, not {role!r}")
    return Grouping(number, member, role)


def _check_subject(subject: str) -> None:
    if not subject or subject == _ROLE:
        raise _BadLine("the subject is empty")
    if "*" in subject:
        raise _BadLine(f"a subject is one identity or role, without wildcards: {subject!r}")
    if (":" in subject and not subject.startswith(_PREFIXES)) or (
        subject.startswith("user:") and not _USER.fullmatch(subject)
    ):
        raise _BadLine(f"a subject is an identity, user:issuer:name or role:something, not {subject!r}")


def _cycles(groupings: Iterable[Grouping], file: str) -> list[Problem]:
    """A role that contains itself says nothing that was meant; finds the first in one pass (Kahn's algorithm)."""
    roles_of: dict[str, set[str]] = {}
    for grouping in groupings:
        roles_of.setdefault(grouping.member, set()).add(grouping.role)
    members = dict.fromkeys((role for roles in roles_of.values() for role in roles), 0)
    for roles in roles_of.values():
        for role in roles:
            members[role] += 1
    free = [member for member in roles_of if member not in members]
    while free:
        for role in roles_of.pop(free.pop(), ()):
            members[role] -= 1
            if not members[role]:
                free.append(role)
    for grouping in groupings:
        if grouping.member in roles_of and members.get(grouping.role, 0):
            return [Problem(file, grouping.line, f"{grouping.member} would contain itself")]
    return []
