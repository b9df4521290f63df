"""The same bridge over streamable HTTP, where a session has an id, ids are the client's own, and streams are apart."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import mcp
import mcp_types as types
import pytest
import uvicorn
from bridge_harness import Bridge, serving
from era_bridge import Answers
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult, SamplingMessage, TextContent

from mcp_bridge.eras.bridged import Bridged
from mcp_bridge.upstreams.http import HttpUpstream

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


def server() -> MCPServer:
    one = MCPServer("web")

    @one.tool()
    def add(a: int, b: int) -> int:
        """The sum."""
        return a + b

    @one.tool()
    async def count(to: int, context: Context) -> int:
        """Counts."""
        for number in range(to):
            await context.report_progress(number, to)
        return to

    @one.tool()
    async def ask(question: str, context: Context) -> str | InputRequiredResult:
        """Samples, in either era."""
        message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
        if context.protocol_version != "2026-07-28":
            answer: Any = await context.session.create_message(
                [message], max_tokens=10, related_request_id=context.request_id
            )
        elif context.input_responses:
            answer = context.input_responses["q"]
        else:
            params = types.CreateMessageRequestParams(messages=[message], max_tokens=10)
            return InputRequiredResult(input_requests={"q": types.CreateMessageRequest(params=params)})
        return str(answer.content.text)

    @one.tool()
    async def change(context: Context) -> None:
        """Tools changed."""
        await context.notify_tools_changed()
        with contextlib.suppress(Exception):
            await context.session.send_tool_list_changed()

    return one


class OneEra:
    """An ASGI app that knows one era of what it wraps, and answers the other as servers do that never heard of it."""

    def __init__(self, app: Any, era: str) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        message = json.loads(body)
        is_modern = dict(scope["headers"]).get(b"mcp-protocol-version") == b"2026-07-28"
        if is_modern != (self._era == "modern"):
            await self._refuse(message, send)
            return
        given = False

        async def again() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _refuse(self, message: Any, send: Any) -> None:
        answer, kind = b"Bad Request: no session", b"text/plain"
        if self._era == "modern":
            kind = b"application/json"
            error = {"code": -32602, "message": "params._meta is missing"}
            answer = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": error}).encode()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def web(era: str) -> AsyncIterator[Bridge]:
    app = OneEra(server().streamable_http_app(), era)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1, ws="none")
        running = uvicorn.Server(config)
        running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(running.serve(sockets=[listener]))
        while not running.started:
            await asyncio.sleep(0.01)
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
            async with serving(Bridged(HttpUpstream("web", url, max_message_bytes=1024 * 1024))) as bridge:
                yield bridge
        finally:
            running.should_exit = True
            await task


@pytest.mark.parametrize(("era", "mode"), [("handshake", "auto"), ("modern", "legacy")])
async def test_other_era_is_reached_over_http(era: str, mode: Any) -> None:
    """Issue 4: over HTTP too, several clients of one identity side by side, with progress and questions."""
    seen: list[float] = []

    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        seen.append(progress)

    async with (
        asyncio.timeout(30),
        web(era) as bridge,
        Answers().client(bridge, mode) as one,
        Answers().client(bridge, mode) as other,
    ):
        assert (await one.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        assert (await one.call_tool("count", {"to": 3}, progress_callback=note)).structured_content == {"result": 3}
        # Both clients count their ids from the same number.
        both = [
            client.call_tool("ask", {"question": f"{name}{number}"})
            for name, client in (("a", one), ("b", other))
            for number in range(5)
        ]
        answers = [result.content[0].text for result in await asyncio.gather(*both)]
    assert seen == [0, 1, 2]
    assert answers == [f"re {name}{number}" for name in "ab" for number in range(5)]


async def test_listening_over_http() -> None:
    """Issue 4: list_changed of a modern HTTP server reaches a handshake session."""
    async with web("modern") as bridge, asyncio.timeout(30):
        answers = Answers()
        async with answers.client(bridge, "legacy") as client:
            while not answers.messages:
                await client.call_tool("change", {})
                await asyncio.sleep(0.05)
    assert type(answers.messages[0]).__name__ == "ToolListChangedNotification"


async def test_lost_http_session_is_opened_again() -> None:
    """Spec 2025-11-25, "Session Management": 404 means a new session; a stateless client notices nothing."""
    async with web("handshake") as bridge, mcp.Client(bridge.transport()) as client, asyncio.timeout(30):
        await client.call_tool("add", {"a": 1, "b": 2})
        for remote in bridge.upstream.inner._remotes.values():
            remote.session_id = "forgotten"
        assert (await client.call_tool("add", {"a": 2, "b": 2})).structured_content == {"result": 4}
