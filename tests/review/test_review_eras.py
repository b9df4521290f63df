"""Handshake servers that ask without end, and callers who come back for what is another's."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.eras.calls import Call
from mcp_bridge.eras.link import Link
from mcp_bridge.eras.parked import Parked, Parking, fingerprint


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_server_that_asks_without_end_fills_nothing(size: int) -> None:
    """Ours: while a call is parked its server may ask only so much more; the rest is refused at once."""
    refused: list[bytes] = []

    class Server:
        name = "s"

        async def reply(self, _session: Any, message: bytes) -> None:
            refused.append(message)

    server: Any = Server()
    link = Link(server, "s", "o", {"sampling": {}})
    call = link.new_call("tools/call")
    call.work = asyncio.get_running_loop().create_future()  # type: ignore[assignment]
    text = msgspec.json.encode({"messages": [], "x": "y" * size})
    for number in range(2000):
        link.session.queue.offer(wire.request("sampling/createMessage", b"%d" % number, text))
        await asyncio.sleep(0)

    assert 0 < len(call.asks) <= 64
    assert sum(len(ask.params) for ask in call.asks.values()) <= 4 * 1024 * 1024
    assert b"too many requests" in refused[-1]


async def test_a_state_serves_its_owner_and_its_request_only() -> None:
    """MCP 2026-07-28, "Server Requirements", 4 and 5: nobody takes up another's call, nor the own one changed."""
    parking = Parking(4, 60.0, lambda _: None)
    members = {"name": Raw(b'"t"'), "arguments": Raw(b'{"a":1,"b":2}')}
    mine = fingerprint("tools/call", members)
    call = Call(1, "tools/call", True)
    link: Any = None
    state = parking.put(Parked("5 alice", mine, link, call))

    assert parking.find(state, "5 mallory", mine) is None
    assert parking.find(state, "5 alice", fingerprint("tools/call", members | {"arguments": Raw(b'{"a":2}')})) is None
    assert parking.find(state, "5 alice", fingerprint("prompts/get", members)) is None
    again = members | {"arguments": Raw(b'{ "b": 2, "a": 1 }'), "inputResponses": Raw(b"{}")}
    assert parking.find(state, "5 alice", fingerprint("tools/call", again)) is not None
    parking.clear()
