"""Servers that misbehave in every way we could think of: one caller gets a clear error, the others notice nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import unruly_http
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool

from mcp_bridge.upstreams.http import HttpUpstream
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

LIMIT = 1024 * 1024
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED

NONSENSE = (UNAVAILABLE, "the MCP server unruly answered with something that is not JSON-RPC")
TOO_LARGE = (EXHAUSTED, "an answer of the MCP server unruly is larger than the limit of 1048576 bytes")
NO_ANSWER = (DEADLINE, "no answer from the MCP server within 2 s")
ENDED = (UNAVAILABLE, "the MCP server unruly ended before it answered")
BROKE = (UNAVAILABLE, "the connection to the MCP server unruly broke before it answered")

STDIO: dict[str, Any] = {
    "crash": ENDED,
    "closes_stdout": ENDED,
    "hang": NO_ANSWER,
    "half_line": NO_ANSWER,
    "deaf": NO_ANSWER,
    "only_unasked": NO_ANSWER,
    "huge": TOO_LARGE,
    "huge_last": TOO_LARGE,
    "garbage": NONSENSE,
    "not_utf8": NONSENSE,
    "two_results": NONSENSE,
    "two_members": NONSENSE,
    "two_metas": NONSENSE,
    "deep": NONSENSE,
    "flood": "after the flood",
    "notes": "after the notes",
    "unasked": "asked",
    "guessed_tokens": "guessed",
    "early": "early",
    "twice": "first",
    "odd_messages": "odd",
}
HTTP: dict[str, Any] = {
    "crash": BROKE,
    "half_body": BROKE,
    "not_http": BROKE,
    "long_header": BROKE,
    "hang": NO_ANSWER,
    "slow_loris": NO_ANSWER,
    "endless_comments": NO_ANSWER,
    "huge": TOO_LARGE,
    "huge_event": TOO_LARGE,
    "endless_event": TOO_LARGE,
    "bomb": TOO_LARGE,
    "bomb_event": TOO_LARGE,
    "double_bomb": (UNAVAILABLE, "the MCP server unruly answered in an encoding that it was not offered"),
    "odd_encoding": (UNAVAILABLE, "the MCP server unruly answered in an encoding that it was not offered"),
    "garbage": NONSENSE,
    "garbage_event": NONSENSE,
    "not_utf8": NONSENSE,
    "not_utf8_event": NONSENSE,
    "two_results": NONSENSE,
    "two_members": NONSENSE,
    "two_metas": NONSENSE,
    "deep": NONSENSE,
    "only_unasked": NONSENSE,
    "only_unasked_event": (UNAVAILABLE, "the MCP server unruly ended its answer without a response"),
    "request_as_answer": NONSENSE,
    "wrong_type": NONSENSE,
    "no_content": NONSENSE,
    "redirect": (UNAVAILABLE, "the MCP server unruly answered with a redirect, which is not followed"),
    "server_error": (UNAVAILABLE, "the MCP server unruly answered with HTTP status 500"),
    "unasked": "asked",
    "notes": "after the notes",
    "guessed_tokens": "guessed",
    "twice": "first",
}
MISDEEDS = [("stdio", name) for name in STDIO] + [("http", name) for name in HTTP]


@contextlib.asynccontextmanager
async def unruly(kind: str) -> AsyncIterator[Bridge]:
    async with contextlib.AsyncExitStack() as stack:
        if kind == "stdio":
            upstream: Any = stdio("unruly", "-S", str(HERE / "unruly_server.py"), max_message_bytes=LIMIT)
        else:
            server = await stack.enter_async_context(unruly_http.http_server(unruly_http.misbehave))
            upstream = HttpUpstream("unruly", server.url, max_message_bytes=LIMIT)
        yield await stack.enter_async_context(serving(upstream, request_timeout_s=2.0, max_answer_bytes=LIMIT))


@dataclass
class Caller:
    """A client of one identity, in one era."""

    channel: grpc.aio.Channel
    session_id: str = ""

    async def call(self, name: str, arguments: Any = None) -> Any:
        fields = {"session_id": self.session_id} if self.session_id else {}
        answer = await send(self.channel, "Call", tool(name, arguments, **fields))
        return answer["result"]["content"][0]["text"]


@contextlib.asynccontextmanager
async def caller(bridge: Bridge, subject: str, era: str) -> AsyncIterator[Caller]:
    async with bridge.channel(subject) as channel:
        one = Caller(channel)
        if era == "session":
            info = {"name": "test", "version": "1"}
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
            opened = await send_raw(channel, request("initialize", params))
            one.session_id = opened.session_id
        yield one


async def send_raw(channel: grpc.aio.Channel, message: pb.Request) -> pb.Response:
    from secure_mcp_grpc import calls

    call = channel.unary_unary(f"{calls.TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
    return await call(message, timeout=20)


async def outcome(one: Caller, name: str) -> Any:
    try:
        return await one.call(name)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()


@pytest.mark.parametrize("era", ["stateless", "session"])
@pytest.mark.parametrize(("kind", "misdeed"), MISDEEDS)
async def test_misdeed_is_one_callers_clear_error_and_disturbs_no_other(kind: str, misdeed: str, era: str) -> None:
    """Issue 4: whatever a server does, a clear error to that caller only; others are not disturbed."""
    async with unruly(kind) as bridge, caller(bridge, "model-a", era) as a, caller(bridge, "model-b", era) as b:
        assert await b.call("echo", {"n": 0}) == '{"n": 0}'
        failing = asyncio.create_task(outcome(a, misdeed))
        answers = []
        while not failing.done() or len(answers) < 3:
            answers.append(await b.call("echo", {"n": len(answers)}))
            await asyncio.sleep(0.005)  # the other caller is no load test
        expected = {"stdio": STDIO, "http": HTTP}[kind][misdeed]
        assert await failing == expected
        assert answers == [f'{{"n": {n}}}' for n in range(len(answers))]
        assert bridge.executor.in_flight == 0


FATAL = {"crash", "closes_stdout", "half_line", "deaf"}
"""These take the child itself, which requests of one identity share."""


@pytest.mark.parametrize(("kind", "misdeed"), [one for one in MISDEEDS if one[0] == "http" or one[1] not in FATAL])
async def test_misdeed_leaves_the_same_callers_other_request_alone(kind: str, misdeed: str) -> None:
    """Issue 4: also on the connection that two requests share."""
    async with unruly(kind) as bridge, caller(bridge, "model-a", "stateless") as a:
        await a.call("echo")
        if kind == "stdio":
            held = asyncio.create_task(a.call("hold"))
            await until_in_flight(bridge, 1)
        await outcome(a, misdeed)
        assert await a.call("echo", {"n": 1}) == '{"n": 1}'
        if kind == "stdio" and not held.done():
            await a.call("release")
            assert await held == "released"


async def until_in_flight(bridge: Bridge, count: int) -> None:
    async with asyncio.timeout(5):
        while bridge.executor.in_flight < count:
            await asyncio.sleep(0.005)


async def test_child_that_ignores_sigterm_and_end_of_input_is_killed() -> None:
    """Ours: close leaves no process behind, whatever the process thinks of it."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.stdin.readline()\n"
        'said = \'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%d"}]}}\'\n'
        "print(said % os.getpid(), flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    async with serving(stdio("deaf", "-S", "-c", code)) as bridge, bridge.channel() as channel:
        answer = await send(channel, "Call", tool("pid"))
        pid = int(answer["result"]["content"][0]["text"])
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, 0)
        await bridge.upstream.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_answer_before_the_first_request_is_nobodys() -> None:
    """Ours: ids are easily guessed; an answer counts only after its request was sent."""
    code = (
        "import sys\n"
        'said = \'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}]}}\'\n'
        "print(said % 'early', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(said % 'asked', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    upstream = stdio("early", "-S", "-c", code)
    async with serving(upstream) as bridge, bridge.channel() as channel:
        child = await upstream._child(_owner(), None, opens=False)
        async with asyncio.timeout(5):
            while not child.has_spoken:
                await asyncio.sleep(0.005)
        answer = await send(channel, "Call", tool("x"))

    assert answer["result"]["content"][0]["text"] == "asked"


def _owner() -> str:
    from mcp_bridge.exchange import Caller as Sender

    return Sender("model-a", "", (), "", "", 0, ()).owner
