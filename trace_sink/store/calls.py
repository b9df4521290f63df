"""One request to the HTTP interface, taken apart. Pure, apart from awaiting the body."""

import re
import uuid
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from trace_sink.store import errors
from trace_sink.store.compression import Decompressor
from trace_sink.store.errors import StoreError
from trace_sink.store.statements import InsertHead, NeedMore, first_word, split_insert

__all__ = ["Call", "Credentials", "Statement", "credentials", "plain_body", "read_call", "read_statement"]

MAX_STATEMENT_BYTES = 16 << 20
MAX_INSERT_HEAD_BYTES = 1 << 20
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TRANSPORT = _names(
    "query user password database default_format session_id session_timeout session_check "
    "close_session query_id quota_key wait_end_of_query buffer_size compress decompress "
    "enable_http_compression stacktrace role send_progress_in_http_headers "
    "http_headers_progress_interval_ms client_protocol_version readonly log_comment "
    "cancel_http_readonly_queries_on_client_close http_zlib_compression_level http_wait_end_of_query"
)
"""Parameters of the URL that are not settings of the query, or that the store answers for itself."""


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """What the URL and headers say; the statement itself may be in the body."""

    query: str
    query_id: str
    database: str
    format: str | None
    params: Mapping[str, str]
    settings: Mapping[str, str]
    session_id: str
    session_timeout_s: int
    session_check: bool
    close_session: bool
    wait_end: bool
    compress: bool
    comment: str
    readonly: bool
    marker: str
    """What the query carries at the head of its log_comment, to be found by when it must be killed."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The statement's text, and for an INSERT with data its head and the beginning of its data."""

    sql: bytes
    insert: InsertHead | None = None
    data: bytes = b""


def credentials(headers: Mapping[str, str], url: Mapping[str, str]) -> Credentials | None:
    """From X-ClickHouse-User and -Key, HTTP basic authentication, or `user` and `password` of the URL."""
    if "x-clickhouse-user" in headers:
        return Credentials(headers["x-clickhouse-user"], headers.get("x-clickhouse-key", ""))
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = b64decode(value, validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return Credentials("", "")
        return Credentials(user, password)
    return Credentials(url["user"], url.get("password", "")) if "user" in url else None


def read_call(url: Mapping[str, str], headers: Mapping[str, str]) -> Call:
    """Raises `StoreError` for what the store does not do or cannot read."""
    if _flag(url, "decompress") or _flag(url, "compress"):
        raise StoreError.of(errors.NOT_IMPLEMENTED, "ClickHouse block compression is not supported; use HTTP's")
    settings = {name: value for name, value in url.items() if name not in _TRANSPORT and not name.startswith("param_")}
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise StoreError.of(errors.UNKNOWN_SETTING, "A setting's name must be an identifier")
    timeout = url.get("session_timeout", "60")
    if not timeout.isdecimal():
        raise StoreError.of(errors.BAD_ARGUMENTS, "session_timeout must be a number of seconds")
    return Call(
        query=url.get("query", ""),
        query_id=_printable(url.get("query_id", "") or headers.get("x-clickhouse-query-id", "")) or str(uuid.uuid4()),
        database=url.get("database", "") or headers.get("x-clickhouse-database", ""),
        format=url.get("default_format") or headers.get("x-clickhouse-format"),
        params={name.removeprefix("param_"): value for name, value in url.items() if name.startswith("param_")},
        settings=settings,
        session_id=url.get("session_id", ""),
        session_timeout_s=min(int(timeout), 3600),
        session_check=_flag(url, "session_check"),
        close_session=_flag(url, "close_session"),
        wait_end=_flag(url, "wait_end_of_query"),
        compress=_flag(url, "enable_http_compression"),
        comment=_printable(url.get("log_comment", "")),
        readonly=_flag(url, "readonly"),
        marker=uuid.uuid4().hex,
    )


async def plain_body(stream: AsyncIterator[bytes], decompressor: Decompressor) -> AsyncIterator[bytes]:
    """The body without its content coding."""
    async for chunk in stream:
        for piece in decompressor.feed(chunk):
            if piece:
                yield piece
    decompressor.finish()


async def read_statement(query: str, body: AsyncIterator[bytes]) -> Statement:
    """The statement: `query` of the URL and the body, one behind the other. Of an INSERT's data, only what came along.

    Leaves the rest of the data in `body`.
    """
    text = bytearray(query.encode() + b"\n" if query else b"")
    complete = False
    while True:
        inserting = first_word(text[: 64 << 10].decode(errors="replace")) == "INSERT"
        limit = MAX_INSERT_HEAD_BYTES if inserting else MAX_STATEMENT_BYTES
        if inserting:
            try:
                head = split_insert(bytes(text[:limit]), complete=complete)
            except NeedMore:
                pass
            else:
                data = bytes(text[head.data_start :]) if head.format else b""
                return Statement(bytes(text[: head.data_start]), head if head.format else None, data)
        if complete:
            return Statement(bytes(text))
        if len(text) > limit:
            raise StoreError.of(errors.QUERY_IS_TOO_LARGE, f"The statement is longer than {limit} bytes")
        try:
            text += await anext(body)
        except StopAsyncIteration:
            complete = True


def _flag(url: Mapping[str, str], name: str) -> bool:
    return url.get(name, "0").lower() not in ("0", "", "false", "no")


def _printable(text: str) -> str:
    return "".join(character for character in text[:128] if "!" <= character <= "~")
