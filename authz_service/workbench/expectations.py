"""What a policy is expected to answer: YAML or CSV in, expectations with line numbers out. Pure.

YAML is a list of mappings; CSV has a header. The fields are the same:

    subject  method  name                  who asks for what; name may be left out for methods without one
    args                                   arguments: a mapping (CSV: JSON); none if left out
    roles                                  further roles, as a token would give them, with or without `role:`: a list
                                           (CSV: separated by blanks)
    expect                                 allow or deny
    rule                                   number of the line that must decide; 0: no rule decides

What no client could ask is an error: a misspelt method would be denied, as expected, by every policy.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from authz_service.policy import Policy, Ruling
from authz_service.workbench.questions import MUST_NAME, oddity, role_name

__all__ = ["BadExpectations", "Expectation", "Failure", "failures", "read_csv", "read_yaml"]

_FIELDS: Final = ("subject", "method", "name", "args", "roles", "expect", "rule")
_REQUIRED: Final = ("subject", "method", "expect")


class BadExpectations(ValueError):
    """Expectations that cannot be read. Its text is one line; `line` is where, 0 where that is unknown."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


@dataclass(frozen=True, slots=True)
class Expectation:
    """One question and its expected answer."""

    line: int
    subject: str
    method: str
    name: str
    arguments: Mapping[str, Any]
    roles: tuple[str, ...]
    allowed: bool
    rule: int | None
    """Line of the policy that must decide; 0: none; None: any."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that the policy does not meet, and what it answers instead."""

    expectation: Expectation
    ruling: Ruling

    @property
    def verdict_differs(self) -> bool:
        """False where only the deciding rule is another one."""
        return self.ruling.allowed != self.expectation.allowed


def failures(policy: Policy, expectations: Sequence[Expectation]) -> Iterator[Failure]:
    """The expectations that `policy` does not meet, in order."""
    for one in expectations:
        ruling = policy.judge(one.subject, one.method, one.name, one.arguments, one.roles)
        if ruling.allowed != one.allowed or (one.rule is not None and ruling.line != one.rule):
            yield Failure(one, ruling)


def read_yaml(text: str, methods: frozenset[str] = frozenset()) -> tuple[Expectation, ...]:
    """Expectations from YAML: a list, or one under the only key `expectations`. Raises `BadExpectations`.

    `methods` are those of extensions of MCP.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise BadExpectations(line, f"this is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise BadExpectations(0, "this is not YAML: it holds characters that YAML does not allow") from None
    if isinstance(node, yaml.MappingNode) and [key.value for key, _ in node.value] == ["expectations"]:
        node = node.value[0][1]
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        line = node.start_mark.line + 1 if node is not None else 0
        raise BadExpectations(line, "expected a list of expectations, each with subject, method, name and expect")
    return tuple(_read_node(item, methods) for item in node.value)


def read_csv(text: str, methods: frozenset[str] = frozenset()) -> tuple[Expectation, ...]:
    """Expectations from CSV with a header line; lines that start with # are comments. Raises `BadExpectations`.

    `methods` are those of extensions of MCP.
    """
    header: list[str] | None = None
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            (fields,) = csv.reader([line], skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise BadExpectations(number, f"the quotes do not match ({error})") from None
        fields = [field.strip() for field in fields]
        if header is None:
            header = _header(number, fields)
            continue
        if len(fields) > len(header):
            raise BadExpectations(number, f"{len(fields)} fields under a header of {len(header)}")
        cells = {key: value for key, value in zip(header, fields, strict=False) if value}
        found.append(_expectation(number, _typed_cells(number, cells), methods))
    if not found:
        raise BadExpectations(0, "there are no expectations in it")
    return tuple(found)


def _header(number: int, fields: list[str]) -> list[str]:
    for field in fields:
        if field not in _FIELDS:
            raise BadExpectations(number, f"the header has {field!r}; columns are {', '.join(_FIELDS)}")
    if len(set(fields)) != len(fields):
        raise BadExpectations(number, "the header names a column twice")
    for field in _REQUIRED:
        if field not in fields:
            raise BadExpectations(number, f"the header lacks {field}")
    return fields


def _typed_cells(number: int, cells: Mapping[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = dict(cells)
    if "args" in cells:
        try:
            typed["args"] = json.loads(cells["args"])
        except (ValueError, RecursionError):
            raise BadExpectations(number, "args is not JSON; double its quotes inside CSV quotes") from None
    if "roles" in cells:
        typed["roles"] = cells["roles"].split()
    if "rule" in cells:
        if not cells["rule"].isdecimal():
            raise BadExpectations(number, f"rule is the number of a line, not {cells['rule']!r}")
        typed["rule"] = int(cells["rule"])
    return typed


def _read_node(node: yaml.Node, methods: frozenset[str]) -> Expectation:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise BadExpectations(line, "an expectation is a mapping with subject, method, name and expect")
    loader = yaml.SafeLoader("")
    fields: dict[str, Any] = {}
    for key, value in node.value:
        where = key.start_mark.line + 1
        if key.value not in _FIELDS:
            raise BadExpectations(where, f"unknown field {key.value!r}; fields are {', '.join(_FIELDS)}")
        if key.value in fields:
            raise BadExpectations(where, f"{key.value} is given twice")
        try:
            fields[key.value] = loader.construct_object(value, deep=True)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise BadExpectations(where, f"{key.value} cannot be read") from None
    return _expectation(line, fields, methods)


def _expectation(line: int, fields: Mapping[str, Any], methods: frozenset[str]) -> Expectation:
    for field in _REQUIRED:
        if field not in fields:
            raise BadExpectations(line, f"{field} is missing")
    for field in ("subject", "method", "name", "expect"):
        if not isinstance(fields.get(field, ""), str):
            raise BadExpectations(line, f"{field} is a text, not {fields[field]!r}; put it in quotes")
    if not fields["subject"] or not fields["method"]:
        raise BadExpectations(line, "subject and method must not be empty")
    if fields["expect"] not in ("allow", "deny"):
        raise BadExpectations(line, f"expect is allow or deny, not {fields['expect']!r}")
    arguments = fields.get("args", {})
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise BadExpectations(line, "args is a mapping of argument names to values")
    if not _is_json(arguments):
        raise BadExpectations(line, "args holds a value that JSON does not have; put dates in quotes")
    rule = fields.get("rule")
    if rule is not None and (isinstance(rule, bool) or not isinstance(rule, int) or rule < 0):
        raise BadExpectations(line, f"rule is the number of a line, not {rule!r}")
    roles = _roles(line, fields.get("roles", []))
    method, name = fields["method"], fields.get("name")
    _check_asked(line, method, name, methods)
    return Expectation(line, fields["subject"], method, name or "", arguments, roles, fields["expect"] == "allow", rule)


def _check_asked(line: int, method: str, name: str | None, methods: frozenset[str]) -> None:
    if odd := oddity(method, name or "", methods):
        raise BadExpectations(line, odd)
    if name is None and method in MUST_NAME:
        raise BadExpectations(line, f"name is missing: {method} always names something")


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _roles(line: int, roles: Any) -> tuple[str, ...]:
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise BadExpectations(line, "roles is a list of names like reader or role:reader")
    try:
        return tuple(dict.fromkeys(map(role_name, roles)))
    except ValueError as error:
        raise BadExpectations(line, f"roles has {error}") from None
