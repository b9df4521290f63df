"""Which of two conditions is certainly the narrower one: where they differ in one number of one comparison. Pure.

Only conjunctions are looked at (a chain like `0 < args.n <= 10` is one). Whether a
comparison with a number can be evaluated does not depend on the number, and what stands
before and after it is the same; so whatever holds under the smaller bound holds under the
larger one, and what counts for a deny because it cannot be evaluated counts under both.
"""

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from authz_service.policy import read_condition

__all__ = ["narrower"]

_UPPER: Final[tuple[type[ast.cmpop], ...]] = (ast.Lt, ast.LtE)
_LOWER: Final[tuple[type[ast.cmpop], ...]] = (ast.Gt, ast.GtE)
Conjunct = tuple[str, float | None]
"""What is the same in both, and the bound: a higher one is the wider one. None where there is no bound."""


def narrower(one: str, other: str) -> bool:
    """Whether `other` certainly holds wherever `one` does, and sometimes else; both are conditions, "" always holds."""
    mine, theirs = _conjuncts(one), _conjuncts(other)
    if len(mine) != len(theirs):
        return False
    differing = [pair for pair in zip(mine, theirs, strict=True) if pair[0] != pair[1]]
    if len(differing) != 1:
        return False
    ((my_shape, my_bound), (their_shape, their_bound)) = differing[0]
    return my_shape == their_shape and my_bound is not None and their_bound is not None and my_bound < their_bound


@lru_cache(4096)
def _conjuncts(condition: str) -> tuple[Conjunct, ...]:
    return tuple(map(_conjunct, _split(read_condition(condition).tree))) if condition else ()


def _split(tree: ast.expr) -> Iterator[ast.expr]:
    match tree:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _split(value)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for op, right in zip(ops, comparators, strict=True):
                yield ast.Compare(left, [op], [right])
                left = right
        case _:
            yield tree


def _conjunct(tree: ast.expr) -> Conjunct:
    match tree:
        case ast.Compare(left=side, ops=[op], comparators=[ast.Constant(value=int() | float() as number)]):
            upper, lower, where = _UPPER, _LOWER, "right"
        case ast.Compare(left=ast.Constant(value=int() | float() as number), ops=[op], comparators=[side]):
            upper, lower, where = _LOWER, _UPPER, "left"
        case _:
            return ast.dump(tree), None
    if isinstance(number, bool) or not isinstance(op, (*upper, *lower)):
        return ast.dump(tree), None
    return f"{ast.dump(side)} {type(op).__name__} {where}", number if isinstance(op, upper) else -number
