"""Secrets inside text, found by their form: keys, tokens, passwords in pairs, e-mail addresses, card numbers.

Each pattern runs in time about linear in the text, whatever the text is:
quantifiers that could give back what they took are possessive or bounded, and
a text is searched only where a cheap needle says that there is something to
find. Patterns of the settings run in RE2, which is linear by construction.
Pure functions.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["BUILT_IN", "Pattern", "card_digits", "compile_patterns", "plainly", "replaced"]

Tag = Callable[[str], str]


class _Regex(Protocol):
    def finditer(self, text: str, /) -> Iterable[Any]: ...


@dataclass(frozen=True, slots=True)
class Pattern:
    """What to hide: the first group that matched, or the whole match where there is none.

    One of `needles` stands in every text that matches (in lower case, where `lower`), and it has `least` characters.
    """

    name: str
    regex: _Regex
    needles: tuple[str, ...] = ()
    lower: bool = False
    least: int = 0


_OPEN: Final = r"""\\{0,7}["']?\s{0,8}(?:=>|[:=]|%3[AaDd]|&\#6[01];)\s{0,8}"""
_VALUE: Final = (
    r"""(?:\\{2,7}+"([^"\\]++(?:\\++[^"\\]++)*+)"""  # JSON within JSON within JSON
    r"""|\\"((?:[^"\\]|\\\\\\?.|\\[^"\\])++)"""  # in JSON within JSON
    r"""|"((?:[^"\\]|\\.)++)"""
    r"""|'([^'\n]++)"""
    r"""|(?!\[redacted|(?:bearer|basic|digest)\b)([^\s"',;&<>\\]{3,}+))"""
)

BUILT_IN: Final[tuple[Pattern, ...]] = (
    Pattern(
        "private_key",
        re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [^-\n]{0,48}-----|\Z)", re.DOTALL),
        ("PRIVATE KEY",),
        least=22,
    ),
    Pattern(
        "jwt", re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{6,}+(?:\.[A-Za-z0-9_-]*+){1,4}"), ("eyJ",), least=10
    ),
    Pattern(
        "provider_token",
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA)[A-Z0-9]{12,}+|AIza[A-Za-z0-9_-]{20,}+"
            r"|(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}+|gh[opsur]_[A-Za-z0-9]{16,}+|github_pat_[A-Za-z0-9_]{16,}+"
            r"|glpat-[A-Za-z0-9_-]{16,}+|xox[a-z]-[A-Za-z0-9-]{8,}+|xapp-[A-Za-z0-9-]{8,}+|npm_[A-Za-z0-9]{16,}+"
            r"|hf_[A-Za-z0-9]{16,}+|pypi-[A-Za-z0-9_-]{16,}+|ya29\.[A-Za-z0-9_-]{10,}+|SG\.[A-Za-z0-9_.-]{16,}+"
            r"|do[por]_v1_[a-f0-9]{16,}+|AGE-SECRET-KEY-1[A-Z0-9]{16,}+)"
        ),
        (
            *("AKIA", "ASIA", "ABIA", "ACCA", "AGPA", "AIDA", "AROA", "AIza", "sk-", "sk_", "pk-", "pk_", "rk-", "rk_"),
            *("gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "xapp-", "npm_", "hf_", "pypi-"),
            *("ya29.", "SG.", "dop_v1_", "doo_v1_", "dor_v1_", "AGE-SECRET-KEY-1"),
        ),
        least=11,
    ),
    Pattern(
        "authorization",
        re.compile(r"(?i:\b(?:bearer|basic)\s{1,4}(?=[^\s]{0,64}[0-9=._/+]|[^\s]{16}))([A-Za-z0-9._~+/=-]{6,}+)"),
        ("bearer", "basic"),
        lower=True,
        least=12,
    ),
    Pattern(
        "cookie",
        re.compile(r"(?i:cookie)[\"']?\s{0,4}:\s{0,4}([^\s\"'][^\r\n\"']++)"),
        ("cookie",),
        lower=True,
        least=9,
    ),
    Pattern(
        "authorization_scheme",
        re.compile(
            r"(?i:\bauthorization\s{0,4}:\s{0,4})(?!(?i:bearer|basic|digest|token)\b|\[redacted)"
            r"([^\s\"'\\][^\r\n\"'\\]{2,}+)"
        ),
        ("authorization",),
        lower=True,
        least=17,
    ),
    Pattern(
        "flag",
        re.compile(
            r"(?<![\w-])--?(?i:[a-z0-9][a-z0-9_-]{0,24}[_-])?(?i:pass(?:word|wd|phrase|code)?|pwd|secret|token"
            r"|api[_-]?key|access[_-]?key|credential)s?\s{1,4}(?!-)[\"']?([^\s\"'\\]{3,}+)"
        ),
        ("-pass", "-pwd", "secret", "token", "key", "credential"),
        lower=True,
        least=9,
    ),
    Pattern(
        "element",
        re.compile(
            r"<(?:[\w.-]{0,32}:)?(?i:[\w.-]{0,24}?(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key"
            r"|private[_-]?key|credential))(?:\s[^<>]{0,128})?>\s{0,8}([^<\s][^<]*+)"
        ),
        ("<",),
        least=10,
    ),
    Pattern(
        "pair",
        re.compile(
            r"(?i:pass(?:word|wd|phrase|code)|pwd|secret|token(?!s[\"']?\s{0,4}[:=]\s{0,4}[0-9])|api[_-]?key"
            r"|access[_-]?key|private[_-]?key|account[_-]?key|signing[_-]?key|encryption[_-]?key|credential|authorization|[_-]signature"
            rf")[A-Za-z0-9_-]{{0,24}}+{_OPEN}(?:(?i:bearer|basic|digest|token)\s{{1,4}})?+{_VALUE}"
        ),
        ("pass", "pwd", "secret", "token", "key", "credential", "authorization", "signature"),
        lower=True,
        least=7,
    ),
    Pattern(
        "url_password", re.compile(r"://[^\s/:@\"']{0,128}+:((?!\[redacted)[^\s/@\"']{1,4096}+)@"), ("@",), least=6
    ),
    Pattern(
        "email",
        re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++"),
        ("@",),
    ),
)
"""In the order they are applied; what one replaced the next ones leave alone."""

