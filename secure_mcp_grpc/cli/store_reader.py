"""Reads the store for commands: recorded decisions, block by block, and the arguments of some of them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from secure_mcp_grpc.errors import UserError

__all__ = ["StoreReader", "read_url"]

_EXPECTED: Final = "expected http[s]://user:password@host:port/database"
_CONNECT_TIMEOUT_S: Final = 5
_READ_TIMEOUT_S: Final = 300
_CLOCK_SLACK: Final = timedelta(minutes=10)
"""Between a decision and the start of its execution lie microseconds; clocks of a pod are one clock, mostly."""
_COUNT: Final = (
    "SELECT count() FROM decisions WHERE kind = 'decision' "
    "AND ts >= {since:DateTime64(6, 'UTC')} AND ts < {until:DateTime64(6, 'UTC')}"
)
_RECORDS: Final = (
    "SELECT record FROM decisions WHERE kind = 'decision' "
    "AND ts >= {since:DateTime64(6, 'UTC')} AND ts < {until:DateTime64(6, 'UTC')} ORDER BY chain, seq"
)
_ARGUMENTS: Final = (
    "SELECT chain, seq, any(arguments) FROM interactions "
    "WHERE ts >= {since:DateTime64(6, 'UTC')} AND ts < {until:DateTime64(6, 'UTC')} "
    "AND chain IN {chains:Array(String)} AND seq IN {seqs:Array(UInt64)} GROUP BY chain, seq"
)
_AUTHENTICATION: Final = frozenset({192, 193, 194, 497, 516})
_NO_TABLES: Final = frozenset({60, 81})


def read_url(path: Path) -> str:
    """The store's URL in the file `path`; raises `UserError`."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: nothing was recorded here; name a store with --store URL") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


class StoreReader:
    """One store, read only. Every method raises `UserError` where the store gives no answer; it shows no password."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UserError(f"the store's URL has a bad host or port; {_EXPECTED}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise UserError(f"the store's URL is not one; {_EXPECTED}")
        port = port or (8443 if parts.scheme == "https" else 8123)
        self.name = f"{host}:{port}"
        """For people: without user and password."""
        try:
            import clickhouse_connect
            from clickhouse_connect import common
            from clickhouse_connect.driver import exceptions
        except ImportError:
            raise UserError("reading the store needs an extra: pip install 'secure-mcp-grpc[sink]'") from None
        from urllib3.exceptions import HTTPError

        self._failures = (exceptions.ClickHouseError, HTTPError, OSError)
        # What it has to say is said here, in one line.
        logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
        # A read-only user may not set limits; the socket's timeout bounds a query.
        common.set_setting("invalid_setting_action", "drop")
        common.set_setting("send_os_user", False)
        with self._explained():
            self._client: Any = clickhouse_connect.get_client(
                host=host,
                port=port,
                interface=parts.scheme,
                username=unquote(parts.username or "default"),
                password=unquote(parts.password or ""),
                database=unquote(parts.path.strip("/")) or "mcp",
                connect_timeout=_CONNECT_TIMEOUT_S,
                send_receive_timeout=_READ_TIMEOUT_S,
                # A session would not let arguments be looked up while records stream.
                autogenerate_session_id=False,
                query_retries=0,
                tz_mode="aware",
                client_name="secure-mcp-grpc-cli",
            )

    def count(self, since: datetime, until: datetime) -> int:
        """How many decisions were made from `since` to before `until`."""
        with self._explained():
            result = self._client.query(_COUNT, parameters={"since": since, "until": until})
            return int(result.result_rows[0][0])

    def records(self, since: datetime, until: datetime) -> Iterator[Sequence[str]]:
        """Their journal lines in blocks of some thousands, ordered by chain and number; one block is held at a time.

        A line that the sink stored twice comes twice, one after the other.
        """
        parameters = {"since": since, "until": until}
        with self._explained(), self._client.query_column_block_stream(_RECORDS, parameters=parameters) as blocks:
            for (records,) in blocks:
                yield records

    def arguments(self, calls: Sequence[tuple[str, int, datetime]]) -> dict[tuple[str, int], str]:
        """The sanitized arguments recorded under these decisions (chain, number, time), where there are any."""
        if not calls:
            return {}
        times = [time for _, _, time in calls]
        parameters = {
            "since": min(times) - _CLOCK_SLACK,
            "until": max(times) + _CLOCK_SLACK,
            "chains": sorted({chain for chain, _, _ in calls}),
            "seqs": sorted({seq for _, seq, _ in calls}),
        }
        with self._explained():
            rows = self._client.query(_ARGUMENTS, parameters=parameters).result_rows
        return {(chain, seq): text for chain, seq, text in rows}

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            code = getattr(error, "code", None)
            if code in _AUTHENTICATION:
                raise UserError(f"the store at {self.name} refuses this user or password") from None
            if code in _NO_TABLES:
                raise UserError(f"the store at {self.name} has no such database or no tables yet") from None
            if isinstance(code, int) and code > 0:
                raise UserError(f"the store at {self.name} refused the query (code {code})") from None
            raise UserError(f"the store at {self.name} does not answer") from None
