"""Pipelined sessions through the whole chain: SDK → one gRPC stream → mTLS Envoy → bridge, each frame → authz."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from frames_harness import request as frame_of
from frames_harness import tool
from mcp import Client, MCPError

sys.path.append(str(Path(__file__).parents[1] / "chain"))

from chain_stack import POLICY, Stack, running, until

from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

RECHECK_S = 0.5
MODES = ("auto", "legacy")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    root = Path(tempfile.mkdtemp(prefix="smg-"))
    changes: dict[str, dict[str, Any]] = {"bridge": {"recheck_s": RECHECK_S}}
    with running(root, changes, without=("dashboard",)) as stack:
        yield stack
    shutil.rmtree(root)


@contextlib.asynccontextmanager
async def revoked(stack: Stack, identity: str) -> Any:
    """For a while."""
    assert stack.cli("revoke", "identity", identity).returncode == 0
    try:
        yield
    finally:
        assert stack.cli("unrevoke", "identity", identity).returncode == 0
        time.sleep(1)


async def outcome(client: Client, text: str) -> str:
    """Of one call: OK, or the status of its refusal."""
    try:
        await client.call_tool("echo", {"text": text})
    except MCPError as error:
        return grpc_status(error)
    return "OK"


def leaves(errors: BaseException) -> list[BaseException]:
    if isinstance(errors, BaseExceptionGroup):
        return [leaf for one in errors.exceptions for leaf in leaves(one)]
    return [errors]


def grpc_status(error: MCPError) -> str:
    return str(error.error.data["grpcStatus"])


@pytest.mark.parametrize("mode", MODES)
async def test_pipelined_client_works_like_another(stack: Stack, mode: str) -> None:
    """Issue 4: both eras; calls, progress and refusals look as they do without."""
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with Client(stack.transport(pipelined=True), mode=mode) as client:
        tools = {one.name for one in (await client.list_tools()).tools}
        results = await asyncio.gather(*(client.call_tool("echo", {"text": f"p{number}"}) for number in range(20)))
        counted = await client.call_tool("count", {"to": 3}, progress_callback=note)
        with pytest.raises(MCPError) as refused:
            await client.call_tool("forbidden", {})

    assert tools == {"echo", "count", "slow", "git_log"}
    assert [result.structured_content for result in results] == [{"result": f"p{number}"} for number in range(20)]
    assert (counted.structured_content, seen) == ({"result": 3}, [1, 2, 3])
    assert grpc_status(refused.value) == "PERMISSION_DENIED"
    assert not [line for line in stack.recorded() if line.startswith("forbidden")]


async def test_policy_acts_on_the_next_frame(stack: Stack) -> None:
    """Issue 4: a session that is open is bound by a policy that is new."""
    async with Client(stack.transport(pipelined=True)) as client:
        await client.call_tool("echo", {"text": "before"})
        stack.set_policy(POLICY.replace("p, role:user, tools/call, echo, allow\n", ""))
        try:
            async with asyncio.timeout(10):
                while await outcome(client, "between") == "OK":
                    await asyncio.sleep(0.05)
            count = len(stack.recorded())
            assert await outcome(client, "after") == "PERMISSION_DENIED"
            assert len(stack.recorded()) == count
        finally:
            stack.set_policy(POLICY)
            await asyncio.sleep(2)


async def test_session_is_refused_where_policy_does_not_open_one(stack: Stack) -> None:
    """Issue 4: grpc:session in policy; the refusal is clear, and no other way is tried silently."""
    stack.set_policy(POLICY.replace("grpc:*", "grpc:listen"))
    sentences: list[str] = []
    try:
        await asyncio.sleep(2)
        try:
            async with Client(stack.transport(pipelined=True)):
                sentences.append("connected")
        except* MCPError as errors:
            sentences += [str(error) for error in leaves(errors)]
    finally:
        stack.set_policy(POLICY)
        await asyncio.sleep(2)

    assert sentences == ["model-a may not use grpc:session: no rule allows it"]


async def test_streams_of_a_revoked_caller_end(stack: Stack) -> None:
    """Issue 4: Session, Stream and Listen end within `recheck_s`, and the server hears of it."""
    message = frame_of("tools/call", {"name": "slow", "arguments": {"seconds": 30}}).request
    async with stack.channel("model-a") as channel:
        opening = frame_of("initialize", {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"},
        }).request  # fmt: skip
        call = channel.unary_unary(f"{TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
        session_id = (await call(opening, timeout=20)).session_id
        streams = [
            channel.unary_stream(f"{TRANSPORT}Stream", pb.Request.SerializeToString)(message),
            channel.unary_stream(f"{TRANSPORT}Listen", pb.ListenRequest.SerializeToString)(
                pb.ListenRequest(session_id=session_id)
            ),
            channel.stream_stream(f"{TRANSPORT}Session", pb.ClientFrame.SerializeToString)(None),
        ]
        await streams[2].write(frame_of("tools/call", {"name": "slow", "arguments": {"seconds": 30}}))
        await asyncio.sleep(2 * RECHECK_S)
        assert not any(stream.done() for stream in streams)
        async with revoked(stack, "model-a"):
            async with asyncio.timeout(1 + RECHECK_S + 1):
                codes = [await stream.code() for stream in streams]

    assert codes == [grpc.StatusCode.PERMISSION_DENIED] * 3


async def test_frames_stand_in_the_store_and_leave_no_gap(stack: Stack) -> None:
    """Issue 4: decision and interaction of each frame, joined on their request ID; `audit verify` finds nothing."""
    async with stack.channel("model-a") as channel:
        session = channel.stream_stream(
            f"{TRANSPORT}Session", pb.ClientFrame.SerializeToString, pb.Response.FromString
        )(None)
        for number in range(4):
            await session.write(tool("echo" if number % 2 else "forbidden", number, {"text": "stored"}))
        request_id = dict(await session.initial_metadata())["x-request-id"]
        for _ in range(4):
            await session.read()
        await session.done_writing()
        assert await session.code() is grpc.StatusCode.OK
    sql = (
        "SELECT d.request_id, d.decision, i.outcome, i.rpc FROM decisions d JOIN interactions i "
        "ON d.request_id = i.request_id AND d.seq = i.seq WHERE startsWith(d.request_id, {id:String}) ORDER BY d.seq"
    )

    def stored() -> list[tuple[Any, ...]] | None:
        client = stack.store()
        try:
            rows = list(client.query(sql, parameters={"id": f"{request_id}/"}).result_rows)
        finally:
            client.close()
        return rows if len(rows) == 4 else None

    rows = until(stored)

    assert sorted(rows) == [
        (f"{request_id}/1", "deny", "refused", "Session"),
        (f"{request_id}/2", "allow", "ok", "Session"),
        (f"{request_id}/3", "deny", "refused", "Session"),
        (f"{request_id}/4", "allow", "ok", "Session"),
    ]
    verified = stack.cli("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


async def test_ticket_of_a_client_is_stripped_and_none_is_told(stack: Stack) -> None:
    """Ours: tickets live between authz_service and the bridge only."""
    async with stack.channel("model-b") as channel:
        session = channel.stream_stream(
            f"{TRANSPORT}Session", pb.ClientFrame.SerializeToString, pb.Response.FromString
        )(None, metadata=(("x-mcp-ticket", "forged"), ("x-mcp-subject", "model-a")))
        await session.write(tool("echo", 1, {"text": "as somebody else"}))
        headers = dict(await session.initial_metadata())
        answer = await session.read()
        session.cancel()

    assert b"model-b may not call echo" in answer.message_json
    assert not [name for name in headers if name.startswith("x-mcp-")]
    assert "x-mcp-ticket" not in (stack.home.root / "up.log").read_text()


async def test_client_goes_on_after_authz_was_restarted(stack: Stack) -> None:
    """Issue 4: old tickets are invalid then; what waits fails with UNAVAILABLE, and the next message reconnects."""
    async with Client(stack.transport(pipelined=True)) as client:
        await client.call_tool("echo", {"text": "before"})
        waiting = asyncio.create_task(client.call_tool("slow", {"seconds": 30}))
        await asyncio.sleep(0.3)
        os.kill(stack.pid("authz"), signal.SIGKILL)
        with pytest.raises(MCPError) as failed:
            await waiting

        outcomes = []
        async with asyncio.timeout(20):
            while "OK" not in outcomes:
                outcomes.append(await outcome(client, "restarted"))
                await asyncio.sleep(0.1)

    assert set(outcomes) <= {"OK", "UNAVAILABLE"}
    assert grpc_status(failed.value) == "UNAVAILABLE"
    assert "echo restarted" in stack.recorded()
