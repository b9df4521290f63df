"""ClickHouse's HTTP interface over the embedded engine: an ASGI application.

Its other side is clickhouse-connect, curl and whatever else speaks to port
8123 of a ClickHouse server. Answers in block formats are streamed; errors
carry ClickHouse's code; a client that goes away has its query killed.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from secure_mcp_grpc import logs
from trace_sink.store import calls, compression, errors
from trace_sink.store.calls import Call, Statement
from trace_sink.store.engine import Connection, Engine, Inserter, Summary
from trace_sink.store.errors import StoreError
from trace_sink.store.metrics import StoreMetrics
from trace_sink.store.passwords import Users
from trace_sink.store.responses import Responder
from trace_sink.store.sessions import Sessions
from trace_sink.store.statements import Role, Rules, first_word, is_streamable, output_format

__all__ = ["DATABASE", "StoreApp"]

DATABASE = "mcp"
"""The database of a request that names none."""

logger = logging.getLogger(__name__)

_APPEND_BYTES = 1 << 20
"""Insert data is handed to the engine in pieces of about this size."""
_HELD_BYTES = 64 << 20
"""Most of an answer that is held back for `wait_end_of_query`; a longer one is streamed."""
_KILL_EVERY_S = 0.2

P = ParamSpec("P")
T = TypeVar("T")


class StoreApp:
    """The application. `workers` runs the engine's blocking calls, `killer` has a thread to spare for KILL QUERY."""

    def __init__(
        self,
        engine: Engine,
        users: Users,
        rules: Rules,
        metrics: StoreMetrics,
        workers: ThreadPoolExecutor,
        killer: ThreadPoolExecutor,
    ) -> None:
        self._engine = engine
        self._users = users
        self._rules = rules
        self._metrics = metrics
        self._workers = workers
        self._killer = killer
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        responder = Responder(send, self._engine.timezone)
        try:
            if request.url.path == "/ping" or (request.url.path == "/" and _is_probe(request)):
                await responder.whole(b"Ok.\n", "", {})
            elif request.url.path != "/" or request.method not in ("GET", "POST", "HEAD"):
                await responder.plain(404, "There is no handle here; queries go to /, and /ping says Ok.\n")
            else:
                await self._serve(request, responder)
        except ClientDisconnect:
            logs.event(logger, logging.DEBUG, "client_gone")
        except Exception:  # noqa: BLE001 - top of the application: a bug must not show its insides
            logs.event(logger, logging.ERROR, "request_failed")
            await responder.error(StoreError.of((1002, "UNKNOWN_EXCEPTION"), "The store failed; see its log"))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._killer, self._sessions.close)

    async def _serve(self, request: Request, responder: Responder) -> None:
        role: Role | None = None
        kind, outcome = "other", "refused"
        started = time.perf_counter()
        try:
            role = self._authenticate(request)
            call, statement = await _read(request, responder)
            kind = {"INSERT": "insert", "SELECT": "select", "WITH": "select"}.get(
                first_word(statement.sql[:4096].decode(errors="replace")), "other"
            )
            await self._judge(call, statement, role, read_request=request.method != "POST" or call.readonly)
            outcome = "failed"
            with self._metrics.running.track_inprogress():
                await self._execute(request, responder, call, statement, role)
            outcome = "gone" if responder.gone else "ok"
        except StoreError as error:
            await responder.error(error)
        finally:
            user = role.value if role else "unknown"
            self._metrics.requests.labels(user, kind, outcome).inc()
            self._metrics.seconds.labels(kind).observe(time.perf_counter() - started)

    def _authenticate(self, request: Request) -> Role:
        given = calls.credentials(request.headers, request.query_params)
        role = self._users.role(given.user, given.password) if given else None
        if role is None:
            self._metrics.refused_logins.inc()
            name = given.user[:64] if given else ""
            raise StoreError.of(
                errors.AUTHENTICATION_FAILED,
                f"{name!r}: Authentication failed: password is incorrect, or there is no user with such name",
            )
        return role

    async def _judge(self, call: Call, statement: Statement, role: Role, *, read_request: bool) -> None:
        raw = statement.insert.statement.encode(errors="surrogateescape") if statement.insert else statement.sql
        text = raw.decode(errors="replace")
        if statement.insert:  # the engine's parser wants to see the format, not the data
            raw += b" FORMAT " + (statement.insert.format or "Values").encode()
        refused = await self._call(call, self._refusal, raw, text, role, read_request, call.params)
        if refused:
            raise StoreError.of(errors.READONLY if role is Role.READER else errors.ACCESS_DENIED, refused)

    def _refusal(self, raw: bytes, text: str, role: Role, read_request: bool, params: Mapping[str, str]) -> str | None:
        query_class, count = self._engine.classify(raw)
        return self._rules.refusal(text, role, query_class, count, read_request=read_request, params=params)

    async def _execute(
        self, request: Request, responder: Responder, call: Call, statement: Statement, role: Role
    ) -> None:
        async with self._connection(call, role) as connection:
            if statement.insert and statement.insert.format:
                inserter = await self._call(
                    call, connection.insert, statement.insert.statement, statement.insert.format
                )
                await self._insert(responder, call, inserter, statement.data, request.state.body)
                return
            async with self._killed_on_disconnect(request, responder, call):
                await self._query(responder, call, statement.sql, connection)

    @contextlib.asynccontextmanager
    async def _connection(self, call: Call, role: Role) -> AsyncIterator[Connection]:
        """A connection with the call's settings: its session's, or a fresh one."""
        session = None
        if call.session_id:
            session = await self._sessions.take(
                role, call.session_id, call.session_timeout_s, self._engine.connect, must_exist=call.session_check
            )
            self._metrics.sessions.set(len(self._sessions))
        connection = session.connection if session else await self._call(call, self._engine.connect)
        try:
            await self._call(call, _prepare, connection, call, role, session is not None)
            yield connection
        finally:
            if session:
                if call.settings:
                    with contextlib.suppress(StoreError):
                        await self._call(call, connection.reset, tuple(call.settings))
                self._sessions.release(role, call.session_id, call.session_timeout_s, close=call.close_session)
                self._metrics.sessions.set(len(self._sessions))
            else:
                await self._call(call, connection.close)

    async def _query(self, responder: Responder, call: Call, sql: bytes, connection: Connection) -> None:
        text = sql.decode(errors="replace")
        format_name = output_format(text) or call.format or "TabSeparated"
        if not is_streamable(text, format_name):
            answer, summary = await self._call(call, connection.query, sql, format_name, call.params)
            await responder.whole(answer, format_name, _summary_header(summary))
            return
        blocks = connection.stream(sql, format_name, call.params)
        try:
            held: list[bytes] = []
            size = 0
            while (block := await self._call(call, next, blocks, None)) is not None:
                held.append(block)
                size += len(block)
                if not call.wait_end or size > _HELD_BYTES:
                    break
            else:
                await responder.whole(b"".join(held), format_name, _summary_header(Summary()))
                return
            await responder.begin(format_name)
            await responder.send_block(b"".join(held))
            while not responder.gone and (block := await self._call(call, next, blocks, None)) is not None:
                await responder.send_block(block)
            await responder.end()
        finally:
            await self._call(call, _close, blocks)

    async def _insert(
        self, responder: Responder, call: Call, inserter: Inserter, first: bytes, body: AsyncIterator[bytes]
    ) -> None:
        try:
            pending = bytearray(first)
            async for piece in body:
                pending += piece
                if len(pending) >= _APPEND_BYTES:
                    await self._call(call, inserter.append, bytes(pending))
                    pending.clear()
            if pending:
                await self._call(call, inserter.append, bytes(pending))
            summary = await self._call(call, inserter.finish)
        except BaseException:
            await self._call(call, inserter.cancel)
            raise
        self._metrics.written_rows.inc(summary.written_rows)
        await responder.whole(b"", "", _summary_header(summary))

    @contextlib.asynccontextmanager
    async def _killed_on_disconnect(self, request: Request, responder: Responder, call: Call) -> AsyncIterator[None]:
        """Kill the call's query when its client goes away; nothing else would stop an aggregate."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            responder.gone = True
            while True:  # it may not have begun yet
                await self._kill(call)
                await asyncio.sleep(_KILL_EVERY_S)

        watcher = asyncio.create_task(watch())
        try:
            yield
        except StoreError:
            if not responder.gone:
                raise
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])

    async def _call(self, call: Call, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a worker. When cancelled, kills the query first and waits: the connection is in use."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._workers, functools.partial(function, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                await self._kill(call)
                await asyncio.wait([future], timeout=_KILL_EVERY_S)
            if not future.cancelled():
                future.exception()
            raise

    async def _kill(self, call: Call) -> None:
        await asyncio.get_running_loop().run_in_executor(self._killer, self._engine.kill, call.marker)


async def _read(request: Request, responder: Responder) -> tuple[Call, Statement]:
    """The request taken apart; what is left of its body is in `request.state.body`."""
    url = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        url |= await _form(request, url)
    call = calls.read_call(url, request.headers)
    accepted = request.headers.get("accept-encoding", "") if call.compress else ""
    responder.start_call(call.query_id, compression.choose(accepted))
    decompressor = compression.decompressor(request.headers.get("content-encoding", ""))
    body = calls.plain_body(_once(request), decompressor)
    request.state.body = body
    return call, await calls.read_statement(call.query, body)


async def _once(request: Request) -> AsyncIterator[bytes]:
    if not getattr(request, "_form", None):
        async for chunk in request.stream():
            yield chunk


async def _form(request: Request, url: Mapping[str, str]) -> dict[str, str]:
    """Query and parameters of a multipart form; the query follows that of the URL."""
    fields: dict[str, str] = {}
    async with request.form(max_files=0, max_fields=1000, max_part_size=calls.MAX_STATEMENT_BYTES) as form:
        for name, value in form.multi_items():
            if not isinstance(value, str):
                raise StoreError.of(errors.NOT_IMPLEMENTED, "External tables are not supported by the embedded store")
            fields[name] = value
    if "query" in fields and url.get("query"):
        fields["query"] = f"{url['query']}\n{fields['query']}"
    return {name: value for name, value in fields.items() if name == "query" or name.startswith("param_")}


def _prepare(connection: Connection, call: Call, role: Role, in_session: bool) -> None:
    """Settings of one call. A reader's connection becomes readonly=2 for good: settings may change, data may not."""
    connection.set({"log_comment": f"{call.marker} {call.query_id} {call.comment}", **call.settings})
    if call.database or not in_session:
        connection.use(call.database or DATABASE)
    for name, value in call.params.items():
        if not name.isidentifier():
            raise StoreError.of(errors.BAD_ARGUMENTS, f"Parameter {name[:32]!r} is not an identifier")
        del value
    if role is Role.READER:
        connection.set({"readonly": "2"})


def _is_probe(request: Request) -> bool:
    return request.method in ("GET", "HEAD") and "query" not in request.query_params


def _close(blocks: Iterator[bytes]) -> None:
    blocks.close()  # type: ignore[attr-defined] # a generator


def _summary_header(summary: Summary) -> dict[str, str]:
    return {
        "read_rows": str(summary.read_rows),
        "read_bytes": str(summary.read_bytes),
        "written_rows": str(summary.written_rows),
        "written_bytes": str(summary.written_bytes),
        "total_rows_to_read": "0",
        "result_rows": str(summary.result_rows or summary.written_rows),
        "result_bytes": str(summary.written_bytes),
        "elapsed_ns": str(int(summary.elapsed_s * 1e9)),
    }
