"""What data went where: digests of the texts and files in arguments and results, and the resources that were named.

A text that tool A gave and that later stands in an argument of tool B has the
same digest in both records, in every sidecar with the same key. Only whole
values are followed: a model that rewords what it read leaves no trace here.
Pure, and bounded in the values looked at.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.sanitize import blob_of

__all__ = ["CARRIES_DATA", "MIN_CHARS", "digests", "may_hold_data", "resource_uris"]

MIN_CHARS: Final = 16
"""Shorter texts are too common to tell anything."""
CARRIES_DATA: Final = frozenset({"tools/call", "resources/read", "prompts/get"})
"""Methods whose results are data; the others tell what there is."""
_MAX_DIGESTS: Final = 32
_MAX_URIS: Final = 16
_MAX_VALUES: Final = 2000
_MAX_INNER_CHARS: Final = 16 * 1024
_LONG: Final = re.compile(rf'"[^"]{{{MIN_CHARS},}}"(?!:)')
"""In compact JSON without escapes: each string of that length that is no name, and perhaps what is between others."""
_NO_DATA: Final = frozenset({"_meta", "annotations", "mimeType", "type", "icons"})


def digests(value: Any, keyed: Keyed) -> list[str]:
    """Keyed digests of the first 32 different texts of at least 16 characters, and files, in `value`."""
    found: dict[str, None] = {}
    for raw in _data(value):
        found[keyed.digest(raw)] = None
        if len(found) >= _MAX_DIGESTS:
            break
    return list(found)


def may_hold_data(plain: str | None) -> bool:
    """Whether `digests` could find something in a value whose JSON is `plain`, as `Sanitizer.harmless` writes it.

    What is harmless holds no files, nor text within text that one must read first. None: not known.
    """
    return plain is None or "\\" in plain or _LONG.search(plain) is not None


def resource_uris(method: str, name: str, result: Any) -> list[str]:
    """The resource that was read, or those whose content or link a result holds; the first 16."""
    found: dict[str, None] = {name: None} if method.startswith("resources/") and name else {}
    if isinstance(result, Mapping):
        for key in ("contents", "content"):
            items = result.get(key)
            for item in items[:_MAX_VALUES] if isinstance(items, list) else ():
                inner = item.get("resource") if isinstance(item, Mapping) else None
                uri = (inner if isinstance(inner, Mapping) else item).get("uri") if isinstance(item, Mapping) else None
                if isinstance(uri, str):
                    found[uri] = None
    return list(found)[:_MAX_URIS]


def _data(value: Any) -> Iterator[bytes]:
    """Texts and files in `value`, in its order; texts that hold JSON give theirs, too."""
    waiting = [iter((value,))]
    visited = 0
    while waiting:
        one = next(waiting[-1], _END)
        visited += 1
        if visited > _MAX_VALUES:
            return
        if one is _END:
            waiting.pop()
        elif isinstance(one, str):
            text = one.strip()
            if len(text) >= MIN_CHARS:
                yield text.encode("utf-8", "surrogatepass")
                if text[0] in "{[" and len(text) <= _MAX_INNER_CHARS and len(waiting) < _MAX_DEPTH:
                    waiting.append(iter((_inner(text),)))
        elif (type(one) is dict or isinstance(one, Mapping)) and len(waiting) < _MAX_DEPTH:
            waiting.append(_members(one))
        elif isinstance(one, list) and len(waiting) < _MAX_DEPTH:
            waiting.append(iter(one))
        elif isinstance(one, bytes):
            yield one


_END: Final = object()
_MAX_DEPTH: Final = 64


def _members(value: Mapping[str, Any]) -> Iterator[Any]:
    for key, item in value.items():
        if key in _NO_DATA:
            continue
        blob = blob_of(key, item, value) if isinstance(item, str) else None
        yield item if blob is None else _decoded(blob)


def _decoded(text: str) -> bytes | str:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text


def _inner(text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None
