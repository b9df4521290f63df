"""Validators: hostile schemas and values cost bounded work; honest ones are judged right."""

from typing import Any

import pytest

from mcp_bridge.protect.bounds import bounds_of
from mcp_bridge.protect.validators import Unusable, Validator, Validators, compile_schema


def doubling(levels: int) -> dict[str, Any]:
    """Each level is applied twice to the same value."""
    parts: dict[str, Any] = {f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": parts | {f"a{levels}": {"type": "string"}}}


def tree(depth: int, key: str = "c") -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {key: value}
    return value


TWICE = {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"c": {"allOf": [{"$ref": "#/$defs/n"}] * 2}}}}}
ANY_JSON = {
    "$ref": "#/$defs/v",
    "$defs": {
        "v": {
            "anyOf": [
                {"type": ["string", "number", "null", "boolean"]},
                {"type": "array", "items": {"$ref": "#/$defs/v"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/v"}},
            ]
        }
    },
}


def nested_unevaluated(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(levels):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


class Untouchable:
    """Stands in for the engine: a bound that holds means that it is not asked at all."""

    def is_valid(self, value: Any) -> bool:
        raise AssertionError("the engine was asked")

    validate = is_valid


@pytest.mark.parametrize(
    ("schema", "value", "rule"),
    [
        (doubling(40), "x", "work"),
        (TWICE, tree(40), "work"),
        ({"properties": {"c": {"$ref": "#"}}}, tree(600), "depth"),
        (nested_unevaluated(16), {"a": 1}, "work"),
        ({"items": {"$ref": "#/$defs/a0"}, "$defs": doubling(12)["$defs"]}, ["x"] * 5000, "work"),
        ({"items": {"pattern": "(?=a)(a+)+$"}}, ["a" * 30] * 5000, "work"),
    ],
    ids=["doubling", "twice-a-level", "deep", "unevaluated", "wide", "backtracking"],
)
def test_work_is_refused_before_it_is_done(schema: Any, value: Any, rule: str) -> None:
    """Issue 4: hostile schemas cannot stall: bounded work. Counted, not timed: the engine is never asked."""
    backtracking = rule == "work" and "(?=" in str(schema)
    fault = Validator(Untouchable(), bounds_of(schema, backtracking=backtracking), 0).fault(value, len(str(value)) + 2)
    assert fault is not None
    assert fault.rule == rule


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "http://127.0.0.1:1/x"}, "outside"),
        ({"$ref": "file:///etc/passwd"}, "outside"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "outside"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "outside"),
        ({"$ref": "#/nope"}, "does not have"),
        ({"$ref": "#"}, "itself"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "itself"),
        ({"$schema": "http://evil.example/schema"}, "JSON Schema"),
        ({"type": "nope"}, "JSON Schema"),
        ({"properties": {"x": {"$id": "http://a/"}}}, "$id"),
        ({"pattern": "["}, "regular expression"),
        ({"pattern": "((((a{100}){100}){100}){100})"}, "regular expression"),
        ({"allOf": [5]}, "neither"),
        (5, "neither"),
        ({"enum": ["x" * 2_000_000]}, "larger"),
        ({"allOf": [{"title": str(number)} for number in range(6000)]}, "parts"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unusable_schema_says_why(schema: Any, why: str) -> None:
    """Issue 4: no remote refs, no file refs, bounded size, depth and recursion; nothing is fetched."""
    with pytest.raises(Unusable, match=why.replace("$", r"\$")):
        Validators().of(schema)


def test_a_deep_schema_is_unusable() -> None:
    """Ours: schemas are at most 128 levels deep."""
    schema: Any = True
    for _ in range(400):
        schema = {"not": schema}
    with pytest.raises(Unusable, match="levels"):
        compile_schema(schema, 10)


@pytest.mark.parametrize(
    ("schema", "value", "good"),
    [
        (ANY_JSON, [1, {"a": ["x", None]}] * 1000, True),
        (ANY_JSON, tree(60), True),
        (TWICE, tree(8), True),
        ({"properties": {"c": {"$ref": "#"}}, "additionalProperties": False}, tree(100), True),
        ({"properties": {"c": {"$ref": "#"}}, "additionalProperties": False}, {"c": {"d": 1}}, False),
        ({"enum": [f"v{number}" for number in range(20_000)]}, "v19999", True),
        ({"enum": [f"v{number}" for number in range(20_000)]}, "w", False),
        ({"items": {"enum": [f"v{number}" for number in range(5000)]}}, ["v1"] * 3000, True),
        ({"pattern": "(a+)+$"}, "a" * 50_000 + "!", False),
        ({"pattern": "^(?!x)y"}, "y", True),
        ({"pattern": "(?=a)(a+)+$"}, "a" * 60 + "!", False),
        ({"type": "integer"}, 10**40, True),
        ({"maximum": 2**53}, 2**53 + 1, False),
        ({"const": 2**70}, 2**70 + 1, False),
        ({"type": "integer"}, 1.0, True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [1], False),
        ({"$anchor": "x", "properties": {"a": {"$ref": "#x"}}, "required": ["b"]}, {"b": 1, "a": {}}, False),
        (True, 1, True),
        (False, 1, False),
        ({"format": "email"}, "no address", True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_honest_schemas_are_judged(schema: Any, value: Any, good: bool) -> None:
    """MCP 2025-11-25, JSON Schema usage: 2020-12 by default, `$schema` otherwise; formats are annotations there."""
    fault = Validators().of(schema).fault(value, len(str(value)))
    assert (fault is None) is good, fault


def test_a_fault_names_place_and_rule_but_never_the_value() -> None:
    """Issue 4: with the JSON path and rule but never the value."""
    schema = {
        "properties": {"to": {"items": {"properties": {"id": {"type": "integer"}}}}, "n": {"maximum": 3}},
        "additionalProperties": False,
        "required": ["to"],
    }
    validator = Validators().of(schema)
    told = [
        str(validator.fault(value, 100))
        for value in ({"to": [{}, {"id": "hunter2"}]}, {"to": [], "n": 31337}, {"to": [], "hunter2": 1}, {"n": 1})
    ]
    assert told == [
        "$.to[1].id: must be of type integer (rule type)",
        "$.n: must be at most 3 (rule maximum)",
        "$: has a member that the schema does not allow (rule additionalProperties)",
        "$: lacks the member to (rule required)",
    ]


def test_equal_schemas_share_a_validator_and_the_cache_is_bounded() -> None:
    """Ours: cached by content; the least recently used go; failures are remembered too."""
    validators = Validators()
    assert validators.of({"type": "string", "title": "x"}) is validators.of({"title": "x", "type": "string"})
    for number in range(2100):
        validators.of({"const": number})
    assert len(validators._known) == 2000
    for _ in range(2):
        with pytest.raises(Unusable):
            validators.of({"$ref": "#"})
