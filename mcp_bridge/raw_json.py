"""JSON objects whose keys are read strictly and whose values are left as the bytes they are.

msgspec alone is fast and takes three things amiss here: of two equal keys it
takes the last in silence, it refuses lone surrogate escapes (`"\\ud800"`, which
RFC 8259 allows and some servers send), and it does not look at the UTF-8 of a
value it skips. Pure functions.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw

__all__ = ["NotJson", "check_utf8", "members"]

_decode: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_KEY: Final = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89a-bA-B][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F]..|.)")
_PLAIN_ESCAPE: Final = rb"\u0020"


class NotJson(ValueError):
    """What should have been a JSON object of JSON-RPC is not one."""


def members(text: bytes) -> dict[str, Raw]:
    """The members of the object `text`, values byte for byte, lone surrogate escapes included.

    Raises `NotJson` for anything else, for a key that stands twice, keys that
    differ in case only, and a lone surrogate in a key: parsers disagree on these.
    """
    try:
        values = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _with_lone_surrogates(text)
    _walk(text, values)
    return values


def check_utf8(text: bytes) -> None:
    """Raises `NotJson` for bytes that no JSON text may hold (RFC 8259, section 8.1)."""
    try:
        if not text.isascii():
            text.decode()
    except UnicodeDecodeError:
        raise NotJson from None


def _walk(text: bytes, values: dict[str, Raw]) -> list[tuple[int, int]]:
    """Where each value of the object `text` stands. Raises `NotJson` unless each key stands once, whatever its case.

    `values` is msgspec's reading. Its order is that of the keys' first places,
    its values are those of their last: each must be found where the one
    before ends, and the object must end with the text. That holds without
    looking into one value, the longest, too. Were its key there twice, the walk
    would go on inside one of the two, where quotes and braces cannot come out
    even by the end.
    """
    if len({key.casefold() for key in values}) != len(values):
        raise NotJson
    sizes = [memoryview(value).nbytes for value in values.values()]
    longest = sizes.index(max(sizes)) if sizes else 0
    position = _after(b"{", text, 0)
    places = []
    for number, (key, value) in enumerate(values.items()):
        if number:
            position = _after(b",", text, position)
        start = _after_key(key, text, position)
        position = start + sizes[number]
        if number != longest and not text.startswith(bytes(value), start):
            raise NotJson
        places.append((start, position))
    if _SPACE.fullmatch(text, _after(b"}", text, position)) is None:
        raise NotJson
    return places


def _after(mark: bytes, text: bytes, position: int) -> int:
    if not text.startswith(mark, position):
        space = _SPACE.match(text, position)
        position = space.end() if space is not None else position
        if not text.startswith(mark, position):
            raise NotJson
    return position + 1


def _after_key(key: str, text: bytes, position: int) -> int:
    """Where the value of `key` starts; the common way of writing first."""
    plain = b'"%b":' % key.encode()
    if text.startswith(plain, position) and text[position + len(plain)] not in b" \t\r\n":
        return position + len(plain)
    match = _KEY.match(text, position)
    if match is None or msgspec.json.decode(match[1], type=str) != key:
        raise NotJson
    return match.end()


def _with_lone_surrogates(text: bytes) -> dict[str, Raw]:
    """`members` by way of a shadow: each lone surrogate escape is another escape of the same length in it."""
    shadow = _ESCAPE.sub(lambda match: _PLAIN_ESCAPE if _is_lone(match[0]) else match[0], text)
    try:
        values = _decode(shadow)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotJson from None
    places = _walk(shadow, values)
    position = 0
    for start, end in places:
        if shadow[position:start] != text[position:start]:
            raise NotJson  # a key holds one
        position = end
    return {key: Raw(text[start:end]) for key, (start, end) in zip(values, places, strict=True)}


def _is_lone(escape: bytes) -> bool:
    return len(escape) == 6 and escape[1:2] == b"u"