_GROUPED = re.compile(r"(?<![0-9])(?=([2-6][0-9]{3,5}(?:[ .-][0-9]{3,7}){1,4})(?![0-9]))")
_PLAIN = re.compile(r"(?<![0-9])[2-6][0-9]{12,18}(?![0-9])")
_DIGITS = re.compile(r"[0-9]{4}[ .-]?[0-9]{3}")
_CARD_DIGITS: Final = ("2", "3", "4", "5", "6")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0001-\U000e01ef]+"
)
_DOUBLED: Final = str.maketrans("0123456789", "0246813579")
_MAX_PATTERN_CHARS: Final = 500


def replaced(text: str, patterns: Sequence[Pattern], tag: Tag) -> str:
    """`text` with everything that `patterns` find, and payment card numbers, replaced by their tags."""
    size, lowered = len(text), ""
    for pattern in patterns:
        if size < pattern.least:
            continue
        if pattern.lower and not lowered:
            lowered = text.lower()
        if pattern.needles and not _has_any(lowered if pattern.lower else text, pattern.needles):
            continue
        changed = _without(text, _found(text, pattern), tag)
        if changed is not text:
            text, lowered = changed, ""
    return (
        _without(text, _cards(text), tag)
        if size > 12 and _has_any(text, _CARD_DIGITS) and _DIGITS.search(text)
        else text
    )


def plainly(text: str) -> str:
    """`text` without invisible characters, and with plain letters and digits for those that only look different."""
    shown = _UNSEEN.sub("", text)
    return shown if unicodedata.is_normalized("NFKC", shown) else unicodedata.normalize("NFKC", shown)


def card_digits(digits: str) -> bool:
    """Whether these are the digits of a payment card: 13 to 19, of an issuer's range, good by Luhn's check."""
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456":
        return False
    doubled = digits[-2::-2].translate(_DOUBLED)
    return (sum(map(int, digits[-1::-2])) + sum(map(int, doubled))) % 10 == 0


def compile_patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    """Patterns of the settings, in RE2's syntax. Raises `ValueError` with what is wrong, in words."""
    if not texts:
        return ()
    try:
        import re2  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ValueError("needs the package google-re2, which is not installed") from None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    found: list[Pattern] = []
    for text in texts:
        if not 0 < len(text) <= _MAX_PATTERN_CHARS:
            raise ValueError(f"a pattern has 1 to {_MAX_PATTERN_CHARS} characters")
        try:
            regex = re2.compile(text, options)
        except re2.error as error:
            why = error.args[0].decode("utf-8", "replace") if error.args else "not RE2"
            raise ValueError(f"{text!r} is not a regular expression of RE2: {why}") from None
        if regex.search("") is not None:
            raise ValueError(f"{text!r} matches the empty text and would hide everything")
        found.append(Pattern("setting", regex))
    return tuple(found)


def _has_any(text: str, needles: tuple[str, ...]) -> bool:
    """A loop: a generator costs more than the search."""
    for needle in needles:  # noqa: SIM110
        if needle in text:
            return True
    return False


def _found(text: str, pattern: Pattern) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for match in pattern.regex.finditer(text):
        group = next((number for number in range(1, (match.re.groups or 0) + 1) if match.span(number)[0] >= 0), 0)
        spans.append(match.span(group))
    return spans


def _cards(text: str) -> list[tuple[int, int]]:
    spans = [match.span() for match in _PLAIN.finditer(text) if card_digits(match.group())]
    for match in _GROUPED.finditer(text):
        start, end = match.span(1)
        while end > start:
            if card_digits(re.sub("[ .-]", "", text[start:end])):
                spans.append((start, end))
                break
            end = max(text.rfind(mark, start, end) for mark in " .-")
    return sorted(spans)


def _without(text: str, spans: Sequence[tuple[int, int]], tag: Tag) -> str:
    """`text` with `spans` replaced; of two that overlap the first counts."""
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        if start < done or start == end:
            continue
        pieces += (text[done:start], tag(text[start:end]))
        done = end
    return "".join((*pieces, text[done:])) if pieces else text
