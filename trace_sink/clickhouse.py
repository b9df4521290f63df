"""The sink's side of ClickHouse: connect, migrate, insert, and look up what is stored already.

Everything blocks; one thread at a time. clickhouse-connect repeats an insert
by itself when the connection breaks, which would store a batch twice: batches
are serialized first and sent as a stream, which it does not repeat.
"""

import logging
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from trace_sink import migrations
from trace_sink.tables import COLUMNS, KEYS, Row

__all__ = ["ClickHouse", "Refused", "StoreAway", "Target", "keep_lean", "read_target"]

logger = logging.getLogger(__name__)

_PORTS = {"http": 8123, "https": 8443}
_DATA_ERRORS = frozenset({6, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 363, 407, 469})
"""ClickHouse's codes for data that will not be accepted however often it is sent."""


_UNSERIALIZABLE = (ValueError, TypeError, OverflowError, AttributeError, IndexError, struct.error)
"""What clickhouse-connect raises for a value that does not fit its column."""


def keep_lean() -> None:
    """Keep clickhouse-connect from importing pandas and pyarrow where they are installed: 75 MB and a second.

    It looks for them at the first insert, to see whether the data is theirs.
    For a process that inserts rows only.
    """
    from clickhouse_connect.driver import options

    for name in ("pd", "pd_time_test", "arrow", "pl"):
        setattr(options, name, None)


class StoreAway(Exception):
    """The store cannot do it now; trying again later may help. Its text names no secret."""


class Refused(Exception):
    """The store does not accept this data, now or later."""

    def __init__(self, code: int) -> None:
        super().__init__(f"store refused with code {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Target:
    """Where ClickHouse is."""

    interface: str
    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)

    @property
    def name(self) -> str:
        """For people: without user and password."""
        return f"{self.host}:{self.port}/{self.database}"


def read_target(url: str, password_file: Path | None) -> Target:
    """`http[s]://user:password@host:port/database`. Raises `UserError`, which never shows the URL itself."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UserError("CLICKHOUSE_URL has a bad port; expected http://user:password@host:port/database") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise UserError("CLICKHOUSE_URL must be of the form http[s]://user:password@host:port/database")
    database = unquote(parts.path.strip("/")) or "mcp"
    if not database.isidentifier():
        raise UserError("CLICKHOUSE_URL must name a database of letters, digits and underscores")
    password = unquote(parts.password or "")
    if password_file and not password:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise StoreAway(f"password file {password_file} cannot be read yet") from None
    return Target(
        parts.scheme,
        parts.hostname,
        port or _PORTS[parts.scheme],
        unquote(parts.username or "default"),
        database,
        password,
    )


class ClickHouse:
    """One connection, made when first needed and again after a failure."""

    def __init__(self, target: Callable[[], Target], *, timeout_s: int = 30) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._client: Any = None
        self._types: dict[str, list[Any]] = {}

    def connect(self) -> None:
        """Connect and bring the schema up to date. Raises `StoreAway`."""
        import clickhouse_connect

        target = self._target()
        try:
            client = clickhouse_connect.get_client(
                interface=target.interface,
                host=target.host,
                port=target.port,
                username=target.user,
                password=target.password,
                database="__default__",
                autogenerate_session_id=False,
                compress=target.host not in ("127.0.0.1", "::1", "localhost") and "lz4",
                connect_timeout=5,
                send_receive_timeout=self._timeout_s,
                query_retries=0,
                client_name="trace_sink",
            )
        except _failures() as error:
            raise _away(error, target) from None
        try:
            applied = migrations.migrate(client, target.database)
        except _failures() as error:
            client.close()
            raise _away(error, target) from None
        self.close()
        self._client = client
        self._types = {}
        logs.event(logger, logging.INFO, "store_connected", store=target.name, migrations_applied=applied)

    def insert(self, table: str, rows: Sequence[Row], batch_id: uuid.UUID) -> None:
        """Insert `rows` as one part. Raises `StoreAway` (it may or may not have happened) or `Refused`."""
        from clickhouse_connect.driver.transform import NativeTransform

        client = self._connected()
        names = (*COLUMNS[table], "batch_id")
        columns = [*map(list, zip(*rows, strict=True)), [batch_id] * len(rows)]
        try:
            context = client.create_insert_context(
                table, names, column_types=self._types.get(table), column_oriented=True, data=columns
            )
            self._types[table] = list(context.column_types)
            body = b"".join(NativeTransform.build_insert(context))
            if context.insert_exception is not None:
                raise context.insert_exception
            client.raw_insert(insert_block=iter([body]), compression=context.compression or None)
        except _insert_failures() as error:
            raise self._failure(error) from None

    def count(self, table: str, batch_id: uuid.UUID) -> int:
        """How many rows of a batch are stored. Raises `StoreAway`."""
        sql = f"SELECT count() FROM {table} WHERE batch_id = {{batch:UUID}}"  # noqa: S608 - the table's name is ours
        return int(self._query(sql, {"batch": str(batch_id)})[0][0])

    def stored_keys(self, table: str, rows: Sequence[Row]) -> set[Row]:
        """Which of `rows`' keys (`tables.KEYS`) are stored already. Raises `StoreAway`."""
        at = [COLUMNS[table].index(name) for name in KEYS[table]]
        if table == "decisions":
            sql = (
                "SELECT chain, seq FROM decisions WHERE chain IN {chains:Array(String)} "
                "AND seq BETWEEN {first:UInt64} AND {last:UInt64}"
            )
            seqs = [row[at[1]] for row in rows]
            chains = sorted({row[at[0]] for row in rows})
            return set(self._query(sql, {"chains": chains, "first": min(seqs), "last": max(seqs)}))
        sql = (
            "SELECT toUnixTimestamp64Micro(ts), request_id, seq, rpc FROM interactions WHERE "
            "ts BETWEEN fromUnixTimestamp64Micro({first:Int64}, 'UTC') "
            "AND fromUnixTimestamp64Micro({last:Int64}, 'UTC') "
            "AND request_id IN {ids:Array(String)}"
        )
        times = [row[at[0]] for row in rows]
        ids = sorted({row[at[1]] for row in rows})
        return set(self._query(sql, {"first": min(times), "last": max(times), "ids": ids}))

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _query(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        client = self._connected()
        try:
            return [tuple(row) for row in client.query(sql, parameters=parameters).result_rows]
        except _failures() as error:
            raise self._failure(error) from None

    def _connected(self) -> Any:
        if self._client is None:
            self.connect()
        return self._client

    def _failure(self, error: Exception) -> StoreAway | Refused:
        """What an exception of the library means; the connection is made anew after anything but bad data."""
        code = getattr(error, "code", None)
        if code in _DATA_ERRORS:
            return Refused(code)
        if isinstance(error, _UNSERIALIZABLE):
            return Refused(0)  # the row could not even be serialized
        self.close()
        return _away(error, None)


def _failures() -> tuple[type[Exception], ...]:
    """Everything that clickhouse-connect and urllib3 raise when something is wrong on the other side."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    return ClickHouseError, HTTPError, OSError


def _insert_failures() -> tuple[type[Exception], ...]:
    return (*_failures(), *_UNSERIALIZABLE)


def _away(error: Exception, target: Target | None) -> StoreAway:
    """Foreign errors may quote the URL or the statement: their class and code say enough."""
    if isinstance(error, StoreAway):
        return error
    code = getattr(error, "code", None)
    where = f" at {target.name}" if target else ""
    return StoreAway(f"ClickHouse{where}: {type(error).__name__}{f', code {code}' if code else ''}")
