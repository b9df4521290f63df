"""What changed between an approved definition and the one a server offers now, and how much that matters. Pure.

`classify` finds every change of the JSON value; what no rule knows is at
least compatible, and what a schema keyword does that no rule knows is
suspicious.
"""

from collections.abc import Mapping
from typing import Any, Final

from mcp_bridge.protect.definitions import Kind, canonical, strings_in
from mcp_bridge.protect.findings import Finding, Severity, argument_added, safe, text_changed, title_changed
from mcp_bridge.protect.schemas import compare_schema
from mcp_bridge.protect.texts import adds_prose, new_flags

__all__ = ["classify", "warnings_of"]


_MAX_FINDINGS: Final = 50
_FLAG_TEXTS: Final = {
    "hidden_characters": "has characters that people do not see",
    "instructions": "speaks to the model: {}",
    "new_url": "names an address that was not there: {}",
    "new_email": "names an e-mail address that was not there: {}",
}
_HINTS: Final = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
"""MCP, ToolAnnotations: each hint and what its absence means."""


def classify(kind: Kind, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Finding]:
    """All findings, the worst first; none only for equal values. None is a definition that is not there."""
    if old is None:
        return [] if new is None else [_ADDED, *warnings_of(new)]
    if new is None:
        return [Finding(Severity.BREAKING, "removed", "", "the server no longer offers it")]
    if canonical(old) == canonical(new):
        return []
    return _Comparison(kind, old, new).findings()


def warnings_of(definition: Mapping[str, Any]) -> list[Finding]:
    """What to look at before a definition is approved for the first time."""
    flags = new_flags([], strings_in({key: one for key, one in definition.items() if key != "icons"}))
    return [
        Finding(Severity.SUSPICIOUS, code, "", _FLAG_TEXTS[code].format(safe(detail)))
        for code, detail in flags
        if code in ("hidden_characters", "instructions")
    ][:_MAX_FINDINGS]


_ADDED: Final = Finding(Severity.ADDED, "added", "", "is not in the lock")


