"""Conditions on arguments: the fifth field of a rule, read into an expression that Casbin evaluates. Pure.

    args.limit <= 100
    args.table in ["orders", "customers"] and not args.force
    starts_with(args.path, "/srv/") and ".." not in args.path
    "where" in args and len(args.where) < 10 or args.rows[0].id != null

A condition speaks about `args`, the call's arguments: `args.key`, `args["key"]`
and `args.list[0]` look into the JSON and nothing else. It has texts, numbers,
`true`, `false` and `null` (or True, False, None), comparisons (`== != < <= >
>=`, chained too), `in` and `not in` (a list of literals, a list, text or
object of the arguments), `and`, `or`, `not` (or `&&`, `||`, `!`), and the
functions `len(x)`, `lower(x)`, `starts_with(x, y)`, `ends_with(x, y)` and
`wildcard(x, "pat*tern")`. Nothing else exists: no arithmetic, no methods.

Values are not coerced (see `arguments`). **A condition that cannot be
evaluated, because an argument is missing or of another kind, makes its rule
count for refusal: a rule that allows does not match, a rule that denies does.**
`and` and `or` stop early, so `"x" in args and args.x > 1` can always be evaluated.
"""

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_service.policy.arguments import FUNCTIONS, Paths
from authz_service.policy.evaluate import evaluate

__all__ = ["ARGUMENTS", "CASBIN_FUNCTIONS", "MAX_CONDITION_CHARS", "Condition", "ConditionError", "read_condition"]

MAX_CONDITION_CHARS: Final = 500
_MAX_PARTS: Final = 100
ARGUMENTS: Final = "r_args"
"""Casbin's name for the request's arguments."""
CASBIN_FUNCTIONS: Final = {f"arg_{name}": function for name, function in FUNCTIONS.items()}
"""What an enforcer needs (`add_function`) to evaluate `Condition.casbin`."""

Path = tuple[str | int, ...]

_TESTS: Final[Mapping[str, int]] = {"starts_with": 2, "ends_with": 2, "wildcard": 2}
_VALUES: Final[Mapping[str, int]] = {"len": 1, "lower": 1}
_JSON_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}
_COMPARISONS: Final = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_QUOTED: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""")
_CASBIN_WORDS: Final = (("&&", " and "), ("||", " or "))
_NOT: Final = re.compile(r"!(?!=)")
# Casbin rewrites `!`, `&&`, `||`, `r.`, `p.` and `eval(` in the text of an expression, in its strings too.
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9_ -]")
_SIGNS: Final[Mapping[type[ast.cmpop], str]] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}


class ConditionError(ValueError):
    """A text that is no condition. Its text is a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A condition, read and checked."""

    text: str
    """As written."""
    paths: tuple[Path, ...]
    """What it reads of the arguments, e.g. ("rows", 0, "id")."""
    tree: ast.expr
    """What Casbin evaluates, of the request's `r_args`."""
    _quick: ast.expr
    """The same with each path as one name, of which `Paths` knows the value."""

    @property
    def casbin(self) -> str:
        """The same for a plain Casbin enforcer whose request carries an `Arg` as `args`; see `CASBIN_FUNCTIONS`."""
        return _written(self.tree)

    def holds(self, arguments: Paths) -> bool:
        """Raises `Unevaluable`. About 2 µs for one comparison."""
        return bool(evaluate(self._quick, arguments, CASBIN_FUNCTIONS))


