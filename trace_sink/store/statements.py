"""What a statement is, and whether a user may run it. Pure functions over SQL text.

The engine's own parser says how many statements there are and what class they
have; its grants refuse `file()`, `url()` and their kin as tables. This module
adds what neither covers: words and functions that reach files, Python or the
network from a plain SELECT (`file('/etc/passwd')`, also as `arrayMap(file, …)`
or `APPLY file`). The whole text is searched first, string literals included,
so nothing depends on agreeing with ClickHouse about where a string or comment
ends; only a hit there asks the engine for the canonical text, in which
literals can be told apart, and is then confirmed or cleared.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "Class",
    "InsertHead",
    "NeedMore",
    "Role",
    "Rules",
    "first_word",
    "is_streamable",
    "output_format",
    "split_insert",
]

STREAMABLE_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
"""Formats whose blocks may be written one after the other; the engine repeats head and tail of all others."""

_SPACE = r"(?:/\*.*?\*/|--[^\n]*(?:\n|\Z)|#[^\n]*(?:\n|\Z)|[^\w(])*+"
_LEADING = re.compile(r"(?:\s|\(|/\*.*?\*/|--[^\n]*(?:\n|\Z)|#[^\n]*(?:\n|\Z))*+", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]+")
_FORMAT = re.compile(r"\bFORMAT\s+([A-Za-z0-9_]+)\s*(?:SETTINGS\s[^'\"`()]*)?[\s;]*\Z", re.IGNORECASE)
_TRAILING_COMMENT = re.compile(r"(?:/\*(?:(?!\*/).)*\*/|--[^\n]*|\s)+\Z", re.DOTALL)
_HEX_ESCAPE = re.compile(r"\\+x([0-9A-Fa-f]{2})")
_READER_WORDS = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "USE"})
_WRITER_CONTROL = frozenset({"SET", "USE", "KILL", "CREATE", "DROP", "INSERT", "TRUNCATE"})
"""What may be session-scoped or undecided for the engine, such as a temporary table; grants judge the rest of these."""
_HARMLESS_TABLE_FUNCTIONS = (
    "format generaterandom generateseries generate_series loop merge mergetreeindex "
    "mergetreeprojection null numbers numbers_mt primes values view viewexplain viewifpermitted "
    "zeros zeros_mt"
)
_IDENTIFIER = re.compile(r"\bIdentifier\b", re.IGNORECASE)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
"""A string literal of a canonical statement."""


class Role(Enum):
    READER = "reader"
    WRITER = "writer"


class Class(Enum):
    """The engine's classes of statements (`query_class` of chdb-core)."""

    READ_ONLY = "READ_ONLY"
    MUTATING = "MUTATING"
    MUTATING_GLOBAL = "MUTATING_GLOBAL"
    CONTROL = "CONTROL"
    UNKNOWN = "UNKNOWN"


class Rules:
    """Who may run what.

    `functions` and `table_functions` are names that the engine knows:
    functions that must not be named at all, and table functions, of which the
    harmless stay allowed. `canonical` is the engine's rewriting of a statement
    (quotes and escapes made uniform, comments gone); it raises `ValueError`
    for what does not parse.
    """

    _HARMLESS = frozenset(_HARMLESS_TABLE_FUNCTIONS.split())

    def __init__(
        self, functions: Iterable[str], table_functions: Iterable[str], canonical: Callable[[str], str]
    ) -> None:
        words = {re.escape(name) for name in functions} | {"outfile", "infile", "log_comment"}
        calls = {re.escape(name) for name in table_functions if name.lower() not in self._HARMLESS}
        self._word = re.compile(rf"(?<![\w$])({'|'.join(sorted(words))})(?![\w$])", re.IGNORECASE)
        self._call = re.compile(
            rf"(?<![\w$])({'|'.join(sorted(calls | {'python'}))}){_SPACE}\(", re.IGNORECASE | re.DOTALL
        )
        self._canonical = canonical

    def refusal(
        self,
        sql: str,
        role: Role,
        query_class: Class,
        count: int,
        *,
        read_request: bool = False,
        params: Mapping[str, str] | None = None,
    ) -> str | None:
        """Why `role` may not run `sql`, as a sentence without its period; None when it may.

        `query_class` and `count` are the engine's; UNKNOWN does not parse and
        passes for the engine to explain. `read_request`: came by HTTP GET.
        """
        if query_class is Class.UNKNOWN and count == 0:
            return None
        if count != 1:
            return "Multi-statements are not allowed"
        word = first_word(sql)
        reads = query_class is Class.READ_ONLY or word == "USE"
        if role is Role.READER and not (reads and word in _READER_WORDS):
            return f"User reader may only read; {word or 'this statement'} is not allowed"
        if query_class is Class.MUTATING_GLOBAL or (query_class is Class.CONTROL and word not in _WRITER_CONTROL):
            return f"{word or 'This statement'} of this kind is not allowed in the embedded store"
        if read_request and query_class is Class.MUTATING:
            return "HTTP method GET implies readonly; use POST"
        return self._forbidden(sql, params or {})

    def _forbidden(self, sql: str, params: Mapping[str, str]) -> str | None:
        if _IDENTIFIER.search(sql) and (name := next(filter(None, map(self._suspect, params.values())), None)):
            return f"{name} is not allowed as an identifier"
        name = self._suspect(sql)
        if name is None:
            return None
        if first_word(sql) == "SET":  # a session's param_x may become an identifier later
            return f"{name} is not allowed"
        try:
            name = self._suspect(_LITERAL.sub("''", self._canonical(sql)))
        except ValueError:
            return "This statement cannot be judged"
        return f"{name} is not allowed" if name else None

    def _suspect(self, sql: str) -> str | None:
        """The first forbidden name in `sql`, read both as it stands and with its hex escapes resolved."""
        for text in (sql, _HEX_ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), sql)):
            if found := self._word.search(text) or self._call.search(text):
                return found.group(1)
        return None


