"""One cheap look at JSON text: whether it may be written as it is, without walking through its values.

Most messages hold nothing to hide. It says no whenever the sanitizer might
find something, and for whatever it is not sure of; then the sanitizer walks.
Pure.
"""

import re
from collections.abc import Iterable
from typing import Final

from mcp_bridge.capture.rules import SECRET_WORDS, Rules

__all__ = ["Quick", "quick"]

_MAX_CONTAINERS: Final = 32
"""Fewer cannot be deeper than the sanitizer goes."""
_DIGITS: Final = re.compile(r"[0-9]{4}[ .-]?[0-9]{3}|(?:^|[:,\[])-?[0-9][0-9.]*[eE]")
"""What every card number holds, in a text or as a number; and numbers that are written short."""
_FILES: Final = ('data"', 'data\\"', 'blob"', 'blob\\"', ";base64,")
_SHARED: Final = ("-", "_", "A", "\\")
"""Characters of many secrets."""
_ESCAPED_ESCAPE: Final = "\\\\"
"""What stands behind one may mean anything to whoever reads the text within the text."""


class Quick:
    """`exact` and `lower` are such that text with something to hide holds one of them, the latter in lower case."""

    __slots__ = ("_exact", "_lower")

    def __init__(self, exact: Iterable[str], lower: Iterable[str]) -> None:
        self._exact = _by_character({_ESCAPED_ESCAPE, *_FILES, *exact})
        self._lower = tuple(sorted(lower))

    def is_harmless(self, text: str) -> bool:
        """Whether the JSON `text`, as msgspec writes it, holds nothing to hide, whatever a string of it holds."""
        if not text.isascii() or text.count("{") + text.count("[") > _MAX_CONTAINERS:
            return False
        for character, words in self._exact:
            if character in text:
                for word in words:
                    if word in text:
                        return False
        lowered = text.lower()
        for word in self._lower:
            if word in lowered:
                return False
        return _DIGITS.search(text) is None


def quick(rules: Rules) -> Quick | None:
    """The look for `rules`; None where they hide what no word tells of."""
    if rules.fields is not None or not all(pattern.needles for pattern in rules.patterns):
        return None
    exact = {word for pattern in rules.patterns if not pattern.lower for word in pattern.needles}
    lower = {word for pattern in rules.patterns if pattern.lower for word in pattern.needles}
    if not all(_stays_in_json(word) for word in exact | lower):
        return None
    return Quick(exact, _shortest({*lower, *SECRET_WORDS}))


def _by_character(words: set[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each of `words` beside a character that it holds, such that many can be passed over at once."""
    groups: dict[str, list[str]] = {}
    for word in sorted(words):
        character = next((one for one in _SHARED if one in word), word[0])
        groups.setdefault(character, []).append(word)
    return tuple((character, tuple(words)) for character, words in groups.items())


def _stays_in_json(word: str) -> bool:
    """Whether JSON text of a string that holds `word` holds it too."""
    return word.isascii() and word.isprintable() and '"' not in word and "\\" not in word


def _shortest(words: set[str]) -> set[str]:
    """Without those that hold another one."""
    return {word for word in words if not any(other in word for other in words - {word})}