def read_condition(text: str) -> Condition:
    """Raises `ConditionError`."""
    if len(text) > MAX_CONDITION_CHARS:
        raise ConditionError(f"a condition has at most {MAX_CONDITION_CHARS} characters, not {len(text)}")
    try:
        tree = ast.parse(_python(text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConditionError(f"{text!r} is not a condition") from None
    reader = _Reader()
    canonical = reader.test(tree)
    if not reader.paths:
        raise ConditionError("the condition does not speak about args")
    return Condition(text, tuple(dict.fromkeys(reader.paths)), canonical, _quick(canonical))


def _quick(node: ast.expr) -> ast.expr:
    match node:
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(op, list(map(_quick, values)))
        case ast.UnaryOp(op=op, operand=operand):
            return ast.UnaryOp(op, _quick(operand))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return ast.Compare(_quick(left), ops, list(map(_quick, comparators)))
        case ast.Call(func=func, args=args):
            return ast.Call(func, list(map(_quick, args)), [])
        case ast.Name() | ast.Subscript():
            path: list[Any] = []
            while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                path.append(node.slice.value)
                node = node.value
            return ast.Name(tuple(reversed(path)), ast.Load())  # type: ignore[arg-type] # a name is what names[…] knows
    return node


def _python(text: str) -> str:
    """`text` with Casbin's `&&`, `||` and `!` as words, outside of quotes."""
    if not any(sign in text for sign in "&|!"):
        return text
    parts, position = [], 0
    for quoted in _QUOTED.finditer(text):
        parts += [_words(text[position : quoted.start()]), quoted.group()]
        position = quoted.end()
    return "".join([*parts, _words(text[position:])])


def _words(text: str) -> str:
    for sign, word in _CASBIN_WORDS:
        text = text.replace(sign, word)
    return _NOT.sub(" not ", text)


class _Reader:
    """Builds the expression that is evaluated out of the one that was written; what has no rule here is refused."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._parts = 0

    def test(self, node: ast.expr) -> ast.expr:
        """Something that is true or false."""
        self._count()
        match node:
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, [self.test(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ast.UnaryOp(ast.Not(), self.test(operand))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._comparison([left, *comparators], ops)
            case ast.Call(func=ast.Name(id=name)) if name in _TESTS:
                return self._call(node, name, _TESTS[name])
            case ast.Attribute() | ast.Subscript():
                return ast.Compare(self._path(node), [ast.Eq()], [ast.Constant(True)])
        raise ConditionError(f"{_shown(node)} is neither true nor false")

    def _comparison(self, sides: list[ast.expr], ops: list[ast.cmpop]) -> ast.expr:
        read = [self._side(side, index and ops[index - 1]) for index, side in enumerate(sides)]
        for left, op, right in zip(read, ops, read[1:], strict=False):
            if isinstance(left, ast.List) or (_is_literal(left) and _is_literal(right)):
                raise ConditionError("a comparison needs something of args on one side")
            if isinstance(op, ast.In | ast.NotIn):
                if isinstance(right, ast.Constant | ast.UnaryOp):
                    raise ConditionError('write one of several as: args.x in ["a", "b"]')
            elif not isinstance(op, _COMPARISONS):
                raise ConditionError("compare with ==, !=, <, <=, >, >=, in or not in")
            elif isinstance(right, ast.Name) or isinstance(left, ast.Name):
                raise ConditionError("args is an object: compare what is in it")
        return ast.Compare(read[0], ops, read[1:])

    def _side(self, node: ast.expr, op: ast.cmpop | int) -> ast.expr:
        if isinstance(op, ast.In | ast.NotIn):
            if isinstance(node, ast.List | ast.Tuple):
                return _literals(node)
            if isinstance(node, ast.Name) and node.id == "args":
                self.paths.append(())
                return ast.Name(ARGUMENTS, ast.Load())
        return self._value(node)

    def _count(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise ConditionError("the condition has too many parts")

    def _value(self, node: ast.expr) -> ast.expr:
        self._count()
        literal = _literal(node)
        if literal is not None:
            return literal
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _VALUES:
            return self._call(node, node.func.id, _VALUES[node.func.id])
        return self._path(node)

    def _call(self, node: ast.expr, name: str, count: int) -> ast.expr:
        assert isinstance(node, ast.Call)  # noqa: S101 # both callers matched it
        if node.keywords or len(node.args) != count:
            raise ConditionError(f"{name} takes {count} argument{'s' if count > 1 else ''}")
        first, *others = node.args
        if name == "len" and isinstance(first, ast.Name) and first.id == "args":
            self.paths.append(())
            value: ast.expr = ast.Name(ARGUMENTS, ast.Load())
        else:
            value = self._value(first)
        if _is_literal(value):
            raise ConditionError(f"{name} needs something of args")
        rest = [self._value(other) for other in others]
        if any(_is_literal(other) and not _is_text(other) for other in rest):
            raise ConditionError(f"{name} compares with text")
        if name == "wildcard" and not _is_text(rest[0]):
            raise ConditionError("the pattern of wildcard is a text in quotes")
        return ast.Call(ast.Name(f"arg_{name}", ast.Load()), [value, *rest], [])

    def _path(self, node: ast.expr) -> ast.expr:
        steps: list[str | int] = []
        while True:
            self._count()
            match node:
                case ast.Attribute(value=inner, attr=attr):
                    steps.append(attr)
                case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as key)) if _is_key(key):
                    steps.append(key)
                case _:
                    break
            node = inner
        if not steps or not isinstance(node, ast.Name) or node.id != "args":
            raise ConditionError(f"{_shown(node)} is not something that a condition can speak about")
        steps.reverse()
        self.paths.append(tuple(steps))
        value: ast.expr = ast.Name(ARGUMENTS, ast.Load())
        for step in steps:
            value = ast.Subscript(value, ast.Constant(step), ast.Load())
        return value


def _is_key(key: str | int) -> bool:
    return type(key) is str or (type(key) is int and 0 <= key < 2**31)


def _literal(node: ast.expr) -> ast.expr | None:
    match node:
        case ast.Name(id=word) if word in _JSON_WORDS:
            return ast.Constant(_JSON_WORDS[word])
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            type(value) is not bool
        ):
            _check_finite(value)
            return ast.Constant(-value)
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            _check_finite(value)
            return ast.Constant(value)
    return None


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConditionError("a number is too large")


def _literals(node: ast.List | ast.Tuple) -> ast.expr:
    values = [_literal(element) for element in node.elts]
    kinds = {_kind(value) for value in values}
    if not values or len(kinds) > 1 or None in kinds:
        raise ConditionError("a list in a condition holds texts only or numbers only")
    return ast.List([value for value in values if value is not None], ast.Load())


def _kind(node: ast.expr | None) -> type | None:
    if not isinstance(node, ast.Constant) or node.value is None or isinstance(node.value, bool):
        return None
    return str if isinstance(node.value, str) else float


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.List)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _shown(node: ast.expr) -> str:
    try:
        return repr(ast.unparse(node))
    except (RecursionError, ValueError):
        return "this"


def _written(node: ast.expr) -> str:
    """The expression as text that survives Casbin's rewriting: its strings hold no sign that Casbin looks for."""
    match node:
        case ast.BoolOp(op=op, values=values):
            word = " and " if isinstance(op, ast.And) else " or "
            return f"({word.join(map(_written, values))})"
        case ast.UnaryOp(operand=operand):
            return f"(not {_written(operand)})"
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            pairs = (f" {_SIGNS[type(op)]} {_written(side)}" for op, side in zip(ops, comparators, strict=True))
            return f"({_written(left)}{''.join(pairs)})"
        case ast.Call(func=ast.Name(id=name), args=args):
            return f"{name}({', '.join(map(_written, args))})"
        case ast.Subscript(value=value, slice=key):
            return f"{_written(value)}[{_written(key)}]"
        case ast.List(elts=elements):
            return f"[{', '.join(map(_written, elements))}]"
        case ast.Constant(value=str() as text):
            return '"' + _SPECIAL.sub(lambda found: f"\\U{ord(found.group()):08x}", text) + '"'
        case ast.Constant(value=value):
            return repr(value)
    return ARGUMENTS
