"""What two patterns with `*` have in common. Pure. See `authz_service.policy.patterns` for what a pattern is."""

from functools import lru_cache
from typing import Final

__all__ = ["common"]

_KEPT: Final = 3


@lru_cache(65_536)
def common(one: str, other: str) -> tuple[str, ...]:
    """Patterns inside both: widest first, three at most, though two patterns can have more in common than that.

    None at all only where nothing matches both.
    """
    below: list[list[tuple[str, ...]]] = []
    for i in range(len(one), -1, -1):
        row: list[tuple[str, ...]] = [()] * (len(other) + 1)
        for j in range(len(other), -1, -1):
            row[j] = _cell(one[i : i + 1], other[j : j + 1], row, below, j)
        below = [row]
    return below[0][0]


def _cell(a: str, b: str, row: list[tuple[str, ...]], below: list[list[tuple[str, ...]]], j: int) -> tuple[str, ...]:
    """What the rests that begin with `a` and `b` have in common ("" at an end)."""
    if not a and not b:
        return ("",)
    found: list[str] = []
    if a == "*":
        found += _prefixed("*" if b == "*" else "", below[0][j] if below else ())
        if b:
            found += _prefixed(b, row[j + 1])
    if b == "*":
        found += row[j + 1]
        if a:
            found += _prefixed(a, below[0][j])
    if a and a == b:
        found += _prefixed(a, below[0][j + 1])
    unique = dict.fromkeys(found)
    return tuple(sorted(unique, key=lambda text: (len(text) - text.count("*"), -text.count("*"), text))[:_KEPT])


def _prefixed(head: str, tails: tuple[str, ...]) -> list[str]:
    return [tail if head == "*" and tail.startswith("*") else head + tail for tail in tails]
