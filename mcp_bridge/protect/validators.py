"""JSON Schema validators of tools: compiled once for each schema, bounded in work, never fetching anything.

Between the validation guard and jsonschema-rs, which is imported when the
first schema is compiled. MCP 2025-11-25 and 2026-07-28, "JSON Schema usage":
without `$schema` a schema is of 2020-12; drafts 4, 6, 7 and 2019-09 are read
too when it says so.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from mcp_bridge.protect.bounds import Bounds, Unusable, bounds_of, depth_and_bytes
from mcp_bridge.protect.definitions import canonical
from mcp_bridge.protect.findings import safe

__all__ = ["Fault", "Unusable", "Validator", "Validators", "compile_schema"]

_MAX_SCHEMA_BYTES: Final = 1024 * 1024
_MAX_STEPS: Final = 20_000_000
"""Some 100 ms of work at the most."""
_REGEX_BYTES: Final = 256 * 1024
_BACKTRACKS: Final = 1000
_MAX_PATH_CHARS: Final = 200
_MAX_VALIDATORS: Final = 2000
_MAX_CACHED_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a value breaks which rule; `text` quotes nothing of the value."""

    path: str
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class Validator:
    __slots__ = ("_bounds", "_compiled", "size_bytes")

    def __init__(self, compiled: Any, bounds: Bounds, size_bytes: int) -> None:
        self._compiled = compiled
        self._bounds = bounds
        self.size_bytes = size_bytes

    def fault(self, value: Any, size_bytes: int) -> Fault | None:
        """What is wrong with `value`, whose JSON has at most `size_bytes` bytes; None if nothing is."""
        bounds = self._bounds
        if bounds.recursive or size_bytes * bounds.flat > _MAX_STEPS:
            depth, about_bytes = depth_and_bytes(value, size_bytes)
            if bounds.recursive and depth > bounds.max_depth:
                return Fault("$", "depth", f"is nested more than {bounds.max_depth} levels deep (rule depth)")
            if bounds.cost(about_bytes, depth) > _MAX_STEPS:
                return Fault("$", "work", "takes too much work to be checked against the schema (rule work)")
        if self._compiled.is_valid(value):
            return None
        return self._explain(value)

    def _explain(self, value: Any) -> Fault:
        from jsonschema_rs import ValidationError

        try:
            self._compiled.validate(value)
        except ValidationError as error:
            rule = _RULE_NAMES.get(error.kind.name, error.kind.name)
            return Fault(_path(error.instance_path), rule, _sentence(rule, error.kind))
        return Fault("$", "schema", "does not match the schema")


class Validators:
    """At most `_MAX_VALIDATORS` of `_MAX_CACHED_BYTES` of schemas; the least used go. Failures are kept too."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Validator | Unusable] = OrderedDict()
        self._bytes = 0

    def of(self, schema: Any) -> Validator:
        """Raises `Unusable`."""
        try:
            key = canonical(schema)
        except (ValueError, RecursionError):
            raise Unusable("it is not plain JSON") from None
        known = self._known.get(key)
        if known is None:
            known = self._add(key, schema)
        else:
            self._known.move_to_end(key)
        if isinstance(known, Unusable):
            raise Unusable(*known.args)
        return known

    def _add(self, key: bytes, schema: Any) -> Validator | Unusable:
        made: Validator | Unusable
        try:
            made = compile_schema(schema, len(key))
        except Unusable as error:
            made = error.with_traceback(None)
        self._known[key] = made
        self._bytes += len(key)
        while len(self._known) > 1 and (len(self._known) > _MAX_VALIDATORS or self._bytes > _MAX_CACHED_BYTES):
            gone, _ = self._known.popitem(last=False)
            self._bytes -= len(gone)
        return made


def compile_schema(schema: Any, size_bytes: int) -> Validator:
    """Raises `Unusable`. Patterns run in linear time where they can; others within a number of backtracks."""
    import jsonschema_rs

    if not isinstance(schema, dict | bool):
        raise Unusable("it is neither an object nor a boolean")
    if size_bytes > _MAX_SCHEMA_BYTES:
        raise Unusable(f"it is larger than {_MAX_SCHEMA_BYTES} bytes")
    linear = jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES * 4)
    bounds = bounds_of(schema, backtracking=False)
    try:
        return Validator(_compile(schema, linear), bounds, size_bytes)
    except _NotLinear:
        pass
    backtracking = jsonschema_rs.FancyRegexOptions(
        backtrack_limit=_BACKTRACKS, size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES * 4
    )
    bounds = bounds_of(schema, backtracking=True)
    try:
        return Validator(_compile(schema, backtracking), bounds, size_bytes)
    except _NotLinear:
        raise Unusable("a pattern in it is not a regular expression, or too large a one") from None


class _NotLinear(Exception):
    pass


def _compile(schema: Any, patterns: Any) -> Any:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(schema, pattern_options=patterns, validate_formats=False, offline=True)
    except jsonschema_rs.ValidationError as error:
        path = error.instance_path
        if "pattern" in path or "patternProperties" in path:
            raise _NotLinear from None
        if error.kind.name == "referencing":
            raise Unusable("it refers to something that is not in it") from None
        raise Unusable(f"it is not valid JSON Schema at {_path(path)}") from None
    except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError):
        raise Unusable("it is not valid JSON Schema, or of a dialect that is not known here") from None


def _path(steps: list[str | int]) -> str:
    """JSONPath of `steps`, its odd names shortened: a name may be anything."""
    path = "$"
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isascii() and step.replace("_", "a").replace("-", "a").isalnum() and len(step) <= 64:
            path += f".{step}"
        else:
            path += "[?]"
        if len(path) > _MAX_PATH_CHARS:
            return f"{path[:_MAX_PATH_CHARS]}…"
    return path


_RULE_NAMES: Final = {"backtrackLimitExceeded": "pattern", "falseSchema": "false"}
_WHAT: Final = {
    "type": ("must be of type", "types"),
    "required": ("lacks the member", "property"),
    "maximum": ("must be at most", "limit"),
    "minimum": ("must be at least", "limit"),
    "exclusiveMaximum": ("must be less than", "limit"),
    "exclusiveMinimum": ("must be more than", "limit"),
    "maxLength": ("must have at most so many characters:", "limit"),
    "minLength": ("must have at least so many characters:", "limit"),
    "maxItems": ("must have at most so many items:", "limit"),
    "minItems": ("must have at least so many items:", "limit"),
    "multipleOf": ("must be a multiple of", "multiple_of"),
    "format": ("must be of format", "format"),
}
_PLAIN: Final = {
    "additionalProperties": "has a member that the schema does not allow",
    "unevaluatedProperties": "has a member that the schema does not allow",
    "enum": "is not one of the values allowed",
    "const": "is not the value allowed",
    "pattern": "does not match the pattern",
    "anyOf": "matches none of the alternatives",
    "oneOf": "must match exactly one of the alternatives",
}


def _sentence(rule: str, kind: Any) -> str:
    """What the rule asks for, in words of the schema's where they are short."""
    if rule in _WHAT:
        words, member = _WHAT[rule]
        asked = getattr(kind, member, "")
        shown = " or ".join(map(str, asked)) if isinstance(asked, list) else str(asked)
        return f"{words} {safe(shown)} (rule {rule})"
    return f"{_PLAIN.get(rule, 'does not match the schema')} (rule {rule})"
