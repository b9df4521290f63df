"""Real SDK clients at a whole sidecar, with nothing of ours: HTTPS and a client certificate."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import mcp
import mcp_types as types
import pytest
from chain_stack import Stack, until
from plain_kit import (
    HANDSHAKE,
    PLAIN_POLICY,
    Wire,
    asker_journal,
    client,
    echo,
    exchange,
    http1,
    message,
    mirrors,
    open_session,
    plain_stack,
)

MODES = ("auto", "legacy")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with plain_stack() as stack:
        yield stack


def status(error: mcp.MCPError) -> Any:
    return error.error.data["grpcStatus"]


@pytest.mark.parametrize("mode", MODES)
async def test_client_lists_what_it_may_use_and_calls_it(stack: Stack, mode: str) -> None:
    """Issue 4: plain streamable HTTP gets the same authorization; lists show what policy allows, in both eras."""
    async with client(stack, mode=mode) as one:
        tools = {tool.name for tool in (await one.list_tools()).tools}
        answer = await one.call_tool("echo", {"text": f"hello {mode}"})
    assert tools == {"echo", "count", "slow", "ask", "wait", "change"}
    assert answer.content[0].text == f"hello {mode}"
    assert f"echo hello {mode}" in stack.recorded()


@pytest.mark.parametrize("mode", MODES)
async def test_refused_call_names_subject_and_tool_and_reaches_nobody(stack: Stack, mode: str) -> None:
    """Issue 4: refusal reasons hold as over gRPC."""
    async with client(stack, "model-b", mode=mode) as one:
        with pytest.raises(mcp.MCPError) as refused:
            await one.call_tool("echo", {"text": f"refused {mode}"})
    assert refused.value.error.message == "model-b may not call echo: no rule allows it"
    assert (refused.value.error.code, status(refused.value)) == (-32011, "PERMISSION_DENIED")
    assert f"echo refused {mode}" not in stack.recorded()


@pytest.mark.parametrize("mode", MODES)
async def test_progress_arrives_while_the_tool_runs(stack: Stack, mode: str) -> None:
    """Issue 4: streams of a request, in both eras."""
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with client(stack, mode=mode) as one:
        await one.call_tool("count", {"to": 4}, progress_callback=note)
        for _ in range(100):
            if len(seen) == 4:
                break
            await asyncio.sleep(0.02)
    assert seen == [1, 2, 3, 4]


async def test_server_may_ask_the_client_in_the_handshake_era(stack: Stack) -> None:
    """Issue 4: sampling; the request comes on a stream, the reply is a POST that is authorized as grpc:reply."""

    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        text = f"answer to {params.messages[0].content.text}"
        return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text=text), model="m")

    async with client(stack, mode="legacy", sampling_callback=sample) as one:
        answer = await asyncio.wait_for(one.call_tool("ask", {"question": "why?"}), 20)
    assert answer.content[0].text == "answer to why?"


@pytest.mark.parametrize("mode", MODES)
async def test_cancelled_call_is_cancelled_at_the_server(stack: Stack, mode: str) -> None:
    """Issue 4: cancellation reaches the upstream, in both eras."""
    label = f"{mode}-call"
    async with client(stack, mode=mode) as one:
        call = asyncio.create_task(one.call_tool("wait", {"label": label}))
        while f"began {label}" not in asker_journal(stack):
            await asyncio.sleep(0.02)
        call.cancel()
        for _ in range(250):
            if f"cancelled {label}" in asker_journal(stack):
                break
            await asyncio.sleep(0.02)
    assert f"cancelled {label}" in asker_journal(stack)


def test_every_request_has_a_row_and_a_decision(stack: Stack) -> None:
    """Issue 4: identity, method, tool and outcome are in the store as for gRPC; there is no gRPC status."""
    yes, no = exchange(stack, http1(echo("rows"))), exchange(stack, http1(echo("rows")), "model-b")
    sql = (
        "SELECT identity, rpc, method, tool, outcome, decision, reason, grpc_status, http_status, server "
        "FROM requests WHERE request_id = {request:String}"
    )
    allowed = until(lambda: stack.rows(sql, request=yes.headers["x-request-id"]))[0]
    denied = until(lambda: stack.rows(sql, request=no.headers["x-request-id"]))[0]
    assert allowed == ("model-a", "/mcp", "tools/call", "echo", "allowed", "allow", "permitted", -1, 200, "recorder")
    assert denied[:9] == ("model-b", "/mcp", "tools/call", "echo", "denied", "deny", "not_permitted", -1, 403)
    recorded = "SELECT rpc, identity, outcome FROM interactions WHERE request_id = {request:String}"
    assert until(lambda: stack.rows(recorded, request=yes.headers["x-request-id"])) == [("Call", "model-a", "ok")]
    assert stack.rows(recorded, request=no.headers["x-request-id"]) == []


def test_session_spans_posts_and_the_get_stream(stack: Stack) -> None:
    """MCP 2025-11-25, Streamable HTTP: the server's question comes on a stream, the reply by POST; DELETE ends it."""
    session = open_session(stack)
    with Wire(stack) as listener, Wire(stack) as caller:
        head = listener.send(http1(b"", session, method="GET")).read()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
        asking = message("tools/call", {"name": "ask", "arguments": {"question": "why?"}}, number=9, modern=False)
        caller.send(http1(asking, session))
        asked = json.loads(either(caller, listener, b"sampling/createMessage"))
        content = {"role": "assistant", "content": {"type": "text", "text": "because"}, "model": "m"}
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": content}
        assert exchange(stack, http1(reply, session), "model-b").status == 404
        assert exchange(stack, http1(reply, session)).status == 202
        assert b"because" in caller.read_until(b"because")
    assert exchange(stack, http1(b"", session, method="DELETE")).status == 200
    gone = exchange(stack, http1(echo("late", modern=False), session))
    assert (gone.status, gone.error["message"].split(":")[0]) == (404, "no such session")
    assert "echo late" not in stack.recorded()


