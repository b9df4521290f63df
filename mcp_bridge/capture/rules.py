"""Which members of a JSON document are hidden whatever their value: by name, and by path. Pure."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from mcp_bridge.capture.patterns import BUILT_IN, Pattern, plainly

__all__ = ["SECRET_WORDS", "Node", "Rules", "below", "compile_fields", "compile_paths", "matches_any", "start"]

_SECRET_NAME = re.compile(
    r"passw|pass_?phrase|passcode|pwd|token|secret|key|authorization|cookie|credential", re.IGNORECASE
)
SECRET_WORDS: Final = ("pass", "pwd", "token", "secret", "key", "authorization", "cookie", "credential")
"""One of these stands in every such name, in lower case where it is ASCII."""
_STEP = re.compile(r"\.([A-Za-z_$][\w$-]*|\*)|\[(\*|[0-9]{1,9}|'[^']+'|\"[^\"]+\")\]")
_MAX_STEPS: Final = 32
_MAX_NAME_CHARS: Final = 256


@dataclass(slots=True)
class Node:
    """One step of the paths; `*` below it stands for every member. `hides`: a path ends here."""

    below: dict[str, "Node"] = field(default_factory=dict)
    hides: bool = False

    def step(self, name: str) -> list["Node"]:
        return [node for key in (name, "*") if (node := self.below.get(key)) is not None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is hidden: members whose name speaks of a secret, `fields`, `paths`, and text that `patterns` match."""

    patterns: tuple[Pattern, ...] = BUILT_IN
    fields: re.Pattern[str] | None = None
    paths: Node | None = None

    def hides_name(self, name: str) -> bool:
        if len(name) > _MAX_NAME_CHARS:
            name = name[: _MAX_NAME_CHARS // 2] + name[-_MAX_NAME_CHARS // 2 :]
        if not name.isascii():
            name = plainly(name)
        return bool(_SECRET_NAME.search(name) or (self.fields is not None and self.fields.fullmatch(name)))


@lru_cache(8)
def compile_fields(names: tuple[str, ...]) -> re.Pattern[str] | None:
    """Names of members, in any case; `*` stands for any characters."""
    if not names:
        return None
    parts = [re.escape(name).replace(r"\*", ".*") if "*" in name else re.escape(name) for name in names]
    return re.compile("|".join(parts), re.IGNORECASE | re.DOTALL)


def compile_paths(paths: Sequence[str]) -> Node | None:
    """JSON paths from the message: `$.params.arguments.user.ssn`, `$.result.structuredContent.rows[*].iban`.

    Of JSONPath (RFC 9535) they may use names, `[0]`, `[*]` and `.*`. Raises `ValueError` for anything else.
    """
    if not paths:
        return None
    root = Node()
    for path in paths:
        steps = _steps(path)
        node = root
        for step in steps:
            node = node.below.setdefault(step, Node())
        node.hides = True
    return root


def _steps(path: str) -> list[str]:
    if not path.startswith("$") or len(path) > 1000:
        raise ValueError(f"{path!r} must start with $, as in $.params.arguments.user.ssn")
    steps: list[str] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise ValueError(f"{path!r} has something at {path[at:]!r} that is no .name, [0], [*] or ['name']")
        steps.append(match[1] or match[2].strip("'\""))
        at = match.end()
    if not 1 <= len(steps) <= _MAX_STEPS:
        raise ValueError(f"{path!r} must have 1 to {_MAX_STEPS} steps")
    if steps[0] not in ("params", "result", "error"):
        raise ValueError(f"{path!r} must go into params, result or error")
    return steps


def below(nodes: Sequence[Node], name: str) -> list[Node]:
    return [found for node in nodes for found in node.step(name)]


def start(paths: Node | None, *steps: str) -> list[Node]:
    """The nodes of `paths` after `steps` from the root."""
    nodes = [paths] if paths is not None else []
    for name in steps:
        nodes = below(nodes, name)
    return nodes


def matches_any(patterns: Sequence[str], tool: str, server: str) -> bool:
    """Whether a tool is named by `tool` or `server/tool` patterns with `*` and `?`; in exact case."""
    return any(fnmatch.fnmatchcase(f"{server}/{tool}" if "/" in one else tool, one) for one in patterns)
