"""The dashboard's side of the store: one shared ClickHouse client that only reads.

Queries stand in `dashboard.queries`; views stand on the other side and get
data frames or a `StoreError` whose text is fit to be shown.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pandas as pd
from clickhouse_connect import common, get_client
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from urllib3.exceptions import HTTPError

from dashboard.metrics import metrics
from dashboard.queries import PING, Query
from dashboard.settings import DashboardSettings

__all__ = ["Answer", "Store", "StoreError"]

_CONNECT_TIMEOUT_S: Final = 2
_AUTHENTICATION: Final = frozenset({192, 193, 194, 497, 516})
_NO_TABLES: Final = frozenset({60, 81})
_TOO_LONG: Final = frozenset({159, 160, 209})
_TOO_MUCH: Final = frozenset({158, 241, 307, 396})


class StoreError(Exception):
    """The store gave no answer. `code` is stable and bounded; the text is a sentence without secrets."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query; `truncated` says that the store had more than the query shows."""

    frame: pd.DataFrame
    truncated: bool


class Store:
    """A client that connects when first asked and again after a failure. Safe to share between threads."""

    def __init__(self, settings: DashboardSettings, timeout_s: int | None = None) -> None:
        """`timeout_s` bounds each query instead of the settings' `query_timeout_s`."""
        self._settings = settings
        self._timeout_s = timeout_s or settings.query_timeout_s
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._address = "the configured address"

    def run(self, query: Query, parameters: Mapping[str, Any]) -> Answer:
        """Ask `query`; raises `StoreError`."""
        started = time.perf_counter()
        result = "fault"
        try:
            answer = self._ask(query, {**parameters, "max_rows": query.max_rows + 1})
            result = "ok"
        except StoreError as error:
            result = error.code
            raise
        finally:
            metrics().queries.labels(query.name, result).inc()
            metrics().query_seconds.labels(query.name).observe(time.perf_counter() - started)
        return answer

    def ping(self) -> bool:
        """Whether the store answers."""
        try:
            self.run(PING, {})
        except StoreError:
            return False
        return True

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _ask(self, query: Query, parameters: Mapping[str, Any]) -> Answer:
        try:
            result = self._connected().query(query.sql, parameters=dict(parameters))
        except (ClickHouseError, HTTPError, OSError) as error:
            failure = self._explain(error)
            if failure.code in ("away", "refused"):
                self.close()
            raise failure from None
        rows = dict(zip(result.column_names, result.result_columns, strict=True)) if result.row_count else {}
        frame = pd.DataFrame(rows, columns=query.columns.split())
        return Answer(frame.head(query.max_rows), len(frame) > query.max_rows)

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Client:
        url = self._url()
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host is None or parts.scheme not in ("http", "https"):
            raise StoreError(
                "misconfigured", "The store's URL is not of the form http://user:password@host:port/database."
            )
        secure = parts.scheme == "https"
        port = port or (8443 if secure else 8123)
        self._address = f"{host}:{port}"
        # A read-only user may not set limits: then the socket's timeout and each query's LIMIT bound it.
        common.set_setting("invalid_setting_action", "drop")
        common.set_setting("send_os_user", False)
        return get_client(
            host=host,
            port=port,
            interface="https" if secure else "http",
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.strip("/")) or "mcp",
            connect_timeout=_CONNECT_TIMEOUT_S,
            send_receive_timeout=self._timeout_s + 1,
            # A session would serialize the queries of all pages that are open.
            autogenerate_session_id=False,
            query_retries=0,
            settings={"max_execution_time": self._timeout_s},
            tz_mode="aware",
            client_name="secure-mcp-grpc-dashboard",
        )

    def _url(self) -> str:
        path = self._settings.clickhouse_url_file
        if path is not None:
            try:
                return path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise StoreError("away", f"The file with the store's address, {path}, cannot be read yet.") from None
        if self._settings.clickhouse_url is None:
            raise StoreError("misconfigured", "No store is named; set CLICKHOUSE_URL.")
        return self._settings.clickhouse_url.get_secret_value()

    def _explain(self, error: Exception) -> StoreError:
        code = getattr(error, "code", None)
        if code in _AUTHENTICATION:
            return StoreError("refused", f"The store at {self._address} refuses the dashboard's user or password.")
        if code in _NO_TABLES:
            return StoreError("no_tables", "The store has no tables yet; trace_sink makes them when it starts.")
        if code in _TOO_LONG:
            sentence = f"The store did not finish within {self._timeout_s} s; choose a shorter time range."
            return StoreError("slow", sentence)
        if code in _TOO_MUCH:
            return StoreError("large", "The answer is too large for the store's limits; choose a shorter time range.")
        if code is None or isinstance(error, OperationalError) or not isinstance(error, DatabaseError):
            return StoreError("away", f"The store at {self._address} does not answer.")
        return StoreError("failed", f"The store refused a query (code {code}).")