def either(one: Wire, other: Wire, text: bytes) -> bytes:
    """The data of the event that holds `text`, on whichever stream it comes."""
    for wire in (one, other):
        wire.socket.settimeout(0.1)
    try:
        for attempt in range(200):
            wire = (one, other)[attempt % 2]
            with contextlib.suppress(TimeoutError):
                held = wire.read_until(text)
                line = next((line for line in held.splitlines() if text in line), b"")
                if line:
                    return line.removeprefix(b"data: ")
    finally:
        for wire in (one, other):
            wire.socket.settimeout(10)
    raise AssertionError("nobody was asked")


def test_open_stream_of_a_revoked_identity_ends(stack: Stack) -> None:
    """Issue 4: long streams are judged again while they are open."""
    session = open_session(stack, "model-c")
    with Wire(stack, "model-c") as listener, Wire(stack, "model-c") as caller:
        assert listener.send(http1(b"", session, method="GET")).read().status == 200
        call = message("tools/call", {"name": "wait", "arguments": {"label": "held"}})
        call["params"]["_meta"] = {**call["params"]["_meta"], "progressToken": 1}
        caller.send(http1(call, mirrors(call)))
        until(lambda: "began held" in asker_journal(stack))
        assert stack.cli("revoke", "identity", "model-c").returncode == 0
        try:
            ended = caller.read()
            assert listener.read_until(b"\r\n0\r\n\r\n").endswith(b"0\r\n\r\n")
            until(lambda: "cancelled held" in asker_journal(stack))
        finally:
            assert stack.cli("unrevoke", "identity", "model-c").returncode == 0
    assert b"revoked" in (ended.body or caller.read_until(b"revoked"))


def test_changed_policy_counts_for_the_next_request_of_a_connection(stack: Stack) -> None:
    """Ours: each request is judged by itself, whatever connection it comes on."""
    with Wire(stack) as wire:
        assert wire.send(http1(echo("before"))).read().status == 200
        stack.set_policy(PLAIN_POLICY.replace("p, role:user, tools/call, echo, allow\n", ""))
        try:
            until(lambda: wire.send(http1(echo("after"))).read().status == 403)
        finally:
            stack.set_policy(PLAIN_POLICY)
        until(lambda: wire.send(http1(echo("again"))).read().status == 200)


def test_version_of_the_handshake_era_is_agreed_on(stack: Stack) -> None:
    """Ours: the fixture's own session is of the version it names."""
    assert open_session(stack)["mcp-protocol-version"] == HANDSHAKE