class _Comparison:
    def __init__(self, kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._kind, self._old, self._new = kind, old, new
        self._found: list[Finding] = []

    def findings(self) -> list[Finding]:
        for key in sorted({*self._old, *self._new}):
            before, after = self._old.get(key), self._new.get(key)
            if (key in self._old) != (key in self._new) or canonical(before) != canonical(after):
                self._member(key, before, after)
        self._flags()
        if not self._found:  # a change that no rule met: never nothing
            self._report(Severity.COMPATIBLE, "changed", "", "changed in a way that has no name here")
        unique = dict.fromkeys(self._found)
        return sorted(unique, key=lambda one: -one.severity)[:_MAX_FINDINGS]

    def _report(self, severity: Severity, code: str, path: str, text: str) -> None:
        self._found.append(Finding(severity, code, safe(path), text))

    def _flags(self) -> None:
        """What any new text brings along, wherever it stands; icons apart, which have a rule of their own."""
        old, new = ({key: one for key, one in side.items() if key != "icons"} for side in (self._old, self._new))
        for code, detail in new_flags(strings_in(old), strings_in(new)):
            self._report(Severity.SUSPICIOUS, code, "", _FLAG_TEXTS[code].format(safe(detail)))
        # `_meta` is for programs, and changes with builds.
        if adds_prose(*({key: one for key, one in side.items() if key != "_meta"} for side in (old, new))):
            self._report(Severity.SUSPICIOUS, "text_added", "", "says something to the model that was not there")

    def _member(self, key: str, before: Any, after: Any) -> None:
        match key:
            case "description":
                text_changed(self._report, key, before, after)
            case "title":
                title_changed(self._report, key, before, after)
            case "icons":
                self._icons(before, after)
            case "annotations" if self._kind == "tools":
                self._annotations(_object(before), _object(after))
            case "inputSchema":
                compare_schema(self._report, key, _schema(before), _schema(after), output=False)
            case "outputSchema":
                self._output_schema(key, before, after)
            case "arguments" if self._kind == "prompts":
                self._prompt_arguments(before, after)
            case "execution" | "mimeType" | "uriTemplate" | "name":
                self._report(Severity.BREAKING, f"{key}_changed", key, "changed")
            case "_meta":
                self._report(Severity.COSMETIC, "meta_changed", key, "changed")
            case _:
                self._report(Severity.COMPATIBLE, "member_changed", key, "changed")

    def _output_schema(self, key: str, before: Any, after: Any) -> None:
        if after is None:
            self._output_schema_removed(key, before)
        elif before is None:
            self._report(Severity.COMPATIBLE, "output_schema_added", key, "results are described now")
        else:
            compare_schema(self._report, key, _schema(before), _schema(after), output=True)

    def _output_schema_removed(self, key: str, before: Any) -> None:
        """Versions before 2026-07-28 have output schemas of objects only: the bridge itself takes others away there."""
        if isinstance(before, dict) and before.get("type") == "object":
            self._report(Severity.SUSPICIOUS, "output_schema_removed", key, "results are no longer described")
        else:
            self._report(Severity.COMPATIBLE, "output_schema_removed", key, "is not told to callers of this version")

    def _icons(self, before: Any, after: Any) -> None:
        if new := _origins(after) - _origins(before):
            self._report(Severity.SUSPICIOUS, "icon_origin", "icons", f"come from elsewhere now: {safe(min(new))}")
        else:
            self._report(Severity.COSMETIC, "icons_changed", "icons", "changed")

    def _annotations(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for key in sorted({*before, *after}):
            old, new = before.get(key), after.get(key)
            if (key in before) == (key in after) and canonical(old) == canonical(new):
                continue
            path = f"annotations.{key}"
            if key not in _HINTS:
                severity = Severity.COSMETIC if key == "title" else Severity.COMPATIBLE
                self._report(severity, "annotation_changed", path, "changed")
            elif _hint(key, old) is not _hint(key, new) or (key == "destructiveHint" and old is True):
                said = f"was {_hint_word(old)} and is {_hint_word(new)} now"
                self._report(Severity.SUSPICIOUS, "hint_flipped", path, said)
            else:
                self._report(Severity.COSMETIC, "hint_explicit", path, "says what its absence means")

    def _prompt_arguments(self, before: Any, after: Any) -> None:
        old, new = _by_name(before), _by_name(after)
        if old is None or new is None:
            self._report(Severity.BREAKING, "arguments_changed", "arguments", "are not of MCP's form")
            return
        known = len(self._found)
        for name in sorted({*old, *new}):
            path = f"arguments.{name}"
            if name not in new:
                self._report(Severity.BREAKING, "argument_removed", path, "is gone")
            elif name not in old:
                argument_added(self._report, path, name, required=new[name].get("required") is True)
            else:
                self._prompt_argument(path, old[name], new[name])
        if len(self._found) == known:
            self._report(Severity.COSMETIC, "arguments_order", "arguments", "only their order or form changed")

    def _prompt_argument(self, path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        was, now = old.get("required") is True, new.get("required") is True
        if now and not was:
            self._report(Severity.BREAKING, "argument_required", path, "is required now")
        elif was and not now:
            self._report(Severity.COMPATIBLE, "argument_optional", path, "is optional now")
        if old.get("description") != new.get("description"):
            text_changed(self._report, f"{path}.description", old.get("description"), new.get("description"))
        for key in {*old, *new} - {"description", "required"}:
            if old.get(key) != new.get(key):
                self._report(Severity.COMPATIBLE, "member_changed", f"{path}.{key}", "changed")


def _hint(key: str, value: Any) -> bool:
    return value if isinstance(value, bool) else _HINTS[key]


def _hint_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "absent"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _schema(value: Any) -> Any:
    return value if isinstance(value, dict | bool) else {}


def _by_name(value: Any) -> dict[str, Mapping[str, Any]] | None:
    if value is None:
        return {}
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in value
    ):
        return None
    named = {one["name"]: one for one in value}
    return named if len(named) == len(value) else None


def _origins(icons: Any) -> set[str]:
    """Schemes and hosts that icons are fetched from."""
    sources = [one.get("src") for one in icons if isinstance(one, dict)] if isinstance(icons, list) else []
    found = set()
    for source in sources:
        scheme, colon, rest = source.partition(":") if isinstance(source, str) else ("", "", "")
        if colon and scheme.lower() != "data":
            found.add(f"{scheme.lower()}://{rest.lstrip('/').partition('/')[0].lower()}")
        elif not colon:
            found.add("a relative address")
    return found
