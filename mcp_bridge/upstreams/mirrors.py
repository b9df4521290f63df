"""What 2026-07-28 mirrors of a request into HTTP headers: `Mcp-Method`, `Mcp-Name` and `Mcp-Param-…`.

Streamable HTTP, "Custom Headers": a property of a tool's input schema marked
`x-mcp-header` travels as a header of that name, too. The client before us knows
nothing of the headers here, so the schemas are read as they pass by.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcp_bridge import wire

__all__ = ["HEADER_MISMATCH", "ParamMirrors", "annotated", "header_value", "param_headers"]

HEADER_MISMATCH: Final = -32020
"""2026-07-28: the error of a server that misses a header or finds another value in it."""

Path = tuple[str, ...]

_PLAIN = re.compile(r"[\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_INTEGER = re.compile(r"-?[0-9]+")
_TYPES = ("string", "integer", "boolean")
_KEY = "x-mcp-header"
_MAX_DEPTH = 16
_MAX_TOOLS = 10_000
_MAX_HEADERS = 64
_KNOWN_S = 300.0
_SETTLED_S = 30.0


def header_value(text: str) -> str:
    """`text` as an HTTP field value, base64 in the 2026-07-28 form where plain ASCII would not carry it unchanged."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


def annotated(schema: Any) -> dict[Path, str]:
    """Path of properties → header name for each annotation that the spec allows: none at all if one is wrong."""
    found: dict[Path, str] = {}
    open_: list[tuple[Path, Any]] = [((), schema)]
    while open_:
        path, node = open_.pop()
        if not isinstance(node, dict):
            continue
        if path and _KEY in node:
            name = node[_KEY]
            if not isinstance(name, str) or not _TOKEN.fullmatch(name) or node.get("type") not in _TYPES:
                return {}
            found[path] = name
        properties = node.get("properties")
        if isinstance(properties, dict) and len(path) < _MAX_DEPTH:
            open_ += [((*path, key), value) for key, value in properties.items()]
    names = {name.lower() for name in found.values()}
    return found if len(names) == len(found) <= _MAX_HEADERS else {}


def param_headers(mirrored: Mapping[Path, str], params: bytes) -> dict[str, str]:
    """The headers for a call with `params`; a value that is absent, null or no scalar has none."""
    headers: dict[str, str] = {}
    for path, name in mirrored.items():
        try:
            node = wire.object_of(params)["arguments"]
            for key in path:
                node = wire.object_of(bytes(node))[key]
        except (wire.NotJson, KeyError):
            continue
        if (text := _rendered(bytes(node))) is not None:
            headers[f"mcp-param-{name.lower()}"] = header_value(text)
    return headers


def _rendered(value: bytes) -> str | None:
    """A JSON scalar as the header has it; integers of any size keep their digits."""
    text = value.decode()
    if text in ("true", "false") or _INTEGER.fullmatch(text):
        return text
    if text == "null" or text[:1] in "[{":
        return None
    try:
        return msgspec.json.decode(value, type=str) if text[:1] == '"' else str(float(text))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class _Tool(msgspec.Struct):
    name: str
    input_schema: Raw = msgspec.field(name="inputSchema", default=Raw(b"null"))


class _Page(msgspec.Struct):
    tools: list[_Tool]
    next_cursor: Raw = msgspec.field(name="nextCursor", default=Raw(b"null"))


class ParamMirrors:
    """The annotations of one server's tools, as far as its lists told them; forgotten after some minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._maps: dict[str, dict[Path, str]] = {}
        self._known_until = 0.0
        self._all_known = False
        self.learning = asyncio.Lock()

    def of(self, tool: str) -> Mapping[Path, str] | None:
        """None when it is not known: list the tools first."""
        if self._clock() > self._known_until:
            return None
        return self._maps.get(tool, {} if self._all_known else None)

    def observe(self, result: bytes, *, first_page: bool) -> bytes | None:
        """Take a `tools/list` result; the cursor of the next page, None after the last."""
        try:
            page = msgspec.json.decode(result, type=_Page)
            marked = _KEY.encode() in result
            maps = {one.name: _read(one.input_schema) if marked else {} for one in page.tools}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if first_page or len(self._maps) + len(maps) > _MAX_TOOLS:
            self._maps, self._all_known = {}, False
        self._maps |= maps
        self._known_until = self._clock() + _KNOWN_S
        cursor = bytes(page.next_cursor)
        if cursor != b"null":
            return cursor
        self._all_known = True
        return None

    def settle(self) -> None:
        """What is not known by now, after asking, counts as not annotated for a while."""
        self._known_until = max(self._known_until, self._clock() + _SETTLED_S)
        self._all_known = True

    def forget(self) -> None:
        self._known_until = 0.0


def _read(schema: Raw) -> dict[Path, str]:
    raw = bytes(schema)
    return annotated(msgspec.json.decode(raw)) if _KEY.encode() in raw else {}
