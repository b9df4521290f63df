"""Event streams that break, and sessions that a server ends: 2025-11-25 over a server of bare sockets."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from unruly_http import Answer, Asked, HttpServer, http_server

from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange, Note, Outbox, Session
from mcp_bridge.upstreams import http as http_module
from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.wire import Meta
from secure_mcp_grpc.calls import McpCall

LIMIT = 100_000
ANSWER = '{"jsonrpc":"2.0","id":7,"result":{"ok":true}}'
NOTE = '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":%d}}'


def exchange(session: Session | None, method: str = "tools/call", **fields: Any) -> Exchange:
    version = "2025-11-25" if session is not None else "2026-07-28"
    return Exchange(McpCall(method, "", {}, version), b"7", b'{"name":"x"}', Meta(), session=session, **fields)


@contextlib.asynccontextmanager
async def opened(answer: Answer) -> AsyncIterator[tuple[HttpServer, HttpUpstream, Session]]:
    """A session with a server that serves everything but `initialize` by `answer`."""

    async def serve(asked: Asked) -> None:
        if asked.message.get("method") == "initialize":
            await asked.result({"protocolVersion": "2025-11-25"}, mcp_session_id="remote-1")
        elif asked.method == "DELETE":
            await asked.head(content_length="0")
        elif asked.method == "POST" and "id" not in asked.message:
            await asked.head("202 Accepted", content_length="0")
        else:
            await answer(asked)

    async with http_server(serve) as server:
        upstream = HttpUpstream("remote", server.url, max_message_bytes=LIMIT)
        session = Session("s", "model-a", Outbox(LIMIT))
        await upstream.start()
        await upstream.request(replace(exchange(session, "initialize"), opens_session=True))
        try:
            yield server, upstream, session
        finally:
            await upstream.end_session(session)
            await upstream.close()


async def test_broken_stream_is_resumed_where_it_broke_and_the_call_is_sent_once() -> None:
    """MCP 2025-11-25, "Resumability and Redelivery": GET with Last-Event-ID; issue 4: a tools/call is never retried."""

    async def answer(asked: Asked) -> None:
        await asked.stream()
        match asked.headers.get("last-event-id"):
            case None if asked.method == "POST":
                await asked.event("", id="e0", retry=10)
                await asked.event(NOTE % 1, id="e1")
            case "e1":
                await asked.event(NOTE % 2, id="e2")
            case "e2":
                await asked.event(ANSWER, id="e3")

    outbox = Outbox(LIMIT)
    async with opened(answer) as (server, upstream, session), asyncio.timeout(10):
        result = await upstream.request(exchange(session, outbox=outbox))

    outbox.close()
    assert result == ANSWER.encode()
    assert [await outbox.get(), await outbox.get()] == [(NOTE % 1).encode(), (NOTE % 2).encode()]
    assert server.count("POST", "tools/call") == 1
    resumed = [one.headers for one in server.asked if one.method == "GET"]
    assert [one["last-event-id"] for one in resumed] == ["e1", "e2"]
    assert {one["mcp-session-id"] for one in resumed} == {"remote-1"}
    assert {one["mcp-protocol-version"] for one in resumed} == {"2025-11-25"}


async def test_server_that_closes_on_purpose_is_polled_at_the_pace_it_asked_for() -> None:
    """MCP 2025-11-25, "Sending Messages": the server may close after an event with an id; `retry` is honoured."""
    times: list[float] = []

    async def answer(asked: Asked) -> None:
        times.append(asyncio.get_running_loop().time())
        await asked.stream()
        await asked.event("", id=f"poll-{len(times)}", retry=60)
        if len(times) == 8:
            await asked.event(ANSWER)

    async with opened(answer) as (_, upstream, session), asyncio.timeout(10):
        assert await upstream.request(exchange(session)) == ANSWER.encode()

    assert len(times) == 8
    assert all(later - sooner >= 0.055 for sooner, later in itertools.pairwise(times))


async def test_resuming_is_given_up_after_some_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a server that never gets further costs a bounded number of requests."""
    monkeypatch.setattr(http_module, "_MOST_RETRY_S", 0.01)

    async def answer(asked: Asked) -> None:
        if asked.method == "POST":
            await asked.stream()
            await asked.event("", id="e1", retry=1)
        else:
            asked.writer.transport.abort()

    async with opened(answer) as (server, upstream, session), asyncio.timeout(10):
        with pytest.raises(HopError, match="broke before it answered; it was not resumed") as failed:
            await upstream.request(exchange(session))

    assert failed.value.code is grpc.StatusCode.UNAVAILABLE
    assert server.count("GET") == 5
    assert server.count("POST", "tools/call") == 1


