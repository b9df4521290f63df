"""Patterns of methods and names: `*` stands for any characters, also none. Pure."""

import re
from typing import Final

__all__ = ["covers", "expandable", "overlap", "wildcard"]

_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")


def wildcard(text: str, pattern: str) -> bool:
    """Whether `text` is `pattern`, where `*` stands for any characters, also none. Linear in time, unlike a regex."""
    if "*" not in pattern:
        return text == pattern
    head, *middle, tail = pattern.split("*")
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    position, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def covers(wide: str, narrow: str) -> bool:
    """Whether every text that matches the pattern `narrow` matches the pattern `wide` too.

    A star of `narrow` can be anything, so only a star of `wide` may stand over it: as if it were a character.
    """
    return wildcard(narrow, wide)


def overlap(one: str, other: str) -> bool:
    """Whether some text may match both patterns; of two with stars only the fixed ends are compared."""
    if "*" not in one:
        return wildcard(one, other)
    if "*" not in other:
        return wildcard(other, one)
    (head_1, tail_1), (head_2, tail_2) = _ends(one), _ends(other)
    heads = head_1.startswith(head_2) or head_2.startswith(head_1)
    return heads and (tail_1.endswith(tail_2) or tail_2.endswith(tail_1))


def expandable(template: str) -> str:
    """The pattern of what a URI template (RFC 6570) can become: each `{…}` may be anything."""
    return _EXPRESSION.sub("*", template)


def _ends(pattern: str) -> tuple[str, str]:
    return pattern[: pattern.index("*")], pattern[pattern.rindex("*") + 1 :]
