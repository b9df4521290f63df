"""Client-side load balancing: several addresses behind one client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import full_server
import grpc
import httpx2
import mcp
import pytest
from bridge_harness import serving
from connect_kit import Sidecar, answered, connected, legacy, open_session, seen_rpcs, sidecar
from test_bridge_client import Ca, tls_sidecar

from mcp_bridge.client import Identity, grpc_transport
from mcp_bridge.client.channel import Address, Channels
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from secure_mcp_grpc.errors import UserError


@contextlib.asynccontextmanager
async def one_sidecar(directory: Path) -> AsyncIterator[Sidecar]:
    directory.mkdir(exist_ok=True)
    async with serving(InProcessUpstream("full", full_server.server)) as bridge, sidecar(bridge, directory) as one:
        yield one


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Sidecar, Sidecar]]:
    async with one_sidecar(tmp_path / "a") as one, one_sidecar(tmp_path / "b") as other:
        yield one, other


def both(pair: tuple[Sidecar, Sidecar]) -> str:
    return ",".join(one.address for one in pair)


async def test_requests_take_turns(pair: tuple[Sidecar, Sidecar]) -> None:
    """Issue 4: client-side load balancing over several addresses."""
    async with mcp.Client(grpc_transport(both(pair)), cache=None) as client:
        for _ in range(10):
            await client.call_tool("add", {"a": 1, "b": 2})
    shares = [seen_rpcs(one).count("Call") for one in pair]
    assert min(shares) >= 5


async def test_session_stays_where_it_was_opened(pair: tuple[Sidecar, Sidecar]) -> None:
    """Ours: its state is at one sidecar; another session may be at the other."""
    address = both(pair)
    async with (
        mcp.Client(grpc_transport(address), mode="legacy") as first,
        mcp.Client(grpc_transport(address), mode="legacy") as second,
    ):
        for _ in range(5):
            await first.call_tool("add", {"a": 1, "b": 2})
            await second.call_tool("add", {"a": 1, "b": 2})
    assert all(rpc in seen_rpcs(pair[0]) for rpc in ("Call", "EndSession"))


async def test_sessions_of_http_clients_are_spread_and_stay(pair: tuple[Sidecar, Sidecar]) -> None:
    """Issue 4: through `connect`, several clients over several sidecars."""
    async with connected(both(pair)) as one, httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        sessions = [await open_session(client, one.url) for _ in range(4)]
        add = legacy("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
        for _ in range(3):
            answers = [await client.post(one.url, json=add, headers=session) for session in sessions]
            assert [answered(answer)["result"]["content"][0]["text"] for answer in answers] == ["3"] * 4
    assert all(seen_rpcs(side).count("Stream") == 6 for side in pair)


async def test_dead_address_costs_no_request_and_is_used_again(tmp_path: Path) -> None:
    """Issue 4: a dead address is avoided, and taken back when it lives."""
    async with one_sidecar(tmp_path / "a") as alive:
        dead = f"unix:{tmp_path}/b/sidecar.sock"
        async with mcp.Client(grpc_transport(f"{dead},{alive.address}"), cache=None) as client:
            for _ in range(6):
                await client.call_tool("add", {"a": 1, "b": 2})
            async with one_sidecar(tmp_path / "b") as back, asyncio.timeout(15):
                while not back.seen:
                    await client.call_tool("add", {"a": 1, "b": 2})
                    await asyncio.sleep(0.02)


async def test_all_dead_is_unavailable_at_once(tmp_path: Path) -> None:
    """Ours: no endless wait."""
    address = f"unix:{tmp_path}/a.sock,unix:{tmp_path}/b.sock"
    async with asyncio.timeout(4):
        with pytest.raises(Exception) as failed:
            async with mcp.Client(grpc_transport(address)):
                pass
    error: Any = failed.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert error.error.data == {"grpcStatus": "UNAVAILABLE"}


async def test_every_address_must_be_who_it_should(tmp_path: Path) -> None:
    """Issue 4: each address is verified by server_id; one that is somebody else gets no request."""
    ca = Ca()
    identity = Identity.from_directory(ca.issue(tmp_path / "client", "spiffe://mcp.internal/model-a"))
    right, wrong = "spiffe://mcp.internal/sidecar", "spiffe://mcp.internal/other"
    async with (
        tls_sidecar(ca.issue(tmp_path / "right", right)) as (good, good_address),
        tls_sidecar(ca.issue(tmp_path / "wrong", wrong)) as (bad, bad_address),
    ):
        transport = grpc_transport(f"{bad_address},{good_address}", identity=identity, server_id=right)
        async with mcp.Client(transport) as client:
            for _ in range(4):
                await client.call_tool("who", {})
        assert bad.requests == []
        assert len(good.requests) >= 5
        with pytest.raises(ConnectionError, match=r"is spiffe://mcp\.internal/other, not"):
            async with grpc_transport(f"{bad_address},{bad_address}", identity=identity, server_id=right):
                pass


async def test_deadline_ends_a_request(pair: tuple[Sidecar, Sidecar]) -> None:
    """Issue 4: deadlines: `timeout_s` ends what takes longer, here and at the server."""
    async with mcp.Client(grpc_transport(pair[0].address, timeout_s=0.3)) as client:
        with pytest.raises(mcp.MCPError) as late:
            await client.call_tool("wait", {"name": "deadline"})
    assert late.value.error.data == {"grpcStatus": "DEADLINE_EXCEEDED"}
    async with asyncio.timeout(2):
        while "deadline" in full_server.running:
            await asyncio.sleep(0.005)


async def test_addresses_are_read_strictly() -> None:
    """Ours: no address is nobody; a name that is not this machine needs an identity."""
    with pytest.raises(UserError, match="name the sidecar"):
        Channels(Address(" , ", None))
    channels = Channels(Address("unix:/tmp/none.sock,example.org:1", None))
    with pytest.raises(UserError, match="only loopback addresses"):
        await channels.open()
    await channels.close()


async def test_bound_sessions_are_bounded(tmp_path: Path) -> None:
    """Ours: clients that never end sessions cost bounded memory."""
    channels = Channels(Address(f"unix:{tmp_path}/a,unix:{tmp_path}/b", None))
    await channels.open()
    endpoint = await channels.pick()
    for number in range(10_100):
        channels.bind(str(number), endpoint)
    assert len(channels._bound) == 10_000
    assert isinstance(endpoint.state(), grpc.ChannelConnectivity)
    await channels.close()
