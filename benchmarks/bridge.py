"""Every kind of upstream, directly and through the chain: single calls, a pipelined session, sizes, idle clients.

`python -m benchmarks.bridge`. "Direct" is the SDK's client on the same server
without anything between, always over streamable HTTP unless it says stdio.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.table import Table

from benchmarks.chain import CLIENT, chain
from benchmarks.direct import plain_http
from benchmarks.measure import latencies, quantile, resident_mib, throughput
from mcp_bridge.client import Identity, grpc_transport
from secure_mcp_grpc import logs
from secure_mcp_grpc.stack.home import Home

__all__ = ["run"]

ROUNDS = 6
CALLS = 100
CONCURRENCY = 16
LOADED_CALLS = 800
SIZES = {"1 KB": (1024, 60), "64 KB": (64 * 1024, 40), "4 MB": (4 * 1024 * 1024, 6)}
IDLE_CLIENTS = 1000
IN_PROCESS = {"target": "benchmarks.server:server"}
STDIO_COMMAND = [sys.executable, "-m", "benchmarks.server"]


@contextlib.asynccontextmanager
async def _clients(upstream: Mapping[str, Any], direct: Any) -> AsyncIterator[dict[str, Client]]:
    """Connected: directly, through the chain with single calls, and with one session for all."""
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        home = Home(Path(directory))
        async with chain(home, upstream) as (address, _), contextlib.AsyncExitStack() as stack:
            identity = Identity.from_directory(home.certs / CLIENT)
            ways: dict[str, Any] = {
                "direct": direct,
                "calls": grpc_transport(address, identity=identity),
                "session": grpc_transport(address, identity=identity, pipelined=True),
            }
            yield {way: await stack.enter_async_context(Client(server)) for way, server in ways.items()}


async def _ratios(
    clients: Mapping[str, Client], measure: Callable[[Client], Awaitable[float]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Way → median figure, and median over the rounds of its ratio to direct."""
    taken: dict[str, list[float]] = {way: [] for way in clients}
    for _ in range(rounds):
        for way, client in clients.items():
            taken[way].append(await measure(client))
    base = taken["direct"]
    return {
        way: (statistics.median(values), statistics.median(a / b for a, b in zip(values, base, strict=True)))
        for way, values in taken.items()
    }


async def _p50_ms(client: Client) -> float:
    return quantile(await latencies(client, CALLS), 0.5) * 1e3


async def _calls_per_s(client: Client) -> float:
    return (await throughput(client, LOADED_CALLS, CONCURRENCY, {})).calls_per_s


def _sized(size: int, count: int) -> Callable[[Client], Awaitable[float]]:
    async def median_ms(client: Client) -> float:
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            result = await client.call_tool("text", {"size": size})
            taken.append(time.perf_counter() - start)
            if len(getattr(result.content[0], "text", "")) != size:
                raise RuntimeError("wrong answer")
        return statistics.median(taken) * 1e3

    return median_ms


async def _upstreams(console: Console) -> None:
    table = Table("upstream", "figure", "direct", "single calls", "ratio", "session", "ratio", title="Small tool call")
    async with plain_http() as (url, _):
        stdio = StdioServerParameters(command=STDIO_COMMAND[0], args=STDIO_COMMAND[1:])
        kinds = {
            "in this process": (IN_PROCESS, url),
            "HTTP": ({"url": url}, url),
            "stdio": ({"command": STDIO_COMMAND}, stdio),
        }
        for kind, (upstream, direct) in kinds.items():
            async with _clients(upstream, direct) as clients:
                for client in clients.values():
                    await latencies(client, 50)
                _add(table, kind, "p50, ms", await _ratios(clients, _p50_ms, ROUNDS), "{:.2f}")
                rate = await _ratios(clients, _calls_per_s, 3)
                _add(table, "", f"calls/s at {CONCURRENCY}", rate, "{:.0f}")
    console.print(table)


async def _sizes(console: Console) -> None:
    table = Table(
        "result", "figure", "direct", "single calls", "ratio", "session", "ratio", title="Results by size, in-process"
    )
    async with plain_http() as (url, _), _clients(IN_PROCESS, url) as clients:
        for client in clients.values():
            await latencies(client, 50)
        for name, (size, count) in SIZES.items():
            _add(table, name, "p50, ms", await _ratios(clients, _sized(size, count), 3), "{:.2f}")
    console.print(table)


def _add(table: Table, kind: str, figure: str, ratios: Mapping[str, tuple[float, float]], form: str) -> None:
    cells = [form.format(ratios["direct"][0])]
    for way in ("calls", "session"):
        cells += [form.format(ratios[way][0]), f"{ratios[way][1]:.2f}"]
    table.add_row(kind, figure, *cells)


async def _idle(console: Console) -> None:
    """Connected clients that do nothing: each its own TLS connection; then each its own handshake-era session."""
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        home = Home(Path(directory))
        async with chain(home, IN_PROCESS, max_clients=2 * IDLE_CLIENTS) as (address, pids):
            identity = Identity.from_directory(home.certs / CLIENT)
            parts = {name: pids[name] for name in ("envoy", "authz", "bridge")}
            async with Client(grpc_transport(address, identity=identity)) as client:
                await latencies(client, 100)
            start = {name: resident_mib(pid) for name, pid in parts.items()}
            connected = await _held(address, identity, "auto", parts)
            sessions = await _held(address, identity, "legacy", parts)
    table = Table("MiB", "before", "connections", "sessions", title=f"{IDLE_CLIENTS} idle clients, more than before")
    for name in parts:
        more = [f"{held[name] - start[name]:.0f}" for held in (connected, sessions)]
        table.add_row(name, f"{start[name]:.0f}", *more)
    console.print(table)


async def _held(address: str, identity: Identity, mode: Any, pids: Mapping[str, int]) -> dict[str, float]:
    """Resident MiB while the clients are connected."""
    # Channels of one process share their connections unless told otherwise.
    own = [("grpc.use_local_subchannel_pool", 1)]

    def channel() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, identity.credentials(), own)

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(IDLE_CLIENTS):
            transport = grpc_transport(address, identity=identity, channel_factory=channel)
            await stack.enter_async_context(Client(transport, mode=mode))
        return {name: resident_mib(pid) for name, pid in pids.items()}


async def main() -> None:
    logs.configure("bench", level="WARNING")
    console = Console(width=120)
    wanted = set(sys.argv[1:]) or {"upstreams", "sizes", "idle"}
    for name, measure in {"upstreams": _upstreams, "sizes": _sizes, "idle": _idle}.items():
        if name in wanted:
            await measure(console)


def run() -> None:
    asyncio.run(main())


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    run()
