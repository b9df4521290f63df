"""The audit against a running sidecar: nothing lost, nothing doubled, whatever dies; and tampering shows."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from chain_stack import Stack, all_ready, run_cli, running, until

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import mcp_transport_pb2_grpc as pb_grpc

WITHOUT = ("dashboard",)


def ready(stack: Stack) -> bool:
    return all_ready(stack.home, WITHOUT)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A sidecar without a dashboard, which anchors every second."""
    changes = {"authz": {"anchor_interval_s": 1, "journal_rotate_bytes": 200_000}}
    with tempfile.TemporaryDirectory(prefix="smg-") as root, running(Path(root), changes, without=WITHOUT) as stack:
        asyncio.run(some_load(stack))
        yield stack


def verify(stack: Stack, *options: str) -> tuple[int, dict[str, Any]]:
    ended = stack.cli("audit", "verify", "--store", "--json", *options)
    assert ended.returncode in (0, 1), ended.stderr
    return ended.returncode, json.loads(ended.stdout)


async def load(stack: Stack, stop: asyncio.Event) -> int:
    """Calls, allowed and forbidden in turn; returns how many were answered somehow."""
    done = 0
    async with stack.channel() as channel:
        stub = pb_grpc.McpTransportStub(channel)
        while not stop.is_set():
            tool = ("forbidden", "echo")[done % 2]
            params = json.dumps({"name": tool, "arguments": {"text": "x"}}).encode()
            try:
                await stub.Call(pb.Request(method="tools/call", name=tool, id_json=b"1", params_json=params), timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.002)
            done += 1
    return done


async def some_load(stack: Stack) -> None:
    stop = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(load(stack, stop))
        sql = "SELECT count() FROM decisions WHERE decision = 'deny'"
        wanted = stack.rows(sql)[0][0] + 50
        await asyncio.to_thread(until, lambda: stack.rows(sql)[0][0] >= wanted)
        stop.set()


@pytest.mark.timeout(180)
async def test_store_equals_journal_after_kills_under_load(stack: Stack) -> None:
    """Issue 3: after kill -9 of sink, store and authz under load: nothing lost, nothing doubled."""
    stop = asyncio.Event()
    killed: list[str] = []
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(load(stack, stop)) for _ in range(6)]
        for victims in (
            ("sink",),
            ("store",),
            ("authz",),
            ("sink", "store"),
            ("authz", "sink"),
            ("store",),
            ("authz",),
        ):
            await asyncio.to_thread(until, lambda: ready(stack), 60)
            await asyncio.sleep(0.5)
            for part in victims:
                os.kill(stack.pid(part), signal.SIGKILL)
            killed += list(victims)
        await asyncio.to_thread(until, lambda: ready(stack), 30)
        code, live = await asyncio.to_thread(verify, stack)  # while it writes on
        stop.set()
    assert sum(worker.result() for worker in workers) > 500
    assert (code, live["findings"]) == (0, [])

    code, report = 0, live
    deadline = time.monotonic() + 30
    while code == 0 and time.monotonic() < deadline:
        code, report = await asyncio.to_thread(verify, stack)
        counts = report["counts"]
        if counts["unshipped"] == 0 and counts["journal_records"] == counts["store_records"]:
            break
    assert report["findings"] == []
    assert counts["journal_records"] == counts["store_records"] == counts["reconciled"] > 500
    assert counts["journal_chains"] == counts["store_chains"] == killed.count("authz") + 1
    assert counts["anchors"] == counts["journal_anchors_met"] == counts["store_anchors_met"] >= 3
    print(counts)


TAMPERING = {
    "column": "ALTER TABLE decisions UPDATE identity = 'mallory' WHERE {row}",
    "record": "ALTER TABLE decisions UPDATE record = replaceOne(record, 'deny', 'allow') WHERE {row}",
    "hash": "ALTER TABLE decisions UPDATE hash = upper(hash) WHERE {row}",
    "time": "ALTER TABLE decisions UPDATE kind = 'policy' WHERE {row}",
    "deleted": "ALTER TABLE decisions DELETE WHERE {row}",
    "doubled": "INSERT INTO decisions SELECT * FROM decisions WHERE {row}",
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_row_that_was_tampered_with_is_named(stack: Stack, how: str) -> None:
    """Issue 3: finds any changed, removed or doubled record in the store and says which; exit code 1."""
    row = "kind = 'decision' AND decision = 'deny'"
    number = list(TAMPERING).index(how)
    chain, seq = stack.rows(
        f"SELECT chain, seq FROM decisions WHERE {row} ORDER BY chain, seq LIMIT {number * 5 + 5}, 1"
    )[0]
    writer = stack.store("writer")
    try:
        writer.command(TAMPERING[how].format(row=f"chain = '{chain}' AND seq = {seq}"), settings={"mutations_sync": 1})
    finally:
        writer.close()

    code, report = verify(stack)

    assert code == 1
    assert any((finding["chain"], finding["seq"]) == (chain, seq) for finding in report["findings"]), report["findings"]
    shown = stack.cli("audit", "verify", "--store")
    assert shown.returncode == 1
    assert f"chain {chain} seq {seq}:" in shown.stdout


def test_an_auditor_far_away_needs_no_home(stack: Stack, tmp_path: Path) -> None:
    """Ours: copies of journal, anchors and public key are enough; a wrong key or path is said in a line."""
    copy = tmp_path / "journal"
    shutil.copytree(stack.home.root / "journal", copy)
    key, anchors = (copy / "anchor.key.pub").rename(tmp_path / "key"), (copy / "anchors.jsonl").rename(tmp_path / "a")
    options = ("--journal", str(copy), "--key", str(key))

    ended = run_cli("audit", "verify", *options, "--anchors", str(anchors))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("No finding.\n")
    missing = run_cli("audit", "verify", *options, "--anchors", str(tmp_path / "none"))
    assert missing.returncode == 2
    assert "none cannot be read: No such file" in missing.stderr


def test_the_last_word_is_an_anchor(stack: Stack) -> None:
    """Issue 3: anchors periodically, and at the end, so that a stop leaves nothing that could be cut off."""
    until(lambda: ready(stack))
    chain = stack.rows("SELECT argMax(chain, ts) FROM decisions")[0][0]
    asyncio.run(some_load(stack))
    first = stack.pid("authz")
    os.kill(first, signal.SIGTERM)
    until(lambda: ready(stack) and stack.pid("authz") != first, 60)

    def last_kind() -> str:
        sql = "SELECT argMax(kind, seq) FROM decisions WHERE chain = {chain:String}"
        return str(stack.rows(sql, chain=chain)[0][0])

    until(lambda: last_kind() == "anchor")
