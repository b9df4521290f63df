"""What the store knows of a call's arguments, which were sanitized, and perhaps cut, when they were recorded. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_service.steps.message import digest

__all__ = ["NOTHING", "Known", "known_arguments"]

_MARK: Final = re.compile(r"\[redacted(?::[0-9a-f]{8})?\]|\[deep\]|\[(?:[0-9]+ bytes|binary)")
"""What mcp_bridge writes in place of a value, or of a part of a text, that it keeps to itself."""


@dataclass(frozen=True, slots=True)
class Known:
    """Arguments as far as they were recorded."""

    arguments: Mapping[str, Any]
    hidden: frozenset[str] | None
    """Names of arguments whose value, or a part of it, was not recorded; None: nothing was."""

    @property
    def complete(self) -> bool:
        return self.hidden == frozenset()


NOTHING: Final = Known({}, None)


def known_arguments(text: str, args_digest: str) -> Known:
    """What `text`, sanitized arguments from a record of the bridge, tells of the arguments with `args_digest`.

    The digest was made from the arguments themselves: where it fits, they are
    complete. Otherwise values that carry a mark are hidden; where nothing is
    marked either, the text is not what was called and nothing is known.
    """
    if args_digest == digest({}):
        return Known({}, frozenset())
    try:
        arguments = json.loads(text)
        if not isinstance(arguments, dict):
            return NOTHING
        if args_digest and digest(arguments) == args_digest:
            return Known(arguments, frozenset())
    except (ValueError, RecursionError):  # cut
        return NOTHING
    if any(_MARK.search(name) for name in arguments):
        return NOTHING
    hidden = frozenset(name for name, value in arguments.items() if _is_marked(value))
    return Known(arguments, hidden) if hidden else NOTHING


def _is_marked(value: Any) -> bool:
    """Whether there is a mark in `value`, which is nested 32 levels at most: deeper ones are marked."""
    if isinstance(value, dict):
        return any(_is_marked(item) for item in (*value, *value.values()))
    if isinstance(value, list):
        return any(_is_marked(item) for item in value)
    return isinstance(value, str) and _MARK.search(value) is not None
