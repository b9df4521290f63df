"""What in a text may be meant to steer a model, or to hide from people. Pure.

A list of phrases cannot be complete: that any new wording of a description
needs an approval does not rest on it. It names what is worst about a change.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["Flag", "adds_prose", "flags_in", "has_hidden", "new_flags", "same_words"]

Flag = tuple[str, str]
"""Code and detail: `hidden_characters`, `instructions` (which pattern), `new_url`, `new_email`."""

_EXTRA_HIDDEN: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2028\u2029\u2800\u3164\uffa0")
"""Shown as nothing, or as the end of a line, though not of category Cf."""
_PLAIN_CONTROLS: Final = frozenset("\t\n\r")
_URL: Final = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>\\)]{1,512}|\bwww\.[^\s\"'<>\\)]{1,512})", re.IGNORECASE
)
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
_PHRASES: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("a tag", r"</?\s*(?:important|system|instructions?|assistant|user|secret|admin|hidden|critical|prompt)\b"),
        ("a chat marker", r"<\|[a-z_]{2,20}\|>|\[/?INST\]|^\s*(?:system|assistant)\s*:"),
        ("ignore or override", r"\b(?:ignore|disregard|forget|override|bypass)\b"),
        (
            "an order before or after use",
            r"\b(?:before|after|when|whenever|prior to) (?:using|calling|invoking|running)\b",
        ),
        (
            "secrecy",
            r"\b(?:do not|don'?t|never|without) (?:tell|telling|mention|inform|reveal|show|notify|ask|say|warn)",
        ),
        ("must", r"\b(?:you|the (?:model|assistant|agent|llm|ai)) (?:must|should|shall|need to|have to|are to|will)\b"),
        (
            "always or instead",
            r"\b(?:always (?:use|call|run|send|include|pass)|instead of (?:using|calling))\b",
        ),
        ("another tool's business", r"\b(?:other|any|all|every) (?:other )?tools?\b"),
        (
            "secrets",
            r"\.ssh\b|\bid_rsa\b|\.env\b|/etc/passwd"
            r"|\b(?:api[_ -]?key|password|credential|private key|access token)s?\b",
        ),
        (
            "the conversation",
            r"\b(?:system prompt|(?:conversation|chat) history|previous (?:message|instruction)s?|chain of thought)\b",
        ),
    )
)
_WORD: Final = re.compile(r"[^\W_]+")
_MAX_PLAIN_WORDS: Final = 3
_MAX_PLAIN_NAME_WORDS: Final = 6
_MAX_PLAIN_CHARS: Final = 40
_SPACES: Final = re.compile(r"[ \t\r\n.,;:!]+")


def has_hidden(text: str) -> bool:
    """Whether it has characters that are not seen: zero-width, bidirectional, tags, selectors, controls."""
    if text.isascii() and text.isprintable():
        return False
    return any(_is_hidden(char) for char in text)


def flags_in(texts: Iterable[str]) -> Counter[Flag]:
    """How often each flag is in `texts`."""
    found: Counter[Flag] = Counter()
    for text in texts:
        if has_hidden(text):
            found["hidden_characters", ""] += 1
        folded = unicodedata.normalize("NFKC", text)
        for url in _URL.findall(folded):
            found["new_url", url] += 1
        for address in _EMAIL.findall(folded):
            found["new_email", address] += 1
        for name, pattern in _PHRASES:
            if count := sum(1 for _ in pattern.finditer(folded)):
                found["instructions", name] += count
    return found


def new_flags(old: Iterable[str], new: Iterable[str]) -> list[Flag]:
    """What texts of `new` that are not in `old` bring along; a hidden character always, the rest where it is more."""
    old_texts, new_texts = list(old), list(new)
    before = Counter(old_texts)
    added = list((Counter(new_texts) - before).elements())
    if not added:
        return []
    known, everything = flags_in(old_texts), flags_in(new_texts)
    return sorted(
        flag
        for flag in flags_in(added)
        if flag[0] == "hidden_characters"
        or (flag[0] == "instructions" and everything[flag] > known[flag])
        or (flag[0] in ("new_url", "new_email") and not known[flag])
    )


def adds_prose(old: Any, new: Any) -> bool:
    """Whether the JSON value `new` holds a text long enough to tell a model something that is nowhere in `old`.

    A model reads all of a definition: titles, examples, names and members that no rule knows as much as descriptions.
    """
    known = {_words(text) for text, _ in _texts(old)}
    return any(_is_prose(text, is_name) and _words(text) not in known for text, is_name in _texts(new))


def same_words(old: str, new: str) -> bool:
    """Whether only spaces, line ends, case or plain punctuation differ."""
    return _words(old) == _words(new)


def _words(text: str) -> str:
    return _SPACES.sub(" ", text).strip().casefold()


def _texts(value: Any) -> Iterator[tuple[str, bool]]:
    """Every string in a JSON value, and whether it is a key."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one, False
        elif isinstance(one, dict):
            yield from ((key, True) for key in one)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _is_prose(text: str, is_name: bool) -> bool:
    """Scripts that put no spaces between words count by their characters."""
    words = len(_WORD.findall(text)) + sum(char >= "\u2e80" for char in text)
    return len(text) > _MAX_PLAIN_CHARS or words > (_MAX_PLAIN_NAME_WORDS if is_name else _MAX_PLAIN_WORDS)


def _is_hidden(char: str) -> bool:
    if char in _PLAIN_CONTROLS:
        return False
    if char in _EXTRA_HIDDEN or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":
        return True
    return unicodedata.category(char) in ("Cf", "Cc", "Co", "Cn", "Cs")
