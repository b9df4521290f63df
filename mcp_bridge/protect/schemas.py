"""What changed between two JSON schemas, keyword by keyword. Pure.

A schema that lets in more than what was approved is suspicious: it is how a
tool comes to be told what nobody reviewed. One that lets in less is breaking.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp_bridge.protect.definitions import canonical
from mcp_bridge.protect.findings import Report, Severity, argument_added, text_changed, title_changed

__all__ = ["compare_schema"]

_UPPER: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"})
_LOWER: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"})
_ONE_SCHEMA: Final = frozenset({"items", "additionalItems", "contains", "propertyNames"})
_NAMED_SCHEMAS: Final = frozenset({"$defs", "definitions", "patternProperties", "dependentSchemas"})
_CHOICES: Final = frozenset({"anyOf", "oneOf"})
_OPENNESS: Final = frozenset({"additionalProperties", "unevaluatedProperties", "unevaluatedItems"})
_CONSTRAINTS: Final = frozenset({"pattern", "const", "format", "multipleOf", "uniqueItems"})
_UNJUDGED: Final = (Severity.SUSPICIOUS, "schema_changed", "changed in a way that cannot be judged")
_EFFECTS: Final = {
    "default": (Severity.BREAKING, "default_changed", "is another value now"),
    **dict.fromkeys(
        (
            "$ref",
            "$dynamicRef",
            "$recursiveRef",
            "$anchor",
            "$dynamicAnchor",
            "$recursiveAnchor",
            "$id",
            "id",
            "$schema",
            "$vocabulary",
            "allOf",
            "not",
            "if",
            "then",
            "else",
            "prefixItems",
            "dependencies",
            "dependentRequired",
            "contentEncoding",
            "contentMediaType",
            "contentSchema",
            "extends",
            "disallow",
        ),
        _UNJUDGED,
    ),
}
_WIDENED: Final = "lets in more than what was approved"
_NARROWED: Final = "lets in less than before"


def compare_schema(report: Report, path: str, old: Any, new: Any, *, output: bool) -> None:
    """Report every difference. `output`: of results, where what is promised matters rather than what is asked for."""
    if canonical(old) == canonical(new):
        return
    if isinstance(old, bool) or isinstance(new, bool):
        _compare_boolean(report, path, old, new)
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        report(Severity.SUSPICIOUS, "schema_changed", path, "is another schema")
        return
    differences = _Differences(report, output=output)
    for key in sorted({*old, *new}):
        absent = (key in old) != (key in new)
        if absent or canonical(old[key]) != canonical(new[key]):
            differences.keyword(f"{path}.{key}", key, old, new)


def _compare_boolean(report: Report, path: str, old: Any, new: Any) -> None:
    if old is False or (new is True or new == {}):
        same = old is not False and (old is True or old == {})
        severity, text = (Severity.COSMETIC, "is written another way") if same else (Severity.SUSPICIOUS, _WIDENED)
        report(severity, "schema_form" if same else "schema_widened", path, text)
    else:
        report(Severity.BREAKING, "schema_narrowed", path, _NARROWED)


class _Differences:
    def __init__(self, report: Report, *, output: bool) -> None:
        self._report = report
        self._output = output

    def keyword(self, path: str, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        before, after = old.get(key), new.get(key)
        if key in ("description", "title"):
            (text_changed if key == "description" else title_changed)(self._report, path, before, after)
        elif key == "properties":
            self._properties(path, before, after, new)
        elif key in _OPENNESS:
            self._open(path, key, old.get(key, True), new.get(key, True))
        elif key in _ONE_SCHEMA:
            compare_schema(self._report, path, old.get(key, True), new.get(key, True), output=self._output)
        elif key in _UPPER or key in _LOWER:
            self._limit(path, key, before, after)
        elif key in _CONSTRAINTS:
            self._constraint(path, key, after, added=key not in old)
        elif key in _EFFECTS:
            severity, code, text = _EFFECTS[key]
            self._report(severity, code, path, text)
        else:
            self._collection(path, key, before, after)

    def _collection(self, path: str, key: str, before: Any, after: Any) -> None:
        if key == "type":
            self._sets(path, "type", _types(before), _types(after))
        elif key == "enum":
            self._sets(path, "enum", _members(before), _members(after))
        elif key == "required":
            self._required(path, before, after)
        elif key in _NAMED_SCHEMAS:
            self._named(path, before, after, definitions=key in ("$defs", "definitions"))
        elif key in _CHOICES:
            self._choices(path, before, after)
        else:
            self._report(Severity.COMPATIBLE, "note_changed", path, "changed")

    def _widened(self, path: str, code: str) -> None:
        self._report(Severity.SUSPICIOUS, f"{code}_widened", path, _WIDENED)

    def _narrowed(self, path: str, code: str) -> None:
        self._report(Severity.BREAKING, f"{code}_narrowed", path, _NARROWED)

    def _sets(self, path: str, code: str, before: frozenset[Any] | None, after: frozenset[Any] | None) -> None:
        """None is the set of everything."""
        if before == after:
            self._report(Severity.COSMETIC, f"{code}_order", path, "only its order changed")
        elif after is None or (before is not None and before < after):
            self._widened(path, code)
        elif before is None or after < before:
            self._narrowed(path, code)
        elif code == "enum":
            self._widened(path, code)
        else:
            self._report(Severity.BREAKING, f"{code}_changed", path, "is another one now")

    def _properties(self, path: str, before: Any, after: Any, new: Mapping[str, Any]) -> None:
        if not isinstance(before, dict | None) or not isinstance(after, dict | None):
            self._report(Severity.SUSPICIOUS, "schema_changed", path, "changed in a way that cannot be judged")
            return
        before, after = before or {}, after or {}
        required = {one for one in _list(new.get("required")) if isinstance(one, str)}
        for name in sorted({*before, *after}):
            inner = f"{path}.{name}"
            if name in before and name in after:
                compare_schema(self._report, inner, before[name], after[name], output=self._output)
            elif name in before:
                self._report(Severity.BREAKING, "property_removed", inner, "is gone")
            elif self._output:
                self._report(Severity.COMPATIBLE, "property_added", inner, "is new")
            else:
                argument_added(self._report, inner, name, required=name in required)
        if not before and not after:
            self._report(Severity.COSMETIC, "schema_form", path, "is written another way")

    def _required(self, path: str, before: Any, after: Any) -> None:
        was, now = ({one for one in _list(value) if isinstance(one, str)} for value in (before, after))
        added = now - was
        for name in sorted(added):
            if not self._output:
                self._report(Severity.BREAKING, "argument_required", f"{path}.{name}", "is required now")
        for name in sorted(was - now):
            severity = Severity.BREAKING if self._output else Severity.COMPATIBLE
            self._report(severity, "argument_optional", f"{path}.{name}", "is no longer required")
        if was == now:
            self._report(Severity.COSMETIC, "required_order", path, "only its order changed")
        elif self._output and added:
            self._report(Severity.COMPATIBLE, "property_promised", path, "promises more")

    def _open(self, path: str, key: str, before: Any, after: Any) -> None:
        if before is False:
            self._report(Severity.SUSPICIOUS, "schema_opened", path, "lets in members that nobody described")
        elif after is False:
            self._narrowed(path, "schema")
        else:
            compare_schema(self._report, path, before, after, output=self._output)
            if canonical(before) == canonical(after):
                self._report(Severity.COSMETIC, "schema_form", path, f"{key} is written another way")

    def _limit(self, path: str, key: str, before: Any, after: Any) -> None:
        if not _is_number(before) and not _is_number(after):
            self._report(Severity.SUSPICIOUS, "schema_changed", path, "is no number")
        elif before is None:
            self._narrowed(path, "limit")
        elif after is None:
            self._widened(path, "limit")
        elif not _is_number(before) or not _is_number(after):
            self._report(Severity.SUSPICIOUS, "schema_changed", path, "is no number")
        elif before == after:
            self._report(Severity.COSMETIC, "limit_form", path, "is written another way")
        elif (after > before) is (key in _UPPER):
            self._widened(path, "limit")
        else:
            self._narrowed(path, "limit")

    def _constraint(self, path: str, key: str, after: Any, *, added: bool) -> None:
        if added:
            self._narrowed(path, key)
        elif key == "const" and after is not None:
            self._report(Severity.BREAKING, "const_changed", path, "is another value now")
        else:
            self._widened(path, key)

    def _named(self, path: str, before: Any, after: Any, *, definitions: bool) -> None:
        if not isinstance(before, dict | None) or not isinstance(after, dict | None):
            self._report(Severity.SUSPICIOUS, "schema_changed", path, "changed in a way that cannot be judged")
            return
        before, after = before or {}, after or {}
        for name in sorted({*before, *after}):
            inner = f"{path}.{name}"
            if name in before and name in after:
                compare_schema(self._report, inner, before[name], after[name], output=self._output)
            elif definitions:
                self._report(Severity.COMPATIBLE, "definition_changed", inner, "came or went; what refers to it counts")
            else:
                self._report(Severity.SUSPICIOUS, "schema_changed", inner, "changed in a way that cannot be judged")

    def _choices(self, path: str, before: Any, after: Any) -> None:
        old, new = _list(before), _list(after)
        if before is None or after is None:
            (self._narrowed if before is None else self._widened)(path, "choice")
            return
        was, now = _members(old) or frozenset(), _members(new) or frozenset()
        if was == now:
            self._report(Severity.COSMETIC, "choice_order", path, "only its order changed")
        elif len(old) == len(new):
            for index, (one, other) in enumerate(_paired(old, new, was & now)):
                compare_schema(self._report, f"{path}.{index}", one, other, output=self._output)
        elif now < was:
            self._narrowed(path, "choice")
        else:
            self._widened(path, "choice")


def _paired(old: Sequence[Any], new: Sequence[Any], same: frozenset[Any]) -> list[tuple[Any, Any]]:
    """What is in one list only, in order."""
    left, right = ([one for one in side if canonical(one) not in same] for side in (old, new))
    return list(zip(left, right, strict=False)) if len(left) == len(right) else [(False, True)]


def _types(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    found = frozenset(str(one) for one in (value if isinstance(value, list) else [value]))
    return found | {"integer"} if "number" in found else found


def _members(value: Any) -> frozenset[bytes] | None:
    return None if value is None else frozenset(canonical(one) for one in _list(value))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
