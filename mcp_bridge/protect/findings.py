"""What a comparison of definitions can find, and the rules that tools, prompts and schemas share. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from mcp_bridge.protect.texts import same_words

__all__ = ["Finding", "Report", "Severity", "argument_added", "safe", "text_changed", "title_changed", "worst"]


class Severity(IntEnum):
    """`ADDED` (not in the lock) is neither better nor worse: it is its own case."""

    COSMETIC = 1
    COMPATIBLE = 2
    ADDED = 3
    BREAKING = 4
    SUSPICIOUS = 5

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def passes(self) -> bool:
        """Without an approval."""
        return self <= Severity.COMPATIBLE


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    code: str
    path: str
    """Where in the definition, such as `inputSchema.properties.to`; printable."""
    text: str
    """A sentence of ours: it quotes nothing of a definition but what `safe` lets through."""


Report = Callable[[Severity, str, str, str], None]
"""Takes the fields of a `Finding`."""

_SAFE_CHARS: Final = 80
_MAX_TITLE_CHARS: Final = 120
_MODEL_ARGUMENTS: Final = (
    "prompt",
    "conversation",
    "context",
    "transcript",
    "history",
    "memory",
    "memories",
    "thought",
    "reasoning",
    "environment",
    "envvar",
    "sidenote",
    "modelname",
    "toolslist",
    "toolcalls",
    "secret",
    "password",
    "apikey",
    "credential",
)
"""In names of arguments that models are known to fill with what no tool should see."""


def argument_added(report: Report, path: str, name: str, *, required: bool) -> None:
    plain = "".join(char for char in name.casefold() if char.isalnum())
    if any(word in plain for word in _MODEL_ARGUMENTS):
        report(Severity.SUSPICIOUS, "argument_asks_for_context", path, "asks for what the model knows")
    elif required:
        report(Severity.BREAKING, "required_argument_added", path, "is new and required")
    else:
        report(Severity.COMPATIBLE, "optional_argument_added", path, "is new and optional")


def text_changed(report: Report, path: str, before: Any, after: Any) -> None:
    """A description is what a model acts on: other words are other instructions, whatever they say."""
    old, new = before or "", after or ""
    if isinstance(old, str) and isinstance(new, str) and same_words(old, new):
        report(Severity.COSMETIC, "text_layout", path, "only its layout changed")
    else:
        report(Severity.SUSPICIOUS, "text_changed", path, "says something else to the model")


def title_changed(report: Report, path: str, _before: Any, after: Any) -> None:
    if after is not None and (not isinstance(after, str) or len(after) > _MAX_TITLE_CHARS):
        report(Severity.SUSPICIOUS, "title_too_long", path, "is too long for a title")
    else:
        report(Severity.COSMETIC, "title_changed", path, "changed")


def worst(findings: list[Finding]) -> Severity | None:
    return max((one.severity for one in findings), default=None)


def safe(text: str) -> str:
    """`text` for people, logs and models: short, printable ASCII, so that it can carry nothing unseen."""
    shown = "".join(char if " " <= char <= "~" else "?" for char in text)
    return shown if len(shown) <= _SAFE_CHARS else f"{shown[: _SAFE_CHARS - 1]}~"
