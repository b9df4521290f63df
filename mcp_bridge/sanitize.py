"""Arguments of a call as they may be written down: secrets replaced, size bounded.

For the interaction records. Pure functions; the work is bounded by the size
asked for, not by the size of the arguments.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["REDACTED", "sanitized"]

REDACTED: Final = "[redacted]"
_SECRET = re.compile(r"password|token|secret|key|authorization|cookie|credential", re.IGNORECASE)
_MAX_DEPTH: Final = 32


def sanitized(arguments: Mapping[str, Any], max_bytes: int) -> str:
    """JSON text of `arguments`, at most `max_bytes` of UTF-8, cut where it is longer.

    The value of any key that speaks of a secret is replaced, at any depth, and
    what lies deeper than 32 levels is left out. "" where there is nothing.
    """
    if not arguments:
        return ""
    pieces: list[str] = []
    room = max_bytes
    for piece in _pieces(arguments, room, 0):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            break
    encoded = "".join(pieces).encode("utf-8", "backslashreplace")
    return encoded[:max_bytes].decode("utf-8", "ignore")


def _pieces(value: Any, max_chars: int, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        yield '"[deep]"'
    elif isinstance(value, Mapping):
        yield "{"
        for index, (key, item) in enumerate(value.items()):
            yield f"{',' if index else ''}{_scalar(key, max_chars)}:"
            if _SECRET.search(key):
                yield f'"{REDACTED}"'
            else:
                yield from _pieces(item, max_chars, depth + 1)
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ","
            yield from _pieces(item, max_chars, depth + 1)
        yield "]"
    else:
        yield _scalar(value, max_chars)


def _scalar(value: Any, max_chars: int) -> str:
    """A string longer than all that may be written is cut before it is encoded."""
    return json.dumps(value[: max_chars + 1] if isinstance(value, str) else value, ensure_ascii=False)
