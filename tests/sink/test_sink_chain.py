"""Pipelined sessions through the whole chain, as the store, its view `traffic` and the audit tell of them."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from mcp import Client

sys.path += [str(Path(__file__).parents[1] / name) for name in ("chain", "frames")]

from chain_stack import Stack, running, until
from frames_harness import notification, tool

from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

BURST = 20
RECHECK_S = 0.5


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    root = Path(tempfile.mkdtemp(prefix="smg-"))
    changes: dict[str, dict[str, Any]] = {
        "bridge": {"recheck_s": RECHECK_S},
        "limits": {"per_tool_burst": BURST, "per_tool_per_second": 1},
    }
    with running(root, changes, without=("dashboard",)) as stack:
        yield stack
    shutil.rmtree(root)


def opened(channel: grpc.aio.Channel) -> Any:
    path = f"{TRANSPORT}Session"
    return channel.stream_stream(path, pb.ClientFrame.SerializeToString, pb.Response.FromString)(None)


def found(stack: Stack, request_id: str, rows: int) -> list[dict[str, Any]]:
    """So many rows of the session with this id, its frames and itself, in the order of the frames."""
    sql = "SELECT * FROM traffic WHERE request_id = {id:String} OR startsWith(request_id, {id:String} || '/')"

    def stored() -> list[dict[str, Any]] | None:
        client = stack.store()
        try:
            found = list(client.query(sql, parameters={"id": request_id}).named_results())
        finally:
            client.close()
        return found if len(found) >= rows else None

    return sorted(until(stored), key=lambda row: int(row["request_id"].partition("/")[2] or 0))


def audited(stack: Stack) -> dict[str, Any]:
    """What `audit verify` says of journal and store, once all is shipped."""

    def said() -> dict[str, Any] | None:
        verified = stack.cli("audit", "verify", "--store", "--json")
        document: dict[str, Any] = json.loads(verified.stdout)
        return document if document["counts"].get("unshipped", 0) == 0 else None

    return until(said)  # type: ignore[no-any-return]


async def test_every_frame_stands_once_beside_its_session(stack: Stack) -> None:
    """Issue 4: allowed, denied, malformed, limited by the bridge, cancelled; journal and store agree on all of them."""
    async with stack.channel("model-a") as channel:
        session = opened(channel)
        for number in range(BURST + 5):
            await session.write(tool("echo", number, {"text": "stored"}))
        await session.write(tool("forbidden", 100))
        await session.write(pb.ClientFrame(request=pb.Request(method="tools/call", name="x", id_json=b"101")))
        await session.write(tool("slow", 102, {"seconds": 30}))
        await session.write(notification("notifications/cancelled", {"requestId": 102}))
        request_id = dict(await session.initial_metadata())["x-request-id"]
        for _ in range(BURST + 7):
            await session.read()
        await session.done_writing()
        assert await session.code() is grpc.StatusCode.OK
    frames = BURST + 9
    own, *rows = found(stack, request_id, frames + 1)

    assert [row["request_id"] for row in rows] == [f"{request_id}/{number + 1}" for number in range(frames)]
    assert Counter(row["outcome"] for row in rows[: BURST + 5]) == {"allowed": BURST, "limited": 5}
    assert [(row["outcome"], row["reason"], row["grpc_status"]) for row in rows[BURST + 5 :]] == [
        ("denied", "not_permitted", 7),
        ("denied", "malformed", 3),
        ("cancelled", "", 1),
        ("allowed", "", 0),
    ]
    assert {(row["identity"], row["rpc"]) for row in rows} == {("model-a", "Session")}
    assert {row["server"] for row in rows if row["method"] == "tools/call" and row["outcome"] == "allowed"} == {
        "recorder"
    }
    assert all(row["duration_us"] > 0 for row in rows if row["outcome"] == "allowed")
    assert (own["method"], own["outcome"], own["request_bytes"]) == ("grpc:session", "allowed", 0)
    document = audited(stack)
    assert document["findings"] == []
    assert document["counts"]["reconciled"] == document["counts"]["journal_records"]


async def test_what_a_revocation_ends_is_denied_everywhere(stack: Stack) -> None:
    """Issue 4: the session in Envoy's log, its frame in the bridge's, and the recheck in the journal."""
    async with stack.channel("model-a") as channel:
        session = opened(channel)
        await session.write(tool("slow", 1, {"seconds": 30}))
        request_id = dict(await session.initial_metadata())["x-request-id"]
        until(lambda: "slow" in "".join(stack.recorded()))
        assert stack.cli("revoke", "identity", "model-a").returncode == 0
        try:
            assert await session.code() is grpc.StatusCode.PERMISSION_DENIED
        finally:
            assert stack.cli("unrevoke", "identity", "model-a").returncode == 0
            time.sleep(1)
    own, frame = found(stack, request_id, 2)

    assert (own["outcome"], own["decision"], own["reason"]) == ("denied", "allow", "refused_by_bridge")
    assert (frame["outcome"], frame["reason"], frame["grpc_status"]) == ("denied", "revoked", 7)
    document = audited(stack)
    assert document["findings"] == []
    assert document["counts"]["reconciled"] == document["counts"]["journal_records"]


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_call_that_its_client_cancels_counts_as_cancelled(stack: Stack, mode: str, pipelined: bool) -> None:
    """Issue 4: in both eras, in a session and alone; once."""
    since = len(outcomes(stack))
    async with Client(stack.transport(pipelined=pipelined), mode=mode) as client:
        count = len(stack.recorded())
        call = asyncio.create_task(client.call_tool("slow", {"seconds": 30}))
        await started(stack, count)
        call.cancel()
        await asyncio.wait([call])

    assert until(lambda: outcomes(stack)[since:]) == ["cancelled"]


async def started(stack: Stack, count: int) -> None:
    async with asyncio.timeout(10):
        while len(stack.recorded()) == count:
            await asyncio.sleep(0.02)


def outcomes(stack: Stack) -> list[str]:
    return [row[0] for row in stack.rows("SELECT outcome FROM traffic WHERE tool = 'slow' ORDER BY ts")]