async def test_answer_that_a_resumed_stream_passed_over_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the MCP SDK for Python loses what it writes between sending old events again and telling where it is now
    ("e3" of the first stream that was resumed); what came is not passed on twice, and keep-alives are no sign of it."""
    monkeypatch.setattr(http_module, "_SILENCE_S", 0.2)
    resumed: list[str] = []

    async def answer(asked: Asked) -> None:
        await asked.stream()
        if asked.method == "POST":
            await asked.event("", id="e0", retry=10)
            return
        resumed.append(asked.headers["last-event-id"])
        if resumed == ["e0"]:
            await asked.event(NOTE % 1, id="e1")
            await asked.event("", id="e3", retry=10)
            with contextlib.suppress(ConnectionError):
                while not asked.writer.is_closing():
                    await asked.raw(b": ping\n\n")
                    await asyncio.sleep(0.05)
        elif resumed[-1] == "e1":
            await asked.event(ANSWER, id="e2")

    outbox = Outbox(LIMIT)
    async with opened(answer) as (server, upstream, session), asyncio.timeout(10):
        assert await upstream.request(exchange(session, outbox=outbox)) == ANSWER.encode()

    outbox.close()
    assert [await outbox.get(), await outbox.get()] == [(NOTE % 1).encode(), None]
    assert resumed == ["e0", "e1"]
    assert server.count("POST", "tools/call") == 1


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "400 Bad Request"])
async def test_server_that_does_not_resume_is_not_asked_again(status: str) -> None:
    """Ours: its refusal counts for good."""

    async def answer(asked: Asked) -> None:
        if asked.method == "POST":
            await asked.stream()
            await asked.event("", id="e1", retry=1)
        else:
            await asked.head(status, content_length="0")

    async with opened(answer) as (server, upstream, session), asyncio.timeout(10):
        with pytest.raises(HopError, match="it was not resumed"):
            await upstream.request(exchange(session))

    assert server.count("GET") == 1


async def test_stream_without_ids_and_stateless_requests_are_not_resumed() -> None:
    """Ours: without an id there is nothing to resume; 2026-07-28 has no resumption."""

    async def answer(asked: Asked) -> None:
        await asked.stream()
        if "mcp-session-id" not in asked.headers:
            await asked.event("", id="e1", retry=1)

    async with opened(answer) as (server, upstream, session):
        for one in (session, None):
            with pytest.raises(HopError, match="ended its answer without a response"):
                await upstream.request(exchange(one))

    assert server.count("GET") == 0


@pytest.mark.parametrize("where", ["request", "resume", "notify", "listen"])
async def test_session_that_the_server_ended_is_not_found(where: str) -> None:
    """MCP 2025-11-25, "Session Management": 404 ends the session, and the caller learns it as NOT_FOUND."""
    body = '{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}'

    async def answer(asked: Asked) -> None:
        if where == "resume" and asked.method == "POST":
            await asked.stream()
            await asked.event("", id="e1", retry=1)
        else:
            await asked.json(body, "404 Not Found")

    async with opened(answer) as (_, upstream, session), asyncio.timeout(10):
        if where == "listen":
            await upstream.notify(Note("notifications/initialized", b"", "model-a", session))
            assert await session.queue.get() is None
        with pytest.raises(HopError) as failed:
            await upstream.request(exchange(session))
        if where == "notify":
            with pytest.raises(HopError) as failed:
                await upstream.notify(Note("notifications/roots/list_changed", b"", "model-a", session))
        assert failed.value.code is grpc.StatusCode.NOT_FOUND
        assert await session.queue.get() is None


async def test_listening_stream_is_taken_up_again_and_passes_on_what_is_for_the_client() -> None:
    """MCP 2025-11-25, "Listening for Messages from the Server": resumed, too; stray answers and nonsense stay here."""
    asks = '{"jsonrpc":"2.0","id":1,"method":"ping"}'

    async def answer(asked: Asked) -> None:
        await asked.stream()
        if "last-event-id" not in asked.headers:
            await asked.event("nonsense", retry=10)
            await asked.event('{"jsonrpc":"2.0","id":7,"result":{}}')
            await asked.event(NOTE % 1, id="l1")
        elif asked.headers["last-event-id"] == "l1":
            await asked.event(asks, id="l2")
        else:
            await asked.gone()

    async with opened(answer) as (_, upstream, session), asyncio.timeout(10):
        await upstream.notify(Note("notifications/initialized", b"", "model-a", session))
        assert [await session.queue.get(), await session.queue.get()] == [(NOTE % 1).encode(), asks.encode()]


async def test_session_whose_opening_is_cancelled_ends_at_the_server() -> None:
    """Ours: a session that nobody will use is not left to the server."""
    heard = asyncio.Event()

    async def answer(asked: Asked) -> None:
        if asked.method == "DELETE":
            await asked.head(content_length="0")
            return
        await asked.stream(mcp_session_id="remote-2")
        heard.set()
        await asked.gone()

    async with http_server(answer) as server:
        upstream = HttpUpstream("remote", server.url, max_message_bytes=LIMIT)
        session = Session("s", "model-a", Outbox(LIMIT))
        asking = asyncio.create_task(upstream.request(replace(exchange(session, "initialize"), opens_session=True)))
        await heard.wait()
        while "s" not in upstream._remotes:
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await upstream.end_session(session)
        await upstream.close()

    assert [one.headers["mcp-session-id"] for one in server.asked if one.method == "DELETE"] == ["remote-2"]
    assert not upstream._remotes
