"""chDB behind a small, typed surface: connections, statements, streams, inserts, cancellation.

Everything that touches chdb-core's non-public seam is here (`chdb._chdb`:
`classify_query`, raw results); hence the exact pin of chdb-core. All calls
block and release the GIL: run them in threads. The engine supports one data
directory in a process and does not survive a fork.
"""

import fcntl
import importlib
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_mcp_grpc.errors import UserError
from trace_sink.store.errors import StoreError
from trace_sink.store.statements import Class

__all__ = ["Connection", "Engine", "Inserter", "Summary", "lock_directory"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a statement read and wrote."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_s: float = 0.0


def lock_directory(data_dir: Path) -> int:
    """Take the directory for this process; the lock ends with it, however it ends. Raises `UserError` if taken."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(
            f"store directory {data_dir} is in use by another store (pid {holder}); stop it or set MCP_STORE_DATA_DIR"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


class Engine:
    """The open engine. `close` it only after every connection is idle."""

    def __init__(self, directory: Path, config: Path) -> None:
        """Open `directory`, repairing what a crash left. Raises `UserError` if the engine cannot."""
        self._target = f"{directory.absolute()}?config-file={config.absolute()}"
        self._native = _load()
        try:
            self._root = self._native.connect(self._target)
        except RuntimeError as error:
            text = StoreError.from_engine(error).text
            raise UserError(f"store directory {directory} cannot be opened: {text[:300]}") from None
        self._guard = threading.Lock()
        version, zone = self._root.query("SELECT version(), timezone()", "TSV").bytes().decode().split()
        self.version: str = version
        self.timezone: str = zone

    def connect(self) -> "Connection":
        return Connection(self._native.connect(self._target))

    def table_functions(self) -> list[str]:
        """Names of every table function there is."""
        return self._names("SELECT name FROM system.table_functions")

    def reaching_functions(self) -> list[str]:
        """Names of the scalar functions that reach files or the network and that no grant covers."""
        return self._names(
            "SELECT name FROM system.functions WHERE match(name, '^ai[A-Z]') "
            "OR lower(name) IN ('file', 'catboostevaluate', 'getclienthttpheader')"
        )

    def canonical(self, sql: str) -> str:
        """`sql` as the engine's parser would write it; raises `ValueError` for what it does not parse."""
        try:
            with self._guard:
                answer = self._root.query(
                    "SELECT formatQuerySingleLine({sql:String})", "RawBLOB", params={"sql": _escaped(sql)}
                )
        except RuntimeError:
            raise ValueError("not one statement") from None
        return str(answer.bytes().decode(errors="replace"))

    def classify(self, sql: str | bytes) -> tuple[Class, int]:
        """The class of `sql` and its number of statements, as the engine's parser sees it."""
        with self._guard:
            report = self._root.classify_query(sql)
        return Class(report["query_class"].name), int(report["statement_count"])

    def kill(self, marker: str) -> None:
        """Ask the queries that were started under `marker` to stop; the empty marker means every query."""
        where = "startsWith(Settings['log_comment'], {marker:String}) AND query NOT LIKE 'KILL QUERY%'"
        with self._guard:
            self._root.query(f"KILL QUERY WHERE {where} ASYNC", "Null", params={"marker": marker})

    def close(self) -> None:
        self._root.close()

    def _names(self, sql: str) -> list[str]:
        with self._guard:
            return [str(name) for name in self._root.query(sql, "TSV").bytes().decode().split()]


class Connection:
    """One connection with settings of its own. Not for two threads at a time."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings for what follows. Names must be identifiers."""
        if settings:
            self._run("SET " + ", ".join(f"{name} = {_quoted(value)}" for name, value in settings.items()))

    def reset(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._run(f"SET {name} = DEFAULT")

    def use(self, database: str) -> None:
        self._run("USE {database:Identifier}", params={"database": database})

    def query(self, sql: str | bytes, format_name: str, params: Mapping[str, str]) -> tuple[bytes, Summary]:
        """Run one statement and return its whole answer."""
        answer = self._run(sql, format_name, params)
        return answer.bytes(), _summary(answer)

    def stream(self, sql: str | bytes, format_name: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """Run a SELECT and yield its answer in blocks; closing the iterator cancels the query."""
        try:
            stream = self._native.send_query(sql, format_name, params=dict(params))
        except RuntimeError as error:
            raise StoreError.from_engine(error) from None
        finished = False
        try:
            while True:
                try:
                    block = self._native.streaming_fetch_result(stream)
                except RuntimeError as error:
                    finished = True
                    raise StoreError.from_engine(error) from None
                if block is None or block.rows_read() == 0:
                    finished = True
                    return
                yield block.bytes()
        finally:
            if not finished:
                self._native.streaming_cancel_query(stream)

    def insert(self, statement: str, format_name: str) -> "Inserter":
        """Begin an INSERT whose data follows; never through `query`, where an empty line would end the data."""
        try:
            return Inserter(self._native, self._native.send_insert(statement, format_name))
        except RuntimeError as error:
            raise StoreError.from_engine(error) from None

    def close(self) -> None:
        self._native.close()

    def _run(self, sql: str | bytes, format_name: str = "Null", params: Mapping[str, str] | None = None) -> Any:
        try:
            return self._native.query(sql, format_name, params=dict(params or {}))
        except RuntimeError as error:
            raise StoreError.from_engine(error) from None


class Inserter:
    """An INSERT under way: `append` data, then `finish` or `cancel`."""

    def __init__(self, native: Any, stream: Any) -> None:
        self._native = native
        self._stream = stream
        self._open = True

    def append(self, data: bytes) -> None:
        try:
            self._native.insert_append(self._stream, data)
        except RuntimeError as error:
            raise StoreError.from_engine(error) from None

    def finish(self) -> Summary:
        self._open = False
        try:
            return _summary(self._native.insert_done(self._stream))
        except RuntimeError as error:
            raise StoreError.from_engine(error) from None

    def cancel(self) -> None:
        if self._open:
            self._open = False
            self._native.insert_cancel(self._stream)


def _summary(answer: Any) -> Summary:
    return Summary(
        read_rows=answer.storage_rows_read(),
        read_bytes=answer.storage_bytes_read(),
        written_rows=answer.rows_written(),
        written_bytes=answer.bytes_written(),
        result_rows=answer.rows_read(),
        elapsed_s=answer.elapsed(),
    )


def _escaped(value: str) -> str:
    """A parameter's text as ClickHouse reads it (TabSeparated escapes)."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\0", "\\0")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _load() -> Any:
    """The extension module without the package around it, whose imports (pyarrow, numpy) cost 50 MB and 0.3 s."""
    if "chdb" not in sys.modules:
        spec = importlib.util.find_spec("chdb")
        if spec is None or spec.submodule_search_locations is None:
            raise UserError("the embedded store needs chdb; install secure-mcp-grpc[store] or set CLICKHOUSE_URL")
        package = types.ModuleType("chdb")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["chdb"] = package
    try:
        _chdb: Any = importlib.import_module("chdb._chdb")
    except ImportError:
        raise UserError("chdb cannot be loaded; it needs a CPU with AVX2 (x86-64) or an ARM64 one") from None
    # SIGTERM and SIGINT are the event loop's.
    _chdb.set_signal_handlers_enabled(0)
    return _chdb
