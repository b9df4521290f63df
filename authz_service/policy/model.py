"""Reads the Casbin model, and what its matcher asks beyond subject, method, name and condition.

The index answers for a matcher that is a conjunction of

    g(r.sub, p.sub) && wildcard(r.method, p.method) && wildcard(r.name, p.name) && eval(p.cond)

in any order, and of further conjuncts, which Casbin's expression evaluates
for each rule that the index finds. A matcher of another form is refused.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import casbin
import simpleeval  # type: ignore[import-untyped] # has no types
from casbin.model import FunctionMap
from casbin.util.log import disabled_logging

from authz_service.policy.arguments import Unevaluable
from authz_service.policy.evaluate import evaluate
from authz_service.policy.patterns import wildcard
from authz_service.policy.problems import PolicyError

__all__ = ["DENY_OVERRIDES", "Extra", "Model", "casbin_functions", "read_model"]

_REQUEST: Final = ["r_sub", "r_method", "r_name", "r_args"]
_RULE: Final = ["p_sub", "p_method", "p_name", "p_eft", "p_cond"]
DENY_OVERRIDES: Final = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
_CONJUNCTS: Final = {
    "g(r_sub, p_sub)": "g(r.sub, p.sub)",
    "wildcard(r_method, p_method)": "wildcard(r.method, p.method)",
    "wildcard(r_name, p_name)": "wildcard(r.name, p.name)",
    "eval(p_cond)": "eval(p.cond)",
}
_NAMES: Final = frozenset({*_REQUEST, *_RULE} - {"p_cond"}) | {"True", "False", "None"}
_FOREIGN: Final = (ast.Lambda, ast.Await, ast.Yield, ast.NamedExpr, ast.comprehension, ast.Starred, ast.Dict)
_NOT: Final = re.compile(r"!(?!=)")
# What Casbin's operators and functions raise for values that they are not made for.
_EVALUATION_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    re.error,
    simpleeval.InvalidExpression,
    Unevaluable,
)
# What Casbin raises for a text that is no model.
_MODEL_ERRORS: Final = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """A further conjunct, as written."""

    text: str
    tree: ast.expr
    reads_arguments: bool

    def holds(self, names: dict[str, Any], functions: Mapping[str, Callable[..., Any]]) -> bool | None:
        """Whether it is true of a request and a rule (Casbin's names: r_sub …, p_sub …); None if it cannot be told."""
        try:
            result = evaluate(self.tree, names, functions)
        except _EVALUATION_ERRORS:
            return None
        return result if isinstance(result, bool) else None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the index answers for."""

    extras: tuple[Extra, ...] = ()


def read_model(content: bytes, name: str) -> Model:
    """Raises `PolicyError` naming the file `name` and what is not as it must be."""
    disabled_logging()  # Casbin would log every request, and the whole policy
    try:
        return _read(content.decode())
    except UnicodeDecodeError:
        raise PolicyError(f"{name}: the text is not UTF-8") from None
    except _ModelError as error:
        raise PolicyError(f"{name}: {error}") from None
    except _MODEL_ERRORS as error:
        raise PolicyError(f"{name}: Casbin does not accept this model ({type(error).__name__})") from None


def casbin_functions(has_role: Callable[[str, str], bool]) -> dict[str, Callable[..., Any]]:
    """What a further conjunct may call: Casbin's own functions, `wildcard` and `g`."""
    return {**FunctionMap.load_function_map().get_functions(), "wildcard": wildcard, "g": has_role}


class _ModelError(Exception):
    """What is wrong, as a sentence."""


def _read(text: str) -> Model:
    model = casbin.Enforcer.new_model(text=text)
    for section, keys in model.items():
        if list(keys) != [section]:
            raise _ModelError(f"there must be one definition of {section}, not {', '.join(keys)}")
    if model["r"]["r"].tokens != _REQUEST or model["p"]["p"].tokens != _RULE:
        raise _ModelError(
            "a request must be `sub, method, name, args` and a policy rule `sub, method, name, eft, cond`"
        )
    if model["e"]["e"].value != DENY_OVERRIDES:
        raise _ModelError("the policy effect must be `some(where (p.eft == allow)) && !some(where (p.eft == deny))`")
    if [token.strip() for token in model["g"]["g"].tokens] != ["_", "_"]:
        raise _ModelError("roles must be defined as `g = _, _`")
    return Model(_extras(model["m"]["m"].value))


def _extras(matcher: str) -> tuple[Extra, ...]:
    text = _NOT.sub("not ", matcher.replace("&&", " and ").replace("||", " or "))
    try:
        conjuncts = _conjuncts(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        raise _ModelError("the matcher is not an expression") from None
    wanted = {ast.dump(ast.parse(conjunct, mode="eval").body): shown for conjunct, shown in _CONJUNCTS.items()}
    extras = [conjunct for conjunct in conjuncts if ast.dump(conjunct) not in wanted]
    missing = set(wanted) - {ast.dump(conjunct) for conjunct in conjuncts}
    if missing:
        shown = next(wanted[dump] for dump in wanted if dump in missing)
        raise _ModelError(f"the matcher must be a conjunction (&&) with {shown} in it")
    return tuple(map(_extra, extras))


def _conjuncts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [conjunct for value in node.values for conjunct in _conjuncts(value)]
    return [node]


def _extra(tree: ast.expr) -> Extra:
    text = ast.unparse(tree)
    known = casbin_functions(str.__eq__)
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for function in called:
        if not isinstance(function, ast.Name) or function.id not in known:
            raise _ModelError(f"the matcher calls {ast.unparse(function)}, which does not exist")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in called}
    if unknown := sorted(names - _NAMES):
        raise _ModelError(f"the matcher speaks of {unknown[0]}, which does not exist")
    if any(isinstance(node, _FOREIGN) for node in ast.walk(tree)):
        raise _ModelError(f"Casbin cannot evaluate {text}")
    return Extra(text, tree, "r_args" in names)