def first_word(sql: str) -> str:
    """The statement's first keyword in capitals, behind comments and opening brackets."""
    start = _LEADING.match(sql)
    found = _WORD.match(sql, start.end() if start else 0)
    return found.group().upper() if found else ""


def output_format(sql: str) -> str | None:
    """The format that a final FORMAT clause names. A wrong guess costs a wrong header, nothing else."""
    found = _FORMAT.search(_TRAILING_COMMENT.sub("", sql))
    return found.group(1) if found else None


def is_streamable(sql: str, format_name: str) -> bool:
    """Whether the engine can answer in blocks: a SELECT in a format that allows it."""
    return format_name in STREAMABLE_FORMATS and first_word(sql) in {"SELECT", "WITH", "FROM"}


@dataclass(frozen=True, slots=True)
class InsertHead:
    """An INSERT taken apart: `statement` without FORMAT and data, the `format` of the data, and where data begins.

    `format` is None for INSERT … SELECT, which has no data.
    """

    statement: str
    format: str | None
    data_start: int


class NeedMore(Exception):
    """The text ends before its INSERT statement does."""


_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\n]*\n|#[^\n]*\n|/\*.*?\*/)"
    rb"|(?P<quoted>'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")"
    rb"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<other>[^'`\"])",
    re.DOTALL,
)
_AFTER_FORMAT = re.compile(rb"[ \t\f]*(;)?[ \t\f]*\r?\n?")
_BEFORE_NAME = frozenset({b"INTO", b"TABLE", b"FUNCTION"})


def split_insert(text: bytes, *, complete: bool) -> InsertHead:
    """Take an INSERT apart as ClickHouse does: data begins after `VALUES`, or after `FORMAT name` and one line end.

    `complete` says that no more text follows. Raises `NeedMore` where the text
    ends within the statement and more may follow.
    """
    format_at = -1
    for word, start, end in _outer_words(text, complete=complete):
        if format_at >= 0:
            return InsertHead(_text(text[:format_at]), word.decode(), _data_start(text, end, complete))
        match word.upper():
            case b"SELECT" | b"WITH":
                break
            case b"VALUES":
                return InsertHead(_text(text[:start]), "Values", end)
            case b"FORMAT":
                format_at = start
    if not complete:
        raise NeedMore
    return InsertHead(_text(text), None, len(text))


def _outer_words(text: bytes, *, complete: bool) -> Iterator[tuple[bytes, int, int]]:
    """Unquoted words outside brackets, behind the table's name, with where they start and end."""
    depth = names = position = 0
    dotted = False
    while token := _TOKEN.match(text, position):
        if not complete and token.end() == len(text):
            return
        kind, value, position = token.lastgroup, token.group(), token.end()
        depth += (kind == "open") - (kind == "close")
        if kind == "word" and depth == 0:
            if names >= 2 and not dotted:
                yield value, token.start(), position
            names += value.upper() not in _BEFORE_NAME
        elif kind == "quoted" and depth == 0:
            names += 1
        if kind != "space":
            dotted = value == b"."


def _data_start(text: bytes, position: int, complete: bool) -> int:
    found = _AFTER_FORMAT.match(text, position)
    end = found.end() if found else position
    if not complete and end == len(text) and not text.endswith(b"\n"):
        raise NeedMore
    return end


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape").strip().rstrip(";").rstrip()
