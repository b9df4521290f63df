"""The tools that a server has, so that policy can be compared with them: the answer to tools/list, kept as a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz_service.policy.problems import PolicyError

__all__ = ["Catalog", "read_catalog"]

# With one of these (JSON Schema 2020-12) a schema may describe more than its `properties`.
_OPEN_KEYWORDS: Final = frozenset(
    {"$dynamicRef", "$ref", "allOf", "anyOf", "dependentSchemas", "else", "if", "oneOf", "patternProperties", "then"}
)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Tools by name, with the JSON Schema of their arguments."""

    schemas: Mapping[str, Mapping[str, Any]]

    def lacks(self, tool: str, path: Sequence[str | int]) -> bool:
        """Whether the schema of `tool` says that there is nothing at `path`.

        An argument that `properties` does not name is taken for one that does
        not exist, unless the schema expressly admits others.
        """
        return _lacks(self.schemas[tool], path)


def read_catalog(content: bytes, file: str) -> Catalog:
    """From `{"tools": [...]}`, as tools/list answers, or the list alone. Raises `PolicyError` naming `file`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise PolicyError(f"{file}: this is not JSON") from None
    tools = document.get("tools") if isinstance(document, dict) else document
    if not isinstance(tools, list):
        raise PolicyError(f'{file}: this is not an answer to tools/list, {{"tools": [...]}}')
    schemas: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(tools, 1):
        name = tool.get("name") if isinstance(tool, dict) else None
        schema = tool.get("inputSchema", {}) if isinstance(tool, dict) else None
        if not isinstance(name, str) or not isinstance(schema, dict):
            raise PolicyError(f"{file}: tool {number} has no name, or an inputSchema that is no object")
        schemas[name] = schema
    return Catalog(schemas)


def _lacks(schema: Any, path: Sequence[str | int]) -> bool:
    for depth, step in enumerate(path):
        if not isinstance(schema, dict) or not _OPEN_KEYWORDS.isdisjoint(schema):
            return False
        if isinstance(step, int):
            schema = schema.get("items")
            continue
        properties = schema.get("properties", None if depth else {})
        if not isinstance(properties, dict):
            return False
        if step not in properties:
            return schema.get("additionalProperties", False) is False
        schema = properties[step]
    return False
