"""Looking at a part from outside: its announcement, its grpc.health.v1, Envoy's admin socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secure_mcp_grpc.lifecycle import announcement_path, socket_path

__all__ = ["ailments", "announcement", "endpoint", "envoy_ready", "part_ready", "serving_status"]


def announcement(run_dir: Path, part: str) -> dict[str, Any] | None:
    """What `part` said when it came up, or None."""
    try:
        document = json.loads(announcement_path(run_dir, part).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return document if isinstance(document, dict) else None


def endpoint(run_dir: Path, part: str, name: str) -> str | None:
    """The announced address `name` of `part`, or None."""
    document = announcement(run_dir, part) or {}
    value = document.get("endpoints", {}).get(name)
    return value if isinstance(value, str) else None


async def ailments(run_dir: Path, part: str) -> list[str]:
    """What is unwell in `part` although it serves: the sentences that it announced for its components."""
    components = (announcement(run_dir, part) or {}).get("components", {})
    statuses = await asyncio.gather(*(serving_status(run_dir, part, service=name) for name in components))
    return [what for what, status in zip(components.values(), statuses, strict=True) if status != "SERVING"]


async def serving_status(run_dir: Path, part: str, *, service: str = "", timeout_s: float = 2.0) -> str:
    """`SERVING`, `NOT_SERVING`, … as grpc.health.v1 says; the gRPC status code's name where it cannot be asked."""
    async with grpc.aio.insecure_channel(f"unix:{socket_path(run_dir, part).absolute()}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def part_ready(run_dir: Path, part: str, pid: int) -> bool:
    """Whether the process `pid` has announced itself as `part` and serves."""
    document = announcement(run_dir, part)
    if document is None or document.get("pid") != pid:
        return False
    return await serving_status(run_dir, part) == "SERVING"


async def envoy_ready(admin_socket: Path) -> bool:
    """Whether Envoy's admin interface says LIVE."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(str(admin_socket))
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
