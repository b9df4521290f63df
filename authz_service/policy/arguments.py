"""The arguments of a call as conditions see them: `args`, typed as JSON is, never coerced.

A value compares only with its own kind: text with text, number with number
(true is no number), true and false with each other; anything else, and a
value that is not there, raises `Unevaluable`. `null` alone may be compared
with every kind. Casbin's expression evaluates over these values with its own
operators; what they do to JSON is said here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from authz_service.policy.patterns import wildcard

__all__ = ["FUNCTIONS", "MAX_SEARCHED", "Arg", "Paths", "Unevaluable"]

MAX_SEARCHED: Final = 65_536
"""Longest text (characters), list or object (entries) that `in`, `lower` and `wildcard` read; a longer one is
`Unevaluable`, so that the work of one condition is bounded."""


class Unevaluable(Exception):
    """The arguments are not what a condition speaks about. Names keys and kinds of values, never values."""


class Arg:
    """One JSON value, of the types that `json.loads` makes. Immutable; shows nothing of itself in logs."""

    __hash__ = None  # type: ignore[assignment] # not a value to keep
    __iter__ = None
    __slots__ = ("_json",)

    def __init__(self, json: Any) -> None:
        self._json = json

    def __repr__(self) -> str:
        return "args"

    def __bool__(self) -> bool:
        raise Unevaluable("a value is not a truth")

    def __getitem__(self, key: str | int) -> "Arg":
        return Arg(_entry(self._json, key))

    def __eq__(self, other: object) -> bool:
        return _equal(self._json, _plain(other))

    def __ne__(self, other: object) -> bool:
        return not _equal(self._json, _plain(other))

    # The four orders say `type(…)` themselves, for speed, before `_ordered` judges what is not plainly the same kind.
    def __lt__(self, other: object) -> bool:
        mine = self._json
        if type(mine) is int and type(other) is int:
            return mine < other
        mine, theirs = _ordered(mine, _plain(other))
        return bool(mine < theirs)

    def __le__(self, other: object) -> bool:
        mine = self._json
        if type(mine) is int and type(other) is int:
            return mine <= other
        mine, theirs = _ordered(mine, _plain(other))
        return bool(mine <= theirs)

    def __gt__(self, other: object) -> bool:
        mine = self._json
        if type(mine) is int and type(other) is int:
            return mine > other
        mine, theirs = _ordered(mine, _plain(other))
        return bool(mine > theirs)

    def __ge__(self, other: object) -> bool:
        mine = self._json
        if type(mine) is int and type(other) is int:
            return mine >= other
        mine, theirs = _ordered(mine, _plain(other))
        return bool(mine >= theirs)

    def __contains__(self, item: object) -> bool:
        json, wanted = self._json, _plain(item)
        _check_length(json)
        if type(json) is list:
            # Every entry is compared: a list with a foreign kind in it is Unevaluable wherever that stands.
            return sum(_equal(entry, wanted) for entry in json) > 0
        if type(wanted) is not str or not isinstance(json, str | dict):
            raise Unevaluable(f"{_kind(wanted)} is looked for in {_kind(json)}")
        return wanted in json


class Paths:
    """`Paths(arguments)[path]` is `Arg(arguments)[path[0]][path[1]]…`, in one step."""

    __slots__ = ("_json",)

    def __init__(self, json: Any) -> None:
        self._json = json

    def __getitem__(self, path: tuple[str | int, ...]) -> Arg:
        json = self._json
        for key in path:
            json = _entry(json, key)
        return Arg(json)


def _entry(json: Any, key: str | int) -> Any:
    if isinstance(key, str):
        if type(json) is not dict:
            raise Unevaluable(f"{key} is looked up in {_kind(json)}")
        if key not in json:
            raise Unevaluable(f"there is no {key}")
        return json[key]
    if type(json) is not list:
        raise Unevaluable(f"entry {key} is looked up in {_kind(json)}")
    if not 0 <= key < len(json):
        raise Unevaluable(f"there is no entry {key}")
    return json[key]


def _length(value: Arg) -> Arg:
    json = value._json
    if not isinstance(json, str | list | dict):
        raise Unevaluable(f"{_kind(json)} has no length")
    return Arg(len(json))


def _lower(value: Arg) -> Arg:
    text = _text(value)
    _check_length(text)
    return Arg(text.lower())


def _starts_with(value: Arg, start: Any) -> bool:
    return _text(value).startswith(_text(start))


def _ends_with(value: Arg, end: Any) -> bool:
    return _text(value).endswith(_text(end))


def _wildcard(value: Arg, pattern: Any) -> bool:
    text = _text(value)
    _check_length(text)
    return wildcard(text, pattern)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "len": _length,
    "lower": _lower,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "wildcard": _wildcard,
}
"""What a condition may call."""


def _plain(value: object) -> Any:
    return value._json if type(value) is Arg else value


def _text(value: object) -> str:
    json = _plain(value)
    if type(json) is not str:
        raise Unevaluable(f"{_kind(json)} is not text")
    return json


def _kind(json: Any) -> str:
    if json is None:
        return "null"
    if isinstance(json, bool):
        return "true or false"
    for types, kind in (((int, float), "a number"), (str, "text"), (list, "a list")):
        if isinstance(json, types):
            return kind
    return "an object"


def _check_length(json: Any) -> None:
    if isinstance(json, str | list | dict) and len(json) > MAX_SEARCHED:
        raise Unevaluable(f"{_kind(json)} is too long to be searched")


def _equal(mine: Any, theirs: Any) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    if type(mine) is bool and type(theirs) is bool:
        return mine is theirs
    mine, theirs = _ordered(mine, theirs)
    return bool(mine == theirs)


def _ordered(mine: Any, theirs: Any) -> tuple[Any, Any]:
    """Both, if they are two texts or two finite numbers."""
    type_1, type_2 = type(mine), type(theirs)
    if type_1 is type_2 and (type_1 is int or type_1 is str):
        return mine, theirs
    if type_1 in (int, float) and type_2 in (int, float):
        # 1e999 is JSON and reads as infinite: who knows what the tool reads.
        if (type_1 is int or math.isfinite(mine)) and (type_2 is int or math.isfinite(theirs)):
            return mine, theirs
        raise Unevaluable("a number is too large")
    raise Unevaluable(f"{_kind(mine)} is compared with {_kind(theirs)}")
