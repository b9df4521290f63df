"""Latency, throughput, CPU and memory of calls through an MCP client. Pure figures; `__main__` says of what."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
from mcp import Client

__all__ = ["Latency", "Throughput", "cpu_seconds", "latencies", "quantile", "resident_mib", "throughput"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Calls per second at a concurrency, and CPU microseconds per call of each process."""

    calls_per_s: float
    cpu_us: Mapping[str, float]


def quantile(values: Sequence[float], q: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(q * 1000) - 1]


async def latencies(client: Client, count: int) -> list[float]:
    """Seconds that each of `count` calls took, one after the other."""
    taken = []
    for number in range(count):
        start = time.perf_counter()
        result = await client.call_tool("add", {"a": number, "b": 1})
        taken.append(time.perf_counter() - start)
        if result.structured_content != {"result": number + 1}:
            raise RuntimeError(f"wrong answer: {result}")
    return taken


async def throughput(client: Client, count: int, concurrency: int, pids: Mapping[str, int]) -> Throughput:
    """`count` calls by `concurrency` workers; `pids` names the processes whose CPU time is read."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await client.call_tool("add", {"a": number, "b": 1})

    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    elapsed = time.perf_counter() - start
    spent = {name: (cpu_seconds(pid) - before[name]) / count * 1e6 for name, pid in pids.items()}
    return Throughput(count / elapsed, spent)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 2**20)
