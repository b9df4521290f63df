"""What a server says of one tool, prompt or resource template, and its one canonical form. Pure.

Lists pass through the bridge as raw JSON; here an item is read once, strictly,
so that what is judged is what every reader of it understands.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, cast

from secure_mcp_grpc.calls import Malformed, parse_json_object

__all__ = [
    "KEYS",
    "KINDS",
    "LABELS",
    "LIST_METHODS",
    "Kind",
    "Unreadable",
    "canonical",
    "digest",
    "read_definition",
    "strings_in",
]

Kind = Literal["tools", "prompts", "resourceTemplates"]

KINDS: Final[tuple[Kind, ...]] = ("tools", "prompts", "resourceTemplates")
LIST_METHODS: Final[Mapping[str, Kind]] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/templates/list": "resourceTemplates",
}
KEYS: Final[Mapping[Kind, str]] = {"tools": "name", "prompts": "name", "resourceTemplates": "uriTemplate"}
"""Member that names an item of a kind."""
LABELS: Final[Mapping[Kind, str]] = {"tools": "tool", "prompts": "prompt", "resourceTemplates": "resource template"}

_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 100_000


class Unreadable(ValueError):
    """A definition that readers could understand in different ways, or that is too deep or too large to judge."""


def read_definition(kind: Kind, text: bytes) -> dict[str, Any]:
    """The definition in `text`: keys once, at most 64 deep, valid Unicode, no NaN. Raises `Unreadable`."""
    try:
        definition = parse_json_object(text)
        if not isinstance(definition.get(KEYS[kind]), str):
            raise Unreadable
        _check_size(definition)
        canonical(definition)
    except (Malformed, ValueError, RecursionError):
        raise Unreadable from None
    return definition


def canonical(value: Any) -> bytes:
    """One form for equal values: keys sorted, no spaces, UTF-8. Raises `ValueError` for lone surrogates and NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one


def _check_size(definition: dict[str, Any]) -> None:
    level: list[Any] = [definition]
    values = 0
    for _ in range(_MAX_DEPTH):
        values += len(level)
        if values > _MAX_VALUES:
            break
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return
    raise Unreadable


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else cast("list[Any]", value)
