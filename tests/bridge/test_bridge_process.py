"""`python -m mcp_bridge`, seen from outside."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import mcp
import msgspec
import psutil
import pytest
from bridge_harness import HERE, authorized, send, tool
from envoy.service.accesslog.v3 import als_pb2
from grpc_health.v1 import health_pb2

from mcp_bridge.client import grpc_transport
from secure_mcp_grpc.als import METHOD
from secure_mcp_grpc.records import InteractionRecord


@contextlib.asynccontextmanager
async def running(
    run_dir: Path, upstreams: dict[str, Any], *, list_filter: str = "off"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """A bridge that nothing stands around: without authz_service it can filter no lists."""
    environment = {
        **os.environ,
        "MCP_RUN_DIR": str(run_dir),
        "MCP_BRIDGE_METRICS_PORT": "0",
        "MCP_BRIDGE_LIST_FILTER": list_filter,
        "MCP_BRIDGE_UPSTREAMS": json.dumps(upstreams),
        "MCP_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcp_bridge", env=environment, stderr=asyncio.subprocess.PIPE, cwd=HERE.parents[1]
    )
    announcement = run_dir / "bridge.json"
    try:
        async with asyncio.timeout(20):
            while not announcement.exists() and process.returncode is None:
                await asyncio.sleep(0.02)
        yield process, json.loads(announcement.read_text()) if announcement.exists() else None
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def sink(run_dir: Path) -> AsyncIterator[list[InteractionRecord]]:
    """A sink that acknowledges each batch."""
    records: list[InteractionRecord] = []

    async def take(batches: AsyncIterator[Any], _context: Any) -> Any:
        async for batch in batches:
            for entry in batch.http_logs.log_entry:
                assert batch.identifier.log_name == "mcp.bridge"
                records.append(
                    msgspec.json.decode(entry.common_properties.custom_tags["record"], type=InteractionRecord)
                )
        return als_pb2.StreamAccessLogsResponse()

    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(
        take, als_pb2.StreamAccessLogsMessage.FromString, als_pb2.StreamAccessLogsResponse.SerializeToString
    )
    service, _, name = METHOD.strip("/").rpartition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    server.add_insecure_port(f"unix:{run_dir}/sink.sock")
    await server.start()
    try:
        yield records
    finally:
        await server.stop(None)


async def health(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        return int((await check(health_pb2.HealthCheckRequest(), timeout=5)).status)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    return directory


async def test_serves_records_and_stops_cleanly(run_dir: Path) -> None:
    """Contract: announced, healthy, measured; after SIGTERM records are delivered, no child, no socket remains."""
    upstreams = {"time": {"command": [sys.executable, "-m", "mcp_server_time"]}}
    async with sink(run_dir) as records, running(run_dir, upstreams) as (process, announced):
        address = announced["endpoints"]["grpc"]
        assert await health(address) == health_pb2.HealthCheckResponse.SERVING
        channel = lambda: grpc.aio.insecure_channel(address, interceptors=authorized("model-a"))  # noqa: E731
        async with mcp.Client(grpc_transport(address, channel_factory=channel)) as client:
            result = await client.call_tool("get_current_time", {"timezone": "UTC"})
            assert not result.is_error
        url = f"http://{announced['endpoints']['metrics']}/metrics"
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        children = psutil.Process(process.pid).children(recursive=True)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert time.monotonic() - started < 3

    assert 'mcp_bridge_requests_total{method="tools/call",outcome="ok",rpc="Call"} 1.0' in metrics
    assert 'mcp_bridge_children{server="time"} 1.0' in metrics
    assert [record.tool for record in records if record.method == "tools/call"] == ["get_current_time"]
    assert len(children) == 1
    assert not any(child.is_running() for child in children)
    assert not (run_dir / "bridge.sock").exists()
    assert not (run_dir / "bridge.json").exists()


async def test_killed_bridge_leaves_no_child(run_dir: Path) -> None:
    """Ours: not even one that ignores the end of its input."""
    upstreams = {"unruly": {"command": [sys.executable, "-S", str(HERE / "unruly_server.py")]}}
    async with (
        running(run_dir, upstreams) as (process, announced),
        grpc.aio.insecure_channel(announced["endpoints"]["grpc"], interceptors=authorized("model-a")) as channel,
    ):
        pid = int((await send(channel, "Call", tool("pid")))["result"]["content"][0]["text"])
        stubborn = asyncio.create_task(send(channel, "Call", tool("ignore_eof")))
        await asyncio.sleep(0.2)
        process.kill()
        await process.wait()
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await stubborn
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(3):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ({"x": {"command": ["no-such-program-here"]}}, "upstream x: no program 'no-such-program-here'"),
        ({"x": {"target": "no_such_module_here:server"}}, "upstream x: no_such_module_here cannot be imported"),
        ({"x": {"target": "json:dumps"}}, "upstream x: json:dumps"),
    ],
)
async def test_what_cannot_work_is_said_in_one_line(run_dir: Path, upstreams: Any, said: str) -> None:
    """Issue 2: one clear line, exit code 2, nothing left running."""
    async with running(run_dir, upstreams) as (process, announced):
        _, errors = await process.communicate()
    assert announced is None
    assert process.returncode == 2
    assert errors.decode().startswith(f"bridge: {said}")
    assert errors.decode().count("\n") == 1
    assert not (run_dir / "bridge.sock").exists()
