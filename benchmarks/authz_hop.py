"""What the decision costs on the way: Envoy alone against Envoy with authz_service, for each of its servers.

Everything is on: journal, shipping to a real sink, Casbin policy. The client
and the service behind Envoy are the cheapest there are (`h2_load`,
`authz_upstream`), so that the difference is the hop. Run alone:
`python -m benchmarks.authz_hop`.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from envoy.service.auth.v3 import external_auth_pb2
from rich.console import Console
from rich.table import Table

from authz_service.server import METHOD
from benchmarks.authz_upstream import CALL
from benchmarks.chain import CLIENT, DOMAIN, chain
from benchmarks.h2_load import Load, over_mutual_tls, over_unix_socket
from benchmarks.measure import cpu_seconds, quantile
from secure_mcp_grpc import certs, envoy_config, logs
from secure_mcp_grpc.envoy_config import EnvoySettings
from secure_mcp_grpc.lifecycle import announcement_path
from secure_mcp_grpc.stack.compose import GRPC_TUNING
from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

SERVERS = ("http2", "grpc")
BARE = "no decision"
FLOOR = "constant answer"
"""A server like `http2` whose answer was made beforehand: what the hop costs without any decision in it."""
ROUNDS = 9
CALLS = 300
LOADED_CALLS = 3000
CONCURRENCY = 32
_OF_THE_DECISION = ("ext_authz", "rbac", "tool_limit")


@dataclass
class Variant:
    """One Envoy, and the authz_service that it asks (0: none)."""

    name: str
    envoy_pid: int
    authz_pid: int
    authz_socket: Path
    load: Load


def run(servers: tuple[str, ...] = SERVERS) -> None:
    logs.configure("bench", level="WARNING")
    asyncio.run(_run(servers))


async def _run(servers: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        home = Home(Path(directory))
        async with chain(home, {"target": "benchmarks.server:server"}):
            with contextlib.ExitStack() as stack:
                upstream = stack.enter_context(_process("-m", "benchmarks.authz_upstream", str(home.root / "up.sock")))
                variants = [await _variant(stack, home, name) for name in (BARE, FLOOR, *servers)]
                await asyncio.to_thread(_report, variants, upstream.pid)


def _report(variants: list[Variant], upstream_pid: int) -> None:
    for variant in variants:
        variant.load.latencies(CALLS)
    rounds = [[variant.load.latencies(CALLS) for variant in variants] for _ in range(ROUNDS)]
    loaded = [_under_load(variant) for variant in variants]
    console = Console(width=110)
    console.print(_latency_table(variants, rounds))
    console.print(_load_table(variants, loaded))
    direct = [(variant.name, _direct(variant)) for variant in variants if variant.name in SERVERS]
    console.print(_direct_table(direct))


def _latency_table(variants: list[Variant], rounds: list[list[list[float]]]) -> Table:
    table = Table("One call at a time, ms", "p50", "p99", "p50 more than without", title="mTLS hop through Envoy")
    for index, variant in enumerate(variants):
        p50, p99 = ([quantile(row[index], q) * 1e3 for row in rounds] for q in (0.5, 0.99))
        more = [(quantile(row[index], 0.5) - quantile(row[0], 0.5)) * 1e3 for row in rounds]
        cells = (f"{statistics.median(p50):.3f}", f"{statistics.median(p99):.3f}", f"{statistics.median(more):+.3f}")
        table.add_row(variant.name, *cells)
    return table


def _under_load(variant: Variant) -> tuple[float, float, float]:
    """Calls/s, and CPU microseconds of authz_service and of Envoy for each: medians of three runs."""
    runs = []
    for _ in range(3):
        pids = [variant.envoy_pid, *([variant.authz_pid] if variant.authz_pid else [])]
        before = [cpu_seconds(pid) for pid in pids]
        rate = variant.load.throughput(LOADED_CALLS, CONCURRENCY)
        spent = [(cpu_seconds(pid) - start) / LOADED_CALLS * 1e6 for pid, start in zip(pids, before, strict=True)]
        runs.append((rate, spent[1] if variant.authz_pid else 0.0, spent[0]))
    rate, authz, envoy = (statistics.median(column) for column in zip(*runs, strict=True))
    return rate, authz, envoy


def _load_table(variants: list[Variant], loaded: list[tuple[float, float, float]]) -> Table:
    title = f"Through Envoy, {CONCURRENCY} calls at a time"
    table = Table("", "calls/s", "authz, CPU µs a check", "Envoy, CPU µs a call", title=title)
    for variant, (rate, authz, envoy) in zip(variants, loaded, strict=True):
        table.add_row(variant.name, f"{rate:.0f}", f"{authz:.0f}" if authz else "", f"{envoy:.0f}")
    return table


def _direct(variant: Variant) -> list[tuple[int, float, float]]:
    """Concurrency, checks/s and CPU microseconds a check, on the service's own socket."""
    rows = []
    for concurrency in (1, CONCURRENCY, 200):
        runs = []
        with over_unix_socket(variant.authz_socket, METHOD, _check_request(variant)) as load:
            load.throughput(CALLS, concurrency)
            for _ in range(5):
                before = cpu_seconds(variant.authz_pid)
                rate = load.throughput(LOADED_CALLS, concurrency)
                runs.append((rate, (cpu_seconds(variant.authz_pid) - before) / LOADED_CALLS * 1e6))
        rate, cpu_us = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append((concurrency, rate, cpu_us))
    return rows


