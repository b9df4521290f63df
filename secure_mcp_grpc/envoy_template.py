"""The YAML files in `envoy/` and how they are filled in. Placeholders (`${name}`) stand for whole values of their own
type and are replaced after parsing: no setting can change the structure around it.
"""

import copy
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["dump", "fill", "template"]

_PLACEHOLDER = re.compile(r"\$\{([a-z0-9_]+)\}")


@cache
def template(name: str) -> Any:
    """The parsed file. Only `fill` may look at it: it is shared."""
    return yaml.safe_load((_directory() / name).read_text(encoding="utf-8"))


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `value` with placeholders replaced; a key or an item whose value becomes None is left out."""
    if isinstance(value, dict):
        filled = {key: fill(item, values) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not None}
    if isinstance(value, list):
        return [item for item in (fill(item, values) for item in value) if item is not None]
    if isinstance(value, str) and (found := _PLACEHOLDER.fullmatch(value)):
        return copy.deepcopy(values[found[1]])
    if isinstance(value, str) and _PLACEHOLDER.search(value):
        raise ValueError(f"a placeholder must be a whole value: {value}")
    return value


def dump(document: Any) -> str:
    """As YAML, in the order it has."""
    return str(yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120))


@cache
def _directory() -> Path:
    installed = Path(__file__).parent / "_data" / "envoy"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "envoy"


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml, 10 times as fast
    """Without anchors: every value stands where it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
