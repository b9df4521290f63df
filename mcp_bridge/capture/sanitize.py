"""JSON values as they may be written down: secrets replaced by keyed hashes, binary content by its size, cut to size.

For the interaction records. The work is bounded by the size asked for, not by
the size of the value. Pure functions of the value, the rules and the key.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.patterns import plainly, replaced
from mcp_bridge.capture.prefix import CUT
from mcp_bridge.capture.quick import quick
from mcp_bridge.capture.rules import Node, Rules, below

__all__ = ["DEEP", "MARGIN_CHARS", "Sanitizer", "blob_mark", "blob_of"]

DEEP: Final = "[deep]"
"""Stands for what lies deeper than 32 levels."""

_MAX_DEPTH: Final = 32
MARGIN_CHARS: Final = 1024
"""How far beyond the room for it a text is searched: a secret that begins before the cut is complete enough there."""
_MAX_INNER_CHARS: Final = 16 * 1024
"""A text that looks like JSON is read as JSON up to this length."""
_MAX_INNER: Final = 2
_MAX_HASHED_BYTES: Final = 1 << 20
_LEAST_CARD: Final = 10**12
_MOST_CARD: Final = 10**19
_TAG: Final = "[redacted:"
_MAX_PAIR: Final = 8
"""Members of an object that is a name and a value."""
_SAYS_NAME: Final = ("name", "key", "header", "field", "option", "variable")
_FLAG: Final = re.compile(r"--?[A-Za-z][\w-]{0,64}")
_NAMES_REMEMBERED: Final = 2048
_SHORT_NAME_CHARS: Final = 64
_DATA_URI = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w=.+-]{1,60}){0,4};base64,")
_BINARY_TYPES: Final = frozenset({"image", "audio"})


class Sanitizer:
    """Writes values as text. What is hidden becomes `[redacted:` and eight hex digits under the key `]`."""

    def __init__(self, rules: Rules, keyed: Keyed) -> None:
        self.rules = rules
        self.keyed = keyed
        self._names: dict[str, tuple[bool, str]] = {}
        self._quick = quick(rules)

    def text(self, value: Any, max_bytes: int, nodes: Sequence[Node] = (), *, is_prefix: bool = False) -> str:
        """JSON text of `value`, at most `max_bytes` of UTF-8; valid JSON exactly where nothing was cut.

        `nodes` are the paths' nodes at `value`; `is_prefix` says that `value` itself is only the beginning of what
        there was. "" for an empty object.
        """
        if value == {} or max_bytes <= 0:
            return ""
        walk = _Walk(self, max_bytes)
        encoded = _encode(walk.value(value, 0, nodes))
        if len(encoded) <= max_bytes and not walk.cut and not is_prefix:
            return encoded.decode()
        return encoded[: min(max_bytes, len(encoded) - 1)].decode("utf-8", "ignore")

    def harmless(self, value: Any, max_bytes: int) -> str | None:
        """What `text` would give, where one look tells that there is nothing to hide and nothing to cut; else None.

        Costs as much as all of `value` is long, and is for values that no path of the rules leads to.
        """
        if self._quick is None or max_bytes <= 0 or value == {}:
            return None
        encoded = _encode(value)
        if len(encoded) > max_bytes:
            return None
        written = encoded.decode()
        return written if self._quick.is_harmless(written) else None

    def beginning(self, text: str, max_chars: int) -> str:
        """The first `max_chars` of a text without what the patterns find; for what is not JSON at all."""
        return self.plain(text[: max_chars + 2 * MARGIN_CHARS])[:-MARGIN_CHARS][:max_chars]

    def plain(self, text: str) -> str:
        """`text` with what the patterns find replaced.

        Where they find more in a text whose look-alikes are plain and whose invisible characters are gone, that is
        what is written.
        """
        written = replaced(text, self.rules.patterns, self.tag)
        if text.isascii():
            return written
        folded = plainly(text)
        if folded == text:
            return written
        found = replaced(folded, self.rules.patterns, self.tag)
        return written if found in (folded, plainly(written)) else found

    def tag(self, secret: str) -> str:
        return f"{_TAG}{self.keyed.tag(secret.encode('utf-8', 'surrogatepass'))}]"

    def name(self, name: str) -> tuple[bool, str]:
        """Whether the value of a member called `name` is hidden, and how the name itself is written."""
        known = self._names.get(name)
        if known is None:
            written = self.plain(name) if len(name) > 5 else name
            known = (self.rules.hides_name(name), written)
            if len(name) <= _SHORT_NAME_CHARS:
                if len(self._names) >= _NAMES_REMEMBERED:
                    self._names.clear()
                self._names[name] = known
        return known


class _Walk:
    """One value on its way to text. `room` counts down at most what is written: below 0, the text is too long."""

    def __init__(self, sanitizer: Sanitizer, max_chars: int) -> None:
        self._sanitizer = sanitizer
        self._room = max_chars
        self._inner = 0
        self._hidden = 0
        self.cut = False

    def value(self, value: Any, depth: int, nodes: Sequence[Node] = ()) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if type(value) is dict or isinstance(value, Mapping):
            return self._members(value, depth, nodes) if depth <= _MAX_DEPTH else self._mark(DEEP)
        if isinstance(value, list | tuple):
            return self._items(value, depth, nodes) if depth <= _MAX_DEPTH else self._mark(DEEP)
        self._room -= 1
        if type(value) in (int, float) and _LEAST_CARD <= abs(value) < _MOST_CARD:
            return self._card(value)
        return value

    def _members(self, value: Mapping[str, Any], depth: int, nodes: Sequence[Node]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        self._room -= 2
        hidden = self._value_of_a_pair(value) if len(value) <= _MAX_PAIR else None
        for key, item in value.items():
            if self._room < 0:
                self.cut = True
                break
            hides, name = self._sanitizer.name(key) if len(key) <= self._room else self._long_name(key)
            self._room -= len(name) + 3
            under = below(nodes, key) if nodes else ()
            if hides or key == hidden or any(node.hides for node in under):
                written[name] = self._hide(item)
            elif isinstance(item, str) and (blob := blob_of(key, item, value)) is not None:
                written[name] = self._mark(blob_mark(blob))
            else:
                written[name] = self.value(item, depth + 1, under)
        return written

    def _items(self, value: Sequence[Any], depth: int, nodes: Sequence[Node]) -> list[Any]:
        written: list[Any] = []
        self._room -= 2
        before: Any = None
        for index, item in enumerate(value):
            if self._room < 0:
                self.cut = True
                break
            under = below(nodes, str(index)) if nodes else ()
            hides = self._is_named(before, item, len(value)) or any(node.hides for node in under)
            before = item
            written.append(self._hide(item) if hides else self.value(item, depth + 1, under))
        return written

    def _value_of_a_pair(self, value: Mapping[str, Any]) -> str | None:
        """`value` where the object is the name of a secret and its value, as in lists of headers and variables."""
        for key in _SAYS_NAME if "value" in value else ():
            name = value.get(key)
            if isinstance(name, str) and len(name) <= _SHORT_NAME_CHARS and self._sanitizer.name(name)[0]:
                return "value"
        return None

    def _is_named(self, before: Any, item: Any, size: int) -> bool:
        """Whether `before` names `item` as a secret: `["--token", "…"]` in a command, `["Authorization", "…"]`."""
        if not isinstance(before, str) or len(before) > _SHORT_NAME_CHARS or not isinstance(item, str):
            return False
        if _FLAG.fullmatch(before) is None and (size != 2 or " " in before):
            return False
        return self._sanitizer.name(before)[0]

    def _text(self, value: str) -> str:
        if len(value) < 6:
            self._room -= len(value) + 2
            return value
        if value.startswith("data:") and (match := _DATA_URI.match(value)):
            return self._mark(self._sanitizer.plain(value[: match.end()]) + blob_mark(value[match.end() :]))
        limit = max(0, self._room) + MARGIN_CHARS
        cut = len(value) > limit or value.endswith(CUT)
        if cut:
            self.cut = True
            value = value.removesuffix(CUT)[:limit]
        elif value.lstrip()[:1] in ("{", "[") and len(value) <= _MAX_INNER_CHARS and self._inner < _MAX_INNER:
            value = self._inner_json(value)
        written = self._sanitizer.plain(value)
        if written != value:
            self._hidden += 1
        if cut:
            # A secret that goes on beyond the end of what was searched may not have been found.
            written = written[:-MARGIN_CHARS][: max(0, self._room)]
        self._room -= len(written) + 2
        return written

    def _inner_json(self, text: str) -> str:
        """`text` as it was where there is nothing to hide; written anew otherwise, by the rules for names too."""
        value = _decode(text)
        if value is None:
            return text
        room, hidden = self._room, self._hidden
        self._inner += 1
        written = self.value(value, 0)
        self._inner -= 1
        self._room = room
        return text if hidden == self._hidden else _encode(written).decode()

    def _hide(self, value: Any) -> str:
        self._hidden += 1
        return self._mark(self._sanitizer.tag(value if isinstance(value, str) else _bounded(value)))

    def _card(self, value: float) -> Any:
        text = str(abs(int(value)))
        written = self._sanitizer.plain(text)
        if written == text:
            return value
        self._hidden += 1
        return self._mark(written)

    def _long_name(self, name: str) -> tuple[bool, str]:
        self.cut = True
        name = name[: max(0, self._room) + MARGIN_CHARS]
        hides, written = self._sanitizer.name(name)
        return hides, written[: max(0, self._room)]

    def _mark(self, mark: str) -> str:
        self._room -= len(mark) + 2
        return mark


def blob_of(key: str, value: str, beside: Mapping[str, Any]) -> str | None:
    """The base64 of an image, an audio clip or a resource's blob: MCP, "Tool result" and "Resource contents"."""
    if (key == "data" and beside.get("type") in _BINARY_TYPES) or (key == "blob" and "uri" in beside):
        return value
    return None


def blob_mark(text: str) -> str:
    """`[n bytes sha256:…]` for the bytes that the base64 `text` stands for; the hash covers a mebibyte at most."""
    if text.endswith(CUT):
        return "[binary]"
    padding = 2 if text.endswith("==") else 1 if text.endswith("=") else 0
    size = max(0, len(text) * 3 // 4 - padding)
    try:
        raw = base64.b64decode(text[: _MAX_HASHED_BYTES // 3 * 4], validate=True)
    except (binascii.Error, ValueError):
        return f"[{len(text)} bytes]"
    kind = "sha256" if len(raw) == size else "sha256-of-first-mebibyte"
    return f"[{size} bytes {kind}:{hashlib.sha256(raw).hexdigest()[:16]}]"


def _bounded(value: Any) -> str:
    """Text for the hash of a value that is no text: equal values have equal texts."""
    return _encode(value)[:_MAX_HASHED_BYTES].decode("utf-8", "ignore")


def _decode(text: str) -> Any:
    """None where it is no JSON. Lone surrogates, which msgspec refuses, must not keep names from being read."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError, RecursionError):
        return b'"[unreadable]"'
