"""The whole chain but the dashboard, as the command line would start it: limits out of the way, logging on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from secure_mcp_grpc import certs
from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.stack.probes import endpoint
from secure_mcp_grpc.stack.running import running
from secure_mcp_grpc.stack.supervisor import read_state

__all__ = ["CLIENT", "DOMAIN", "chain", "settings_of"]

CLIENT = "bench"
DOMAIN = "bench.mcp"
_POLICY = "p, bench, *, *, allow\n"


@contextlib.asynccontextmanager
async def chain(
    home: Home, upstream: Mapping[str, Any], *, max_clients: int = 1000
) -> AsyncIterator[tuple[str, Mapping[str, int]]]:
    """`upstream` behind the whole chain but the dashboard; limits out of the way, logging on."""
    home.prepare()
    certs.init_ca(home.ca, DOMAIN)
    certs.issue(home.ca, home.certs / "sidecar", "sidecar", DOMAIN, dns=["localhost"], ips=["127.0.0.1"])
    certs.issue(home.ca, home.certs / CLIENT, CLIENT, DOMAIN)
    home.policy.write_text(_POLICY, encoding="utf-8")
    (home.root / "logs").mkdir()
    settings, logs_dir = settings_of(upstream, max_clients), home.root / "logs"
    async with running(home, settings, without=("dashboard",), log_dir=logs_dir, stopping=asyncio.Event()):
        address = str(endpoint(home.run_dir, "envoy", "mcp"))
        yield address, {name: part["pid"] for name, part in read_state(home.run_dir).items() if part["pid"]}


def settings_of(upstream: Mapping[str, Any], max_clients: int = 1000) -> dict[str, dict[str, Any]]:
    plenty = 1_000_000
    return {
        "common": {"trust_domains": [DOMAIN], "node_id": "bench"},
        "server": {"host": "127.0.0.1", "port": 0},
        "limits": {
            "per_client_per_second": plenty,
            "per_client_burst": plenty,
            "per_tool_per_second": plenty,
            "per_tool_burst": plenty,
            "max_connections": max_clients,
        },
        "authz": {"metrics_port": 0},
        "bridge": {"metrics_port": 0, "max_sessions": max_clients, "upstreams": {"bench": dict(upstream)}},
        "sink": {"metrics_port": 0},
        "store": {"metrics_port": 0, "port": 0},
    }
