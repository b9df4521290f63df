"""Reads policy CSV into rules, with line numbers; a file with one bad line is refused as a whole. Pure.

    p, <identity or role:name>, <MCP method>, <tool, prompt or URI>, <allow or deny>
    g, <identity or role:name>, <role:name>

Fields are separated by commas and trimmed; a field with a comma in it stands
in double quotes. Empty lines and lines that start with `#` are comments.
"""

import csv
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Grouping", "PolicyError", "Rule", "Rules", "parse"]

_ROLE = "role:"


class PolicyError(ValueError):
    """A policy that cannot be used. Its text is one line that names the file and, where there is one, the line."""


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

    @property
    def fields(self) -> tuple[str, str, str, str]:
        return (self.sub, self.method, self.name, self.eft)


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


def parse(content: bytes, file: str) -> Rules:
    """The rules in `content`; `file` is the name that errors give. Raises `PolicyError`."""
    rules: list[Rule] = []
    groupings: list[Grouping] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().strip()
            if not line or line.startswith("#"):
                continue
            match _fields(line):
                case ["p", *fields]:
                    rules.append(_rule(number, line, fields))
                case ["g", *fields]:
                    groupings.append(_grouping(number, fields))
                case [kind, *_]:
                    raise PolicyError(f"a line starts with p or g, not {kind!r}")
        except UnicodeDecodeError:
            raise PolicyError(f"{file} line {number}: the text is not UTF-8") from None
        except PolicyError as error:
            raise PolicyError(f"{file} line {number}: {error}") from None
    _refuse_cycles(groupings, file)
    return Rules(tuple(rules), tuple(groupings))


def _fields(line: str) -> list[str]:
    if any(unicodedata.category(character) == "Cc" and character != "\t" for character in line):
        raise PolicyError("control characters are not allowed")
    try:
        (fields,) = csv.reader([line], skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise PolicyError(f"the quotes do not match ({error})") from None
    return [field.strip() for field in fields]


def _rule(number: int, line: str, fields: list[str]) -> Rule:
    if len(fields) != 4:
        raise PolicyError(f"a rule is p, subject, method, name, allow or deny: 5 fields, not {len(fields) + 1}")
    sub, method, name, eft = fields
    _check_subject(sub)
    if not method:
        raise PolicyError("the method is empty; write * for every method")
    if eft not in ("allow", "deny"):
        raise PolicyError(f"the last field is allow or deny, not {eft!r}")
    return Rule(number, line, sub, method, name, eft)


def _grouping(number: int, fields: list[str]) -> Grouping:
    if len(fields) != 2:
        raise PolicyError(f"a grouping is g, identity or role, role: 3 fields, not {len(fields) + 1}")
    member, role = fields
    _check_subject(member)
    if not role.startswith(_ROLE) or role == _ROLE:
        raise PolicyError(f"roles are named role:something, not {role!r}")
    return Grouping(number, member, role)


def _check_subject(subject: str) -> None:
    if not subject or subject == _ROLE:
        raise PolicyError("the subject is empty")
    if "*" in subject:
        raise PolicyError(f"a subject is one identity or role, without wildcards: {subject!r}")
    if ":" in subject and not subject.startswith((_ROLE, "spiffe://")):
        raise PolicyError(f"a subject is an identity or role:something, not {subject!r}")


def _refuse_cycles(groupings: Iterable[Grouping], file: str) -> None:
    """A role that contains itself says nothing that was meant; finds it in one pass (Kahn's algorithm)."""
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
            raise PolicyError(f"{file} line {grouping.line}: {grouping.member} would contain itself")
