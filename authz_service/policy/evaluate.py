"""Casbin's own expression class, over trees that are parsed once."""

import ast
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from casbin.util import SimpleEval

__all__ = ["evaluate"]


class _Evaluators(threading.local):
    """One for each thread, because it holds what it evaluates."""

    def __init__(self) -> None:
        self.one = SimpleEval("None", {})


_EVALUATORS: Final = _Evaluators()
_NOTHING: Final[dict[str, Any]] = {}


def evaluate(tree: ast.expr, names: object, functions: Mapping[str, Callable[..., Any]]) -> Any:
    """The value of `tree`; raises what Casbin, simpleeval and the functions raise. `names` must not be empty."""
    evaluator = _EVALUATORS.one
    evaluator.ast_parsed_value = tree
    evaluator.functions = functions
    try:
        return evaluator.eval(names)
    finally:
        evaluator.names = _NOTHING  # the arguments of a request are not kept
