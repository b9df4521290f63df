"""JSON objects whose keys are read strictly and whose values are left as the bytes they are.

msgspec alone is fast and takes three things amiss here: of two equal keys it
takes the last in silence, it refuses lone surrogate escapes (`"\\ud800"`, which
RFC 8259 allows and some servers send), and it does not look at the UTF-8 of a
value it skips. Pure functions.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw

__all__ = ["NotJson", "check_keys", "check_utf8", "members"]

_decode: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_KEY: Final = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_START: Final = re.compile(rb"[ \t\r\n]*\{")
_NEXT: Final = re.compile(rb"[ \t\r\n]*([,}])")
_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89a-bA-B][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F]..|.)")
_PLAIN_ESCAPE: Final = rb"\u0020"


class NotJson(ValueError):
    """What should have been a JSON object of JSON-RPC is not one."""


def members(text: bytes) -> dict[str, Raw]:
    """The members of the object `text`, values byte for byte, lone surrogate escapes included.

    Raises `NotJson` for anything else, for a key that stands twice, keys that
    differ in case only, and a lone surrogate in a key: parsers disagree on these.
    """
    shadow = _without_lone_surrogates(text)
    found: dict[str, Raw] = {}
    for key, start, end in _spans(shadow):
        found[key] = Raw(text[start:end])
    if shadow is not text and any("\ud800" <= one <= "\udfff" for key in _keys_as_written(text) for one in key):
        raise NotJson
    return found


def check_keys(text: bytes) -> None:
    """Raises `NotJson` where `members` would; cheaper by the copies."""
    for _ in _spans(_without_lone_surrogates(text)):
        pass


def check_utf8(text: bytes) -> None:
    """Raises `NotJson` for bytes that no JSON text may hold (RFC 8259, section 8.1)."""
    try:
        if not text.isascii():
            text.decode()
    except UnicodeDecodeError:
        raise NotJson from None


def _spans(text: bytes) -> Iterator[tuple[str, int, int]]:
    """Key, start and end of each value of the object `text`.

    Walks the text beside msgspec's reading of it: where a value is not the one
    that msgspec kept for its key, the key stands twice.
    """
    try:
        values = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotJson from None
    if len({key.casefold() for key in values}) != len(values):
        raise NotJson
    seen = 0
    position = _end_of(_START.match(text))
    while (match := _KEY.match(text, position)) is not None:
        key = msgspec.json.decode(match[1], type=str)
        value = bytes(values[key])
        start, position = match.end(), match.end() + len(value)
        if not text.startswith(value, start):
            raise NotJson
        yield key, start, position
        seen += 1
        position = _end_of(_NEXT.match(text, position))
    if seen != len(values):
        raise NotJson


def _end_of(match: re.Match[bytes] | None) -> int:
    if match is None:
        raise NotJson
    return match.end()


def _without_lone_surrogates(text: bytes) -> bytes:
    """`text` with each lone surrogate escape replaced by another escape of the same length; `text` if it has none."""
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    replaced = _ESCAPE.sub(lambda match: _PLAIN_ESCAPE if _is_lone(match[0]) else match[0], text)
    return text if replaced == text else replaced


def _is_lone(escape: bytes) -> bool:
    return len(escape) == 6 and escape[1:2] == b"u"


def _keys_as_written(text: bytes) -> Iterator[str]:
    shadow = _without_lone_surrogates(text)
    position = _end_of(_START.match(text))
    for _, start, end in _spans(shadow):
        match = _KEY.match(text, position)
        if match is None or match.end() != start:
            raise NotJson
        yield json.loads(match[1])
        if (following := _NEXT.match(text, end)) is not None:
            position = following.end()
