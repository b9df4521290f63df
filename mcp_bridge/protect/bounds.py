"""How much work a schema can make, found without doing it. Pure.

A small schema can ask for work that doubles with each of its levels (a
reference used twice, through another, through another …) or with each level of
the value (a tree whose node is judged twice). Time limits would come too late
in a process that serves others, so the work is counted first: `Bounds.cost`
says at most how many steps a value of a size and depth can take.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

__all__ = ["MAX_DEPTH", "Bounds", "Unusable", "bounds_of", "depth_and_bytes"]

_MAX_NODES: Final = 5000
_MAX_COUNTED: Final = 64_000
MAX_DEPTH: Final = 128
"""Of schemas, and of values that a recursive schema judges: it recurses on the stack."""
_BACKTRACKING_WEIGHT: Final = 200
_BIG: Final = 10**15

_IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_IN_PLACE: Final = ("not", "if", "then", "else")
_IN_PLACE_MAPS: Final = ("dependentSchemas", "dependencies")
_EACH_ITEM: Final = ("items", "additionalItems", "contains", "unevaluatedItems")
_EACH_MEMBER: Final = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_DEFINITIONS: Final = ("$defs", "definitions")
_REPEATED: Final = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")


class Unusable(ValueError):
    """A schema that is not used to judge anything; the text is a sentence of ours."""


@dataclass(slots=True)
class _Node:
    weight: int
    in_place: dict[int, int] = field(default_factory=dict)
    """Node → how often it is applied to the same value."""
    members: dict[str, list[int]] = field(default_factory=dict)
    each_member: list[int] = field(default_factory=list)
    each_member_but: list[int] = field(default_factory=list)
    """Applied to members that `members` does not name."""
    each_item: list[int] = field(default_factory=list)


class Bounds:
    """The bound of one schema. What it says of one depth is computed once."""

    def __init__(self, nodes: list[_Node], order: list[int]) -> None:
        self._nodes = nodes
        self._order = order
        self._peaks: list[int] = []
        self.max_depth = max(16, min(MAX_DEPTH, _MAX_COUNTED // len(nodes)))
        """Of values, when `recursive`: for larger ones the work is not known, and it recurses on the stack."""
        self.recursive = self._count_levels()
        """Whether it follows a value deeper than `max_depth`."""
        self.flat = self._peaks[-1]
        """Steps a byte of any value, unless `recursive`."""

    def cost(self, size_bytes: int, depth: int) -> int:
        """The most steps for a value; `depth` is at most `max_depth`."""
        return size_bytes * self._peaks[min(depth, len(self._peaks) - 1)]

    def _count_levels(self) -> bool:
        level: list[int] = []
        for _ in range(self.max_depth + 1):
            below = self._next_level(level)
            self._peaks.append(max(below[0], *self._peaks[-1:], 0))
            if below == level or not any(below):
                return below[0] > 0
            level = below
        return level[0] > 0

    def _next_level(self, above: list[int]) -> list[int]:
        """For each schema: how many steps it makes, at most, on one part so many levels below what it is given.

        A value is an array or an object, so what is done to items and to members does not add up.
        """
        nodes = self._nodes
        items, members = [0] * len(nodes), [0] * len(nodes)
        for index in self._order:  # what a node applies in place comes before it
            node = nodes[index]
            item, member = (node.weight, node.weight) if not above else _below(node, above)
            for inner, times in node.in_place.items():
                item += times * items[inner]
                member += times * members[inner]
            items[index], members[index] = min(item, _BIG), min(member, _BIG)
        return [max(pair) for pair in zip(items, members, strict=True)]


def _below(node: _Node, above: list[int]) -> tuple[int, int]:
    everywhere = sum(above[one] for one in node.each_member)
    unnamed = everywhere + sum(above[one] for one in node.each_member_but)
    named = max((everywhere + sum(above[one] for one in ones) for ones in node.members.values()), default=0)
    return sum(above[one] for one in node.each_item), max(named, unnamed)


def bounds_of(schema: Any, *, backtracking: bool) -> Bounds:
    """Raises `Unusable` for a schema with too many parts, or one that refers to itself for the same value.

    `backtracking`: its patterns run on the engine that tries again and again, within a limit.
    """
    return Bounds(*_Graph(schema, backtracking=backtracking).read())


def depth_and_bytes(value: Any, most: int) -> tuple[int, int]:
    """How deep a JSON value is, and about how many bytes; stops counting at `most` bytes."""
    depth, size, level = 0, 0, [value]
    while level and size <= most:
        depth += 1
        below: list[Any] = []
        for one in level:
            size += 2
            if isinstance(one, str):
                size += len(one)
            elif isinstance(one, dict):
                size += sum(map(len, one))
                below += one.values()
            elif isinstance(one, list):
                below += one
        level = below
    return depth, size


class _Graph:
    def __init__(self, schema: Any, *, backtracking: bool) -> None:
        self._root = schema
        self._backtracking = backtracking
        self._nodes: list[_Node] = []
        self._known: dict[int, int] = {}
        self._anchors: dict[str, Any] = {}
        self._refs: list[tuple[_Node, int, str]] = []

    def read(self) -> tuple[list[_Node], list[int]]:
        self._node(self._root, 0)
        while self._refs:
            node, times, target = self._refs.pop()
            inner = self._node(self._resolve(target), 0)
            node.in_place[inner] = node.in_place.get(inner, 0) + times
        return self._nodes, self._sorted()

    def _node(self, schema: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise Unusable(f"it is more than {MAX_DEPTH} levels deep")
        if not isinstance(schema, dict):
            schema = _ALWAYS_TRUE if schema is True else _ALWAYS_FALSE if schema is False else _bad()
        if (known := self._known.get(id(schema))) is not None:
            return known
        if len(self._nodes) >= _MAX_NODES:
            raise Unusable(f"it has more than {_MAX_NODES} parts")
        node = _Node(self._weight(schema))
        index = len(self._nodes)
        self._nodes.append(node)
        self._known[id(schema)] = index
        self._fill(node, schema, depth + 1)
        return index

    def _fill(self, node: _Node, schema: Mapping[str, Any], depth: int) -> None:
        times = 4 if "unevaluatedProperties" in schema or "unevaluatedItems" in schema else 1
        for inner in _in_place(schema):
            index = self._node(inner, depth)
            node.in_place[index] = node.in_place.get(index, 0) + times
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(target := schema.get(keyword), str):
                self._refs.append((node, times, target))
        self._fill_members(node, schema, depth)
        self._fill_items(node, schema, depth)
        for keyword in _DEFINITIONS:
            for inner in _map(schema.get(keyword)).values():
                self._node(inner, depth)

    def _fill_members(self, node: _Node, schema: Mapping[str, Any], depth: int) -> None:
        for name, inner in _map(schema.get("properties")).items():
            node.members.setdefault(name, []).append(self._node(inner, depth))
        for inner in _map(schema.get("patternProperties")).values():
            node.each_member.append(self._node(inner, depth))
        for keyword in _EACH_MEMBER:
            if keyword in schema:
                applied = node.each_member if keyword == "propertyNames" else node.each_member_but
                applied.append(self._node(schema[keyword], depth))

    def _fill_items(self, node: _Node, schema: Mapping[str, Any], depth: int) -> None:
        for keyword in _EACH_ITEM:
            if keyword in schema and not isinstance(schema[keyword], list):
                node.each_item.append(self._node(schema[keyword], depth))
        for keyword in ("prefixItems", "items"):
            if isinstance(inner_list := schema.get(keyword), list):
                node.each_item += [self._node(inner, depth) for inner in inner_list]

    def _weight(self, schema: Mapping[str, Any]) -> int:
        """Steps a byte of a value that a schema makes by itself, a generous guess."""
        weight = 1
        for keyword, value in schema.items():
            if keyword in ("$anchor", "$dynamicAnchor") and isinstance(value, str):
                self._anchors[f"#{value}"] = schema
            elif keyword in ("$id", "id") and schema is not self._root and isinstance(value, str):
                raise Unusable("a part of it has an $id of its own")
            elif keyword == "pattern" and isinstance(value, str):
                weight += self._pattern_weight(value)
            elif keyword == "patternProperties" and isinstance(value, dict):
                weight += sum(self._pattern_weight(pattern) for pattern in value)
            elif keyword in ("required", "properties", "dependentRequired") and isinstance(value, list | dict):
                weight += len(value) // 8  # a member takes some bytes
            elif keyword in ("enum", "const"):
                weight += _values_in(value) // 64  # compared with one value until they differ
        return weight

    def _pattern_weight(self, pattern: str) -> int:
        if self._backtracking:
            return _BACKTRACKING_WEIGHT
        repeats = sum(int(high or low) for low, high in _REPEATED.findall(pattern))
        return 1 + (len(pattern) + repeats) // 64

    def _resolve(self, target: str) -> Any:
        if target == "#" or (isinstance(self._root, dict) and target in (self._root.get("$id"), self._root.get("id"))):
            return self._root
        if target in self._anchors:
            return self._anchors[target]
        if not target.startswith("#/"):
            raise Unusable("it refers to something outside of itself")
        found: Any = self._root
        for part in unquote(target[2:]).split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(found):
                found = found[int(key)]
            else:
                raise Unusable("it refers to a part that it does not have")
        return found

    def _sorted(self) -> list[int]:
        """Nodes with what they apply in place before them."""
        order: list[int] = []
        state = [0] * len(self._nodes)
        for start in range(len(self._nodes)):
            waiting = [(start, False)]
            while waiting:
                index, done = waiting.pop()
                if done:
                    state[index] = 2
                    order.append(index)
                elif state[index] == 0:
                    state[index] = 1
                    waiting.append((index, True))
                    for inner in self._nodes[index].in_place:
                        if state[inner] == 1:
                            raise Unusable("it refers to itself for the same value, without an end")
                        if state[inner] == 0:
                            waiting.append((inner, False))
        return order


_ALWAYS_TRUE: Final[dict[str, Any]] = {}
_ALWAYS_FALSE: Final[dict[str, Any]] = {"maxLength": 0}
"""One step each, whatever they say. (Kept: nodes are known by identity.)"""


def _bad() -> dict[str, Any]:
    raise Unusable("a part of it is neither an object nor a boolean")


def _in_place(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword in _IN_PLACE_LISTS:
        value = schema.get(keyword)
        if isinstance(value, list):
            yield from value
    for keyword in _IN_PLACE:
        if keyword in schema:
            yield schema[keyword]
    for keyword in _IN_PLACE_MAPS:
        yield from (inner for inner in _map(schema.get(keyword)).values() if not isinstance(inner, list))


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _values_in(value: Any) -> int:
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        count += 1
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return count
