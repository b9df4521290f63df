"""A small tool call on one in-process server: SDK streamable HTTP, unsecured, against the whole chain, logging on."""

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mcp import Client
from rich.console import Console
from rich.table import Table

from benchmarks import authz_hop, bridge, policy
from benchmarks.chain import chain
from benchmarks.direct import plain_http
from benchmarks.measure import Throughput, latencies, quantile, resident_mib, throughput
from mcp_bridge.client import Identity, grpc_transport
from secure_mcp_grpc import logs
from secure_mcp_grpc.stack.home import Home

ROUNDS = 8
CALLS_PER_ROUND = 150
CONCURRENCY = 16
THROUGHPUT_CALLS = 1500
IN_PROCESS = {"target": "benchmarks.server:server"}
STDIO = {"command": [sys.executable, "-m", "mcp_server_time"]}


async def main() -> None:
    logs.configure("bench", level="WARNING")
    idle = await _idle_memory()
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        home = Home(Path(directory))
        async with plain_http() as (url, http_pid), chain(home, IN_PROCESS) as (address, pids):
            identity = Identity.from_directory(home.certs / "bench")
            async with Client(url) as plain, Client(grpc_transport(address, identity=identity)) as secured:
                await _report(plain, secured, {"server (HTTP)": http_pid}, pids)
            after = {name: resident_mib(pid) for name, pid in pids.items()}
    Console(width=110).print(_memory_table(idle, after))


async def _idle_memory() -> dict[str, float]:
    """Resident MiB of each part of a sidecar in front of a stdio server, before any call."""
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        async with chain(Home(Path(directory)), STDIO) as (_, pids):
            return {name: resident_mib(pid) for name, pid in pids.items()}


async def _report(plain: Client, secured: Client, http: Mapping[str, int], pids: Mapping[str, int]) -> None:
    await latencies(plain, 50)
    await latencies(secured, 50)
    rounds = [
        (await latencies(plain, CALLS_PER_ROUND), await latencies(secured, CALLS_PER_ROUND)) for _ in range(ROUNDS)
    ]
    me = {"client": os.getpid()}
    loaded = [
        (
            await throughput(plain, THROUGHPUT_CALLS, CONCURRENCY, {**http, **me}),
            await throughput(secured, THROUGHPUT_CALLS, CONCURRENCY, {**pids, **me}),
        )
        for _ in range(3)
    ]
    console = Console(width=110)
    console.print(_latency_table(rounds, loaded))
    console.print(_cpu_table(loaded[-1]))


def _latency_table(rounds: list[tuple[list[float], list[float]]], loaded: list[tuple[Throughput, Throughput]]) -> Table:
    table = Table("", "streamable HTTP, unsecured", "chain", "ratio (median of rounds)", title="Small tool call")
    for label, q in (("p50, ms", 0.5), ("p99, ms", 0.99)):
        plain = [quantile(a, q) * 1e3 for a, _ in rounds]
        chain = [quantile(b, q) * 1e3 for _, b in rounds]
        ratio = statistics.median(b / a for a, b in zip(plain, chain, strict=True))
        table.add_row(label, f"{statistics.median(plain):.2f}", f"{statistics.median(chain):.2f}", f"{ratio:.2f}")
    ratio = statistics.median(b.calls_per_s / a.calls_per_s for a, b in loaded)
    plain_rate, chain_rate = (statistics.median(pair[i].calls_per_s for pair in loaded) for i in (0, 1))
    table.add_row(f"calls/s at {CONCURRENCY}", f"{plain_rate:.0f}", f"{chain_rate:.0f}", f"{ratio:.2f}")
    return table


def _cpu_table(pair: tuple[Throughput, Throughput]) -> Table:
    table = Table("CPU per call, µs", "streamable HTTP", "chain", title=f"CPU at concurrency {CONCURRENCY}")
    plain, chain = (side.cpu_us for side in pair)
    for name in dict.fromkeys([*plain, *chain]):
        table.add_row(name, *(f"{side[name]:.0f}" if name in side else "" for side in (plain, chain)))
    table.add_row("total", f"{sum(plain.values()):.0f}", f"{sum(chain.values()):.0f}", end_section=True)
    return table


def _memory_table(idle: Mapping[str, float], after: Mapping[str, float]) -> Table:
    table = Table(
        "MiB", "idle, stdio server", "after the run, with the server in the bridge", title="Resident memory, MiB"
    )
    for name in idle:
        table.add_row(name, f"{idle[name]:.0f}", f"{after[name]:.0f}")
    sidecar = [sum(side[name] for name in ("envoy", "authz", "bridge")) for side in (idle, after)]
    table.add_row("envoy + authz + bridge", *(f"{mib:.0f}" for mib in sidecar))
    return table


if __name__ == "__main__":
    asyncio.run(main())
    bridge.run()
    authz_hop.run()
    policy.run()