def _direct_table(direct: list[tuple[str, list[tuple[int, float, float]]]]) -> Table:
    table = Table("", "at a time", "checks/s", "CPU µs a check", "checks/s a core", title="On its own socket")
    for name, rows in direct:
        for concurrency, rate, cpu_us in rows:
            table.add_row(name, str(concurrency), f"{rate:.0f}", f"{cpu_us:.0f}", f"{1e6 / cpu_us:.0f}")
    return table


def _message() -> bytes:
    params = b'{"name":"add","arguments":{"a":1,"b":1}}'
    return bytes(pb.Request(method="tools/call", name="add", id_json=b"1", params_json=params).SerializeToString())


def _check_request(variant: Variant) -> bytes:
    """What Envoy sends for `_message`."""
    from urllib.parse import quote

    request = external_auth_pb2.CheckRequest()
    source, http = request.attributes.source, request.attributes.request.http
    identity = variant.authz_socket.parents[1] / "certs" / CLIENT
    source.certificate = quote((identity / certs.TLS_CRT).read_text(), safe="")
    source.principal = f"spiffe://{DOMAIN}/{CLIENT}"
    http.method, http.path = "POST", CALL
    message = _message()
    http.raw_body = b"\0" + len(message).to_bytes(4, "big") + message
    http.size = len(http.raw_body)
    http.headers.update({"content-type": "application/grpc", "te": "trailers", "x-request-id": "request-1"})
    return bytes(request.SerializeToString())


async def _variant(stack: contextlib.ExitStack, home: Home, name: str) -> Variant:
    run_dir = home.root / name.replace(" ", "")
    run_dir.mkdir(mode=0o700)
    (run_dir / "bridge.sock").symlink_to(home.root / "up.sock")
    (run_dir / "sink.sock").symlink_to(home.run_dir / "sink.sock")
    authz_pid = 0
    if name == FLOOR:
        socket = run_dir / "authz.sock"
        authz_pid = stack.enter_context(_process("-m", "benchmarks.authz_upstream", str(socket), "--allow")).pid
        await _until(socket.exists)
    elif name != BARE:
        authz_pid = stack.enter_context(_process("-m", "authz_service", **_authz_environment(home, run_dir, name))).pid
        await _until(announcement_path(run_dir, "authz").exists)
    settings = EnvoySettings(
        run_dir=run_dir,
        port=0,
        node_id="bench",
        trust_domains=[DOMAIN],
        cert_path=home.certs / "sidecar" / certs.TLS_CRT,
        key_path=home.certs / "sidecar" / certs.TLS_KEY,
        ca_path=home.certs / "sidecar" / certs.CA_CRT,
        **dict.fromkeys(("per_client_per_second", "per_client_burst"), 1_000_000),
        **dict.fromkeys(("per_tool_per_second", "per_tool_burst"), 1_000_000),
    )
    envoy_pid = stack.enter_context(_envoy(settings, bare=name == BARE)).pid
    await _until(lambda: _port(run_dir) > 0)
    identity = home.certs / CLIENT
    await asyncio.sleep(1.5)  # health checks
    load = stack.enter_context(over_mutual_tls(_port(run_dir), identity, CALL, _message()))
    return Variant(name, envoy_pid, authz_pid, run_dir / "authz.sock", load)


def _authz_environment(home: Home, run_dir: Path, kind: str) -> dict[str, str]:
    return {
        "MCP_RUN_DIR": str(run_dir),
        "MCP_TRUST_DOMAINS": DOMAIN,
        "MCP_AUTHZ_SERVER": kind,
        "MCP_LOG_LEVEL": "WARNING",
        "MCP_AUTHZ_METRICS_PORT": "0",
        "MCP_AUTHZ_POLICY_FILE": str(home.policy),
        "MCP_AUTHZ_JOURNAL_DIR": str(run_dir / "journal"),
        "MCP_AUTHZ_SINK_ADDRESS": f"unix:{home.run_dir / 'sink.sock'}",
        **GRPC_TUNING,
    }


@contextlib.contextmanager
def _process(*arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _envoy(settings: EnvoySettings, *, bare: bool) -> Iterator["subprocess.Popen[bytes]"]:
    document = yaml.safe_load(envoy_config.render(settings))
    if bare:
        _without_decision(document)
    config = settings.run_dir / "envoy.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    with (settings.run_dir / "envoy.log").open("wb") as log:
        process = subprocess.Popen(envoy_config.envoy_command(settings, config), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _without_decision(document: dict[str, Any]) -> None:
    """Take the decision out, and the filters that live on its metadata."""
    for chain_of in document["static_resources"]["listeners"][0]["filter_chains"]:
        manager = chain_of["filters"][-1]["typed_config"]
        manager["http_filters"] = [
            item
            for item in manager["http_filters"]
            if not any(
                word in item["name"] or item["typed_config"].get("stat_prefix") == word for word in _OF_THE_DECISION
            )
        ]


def _port(run_dir: Path) -> int:
    try:
        return envoy_config.listener_address(envoy_config.admin_socket(run_dir))[1]
    except envoy_config.AdminError:
        return 0


async def _until(condition: Any, *, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    run()
