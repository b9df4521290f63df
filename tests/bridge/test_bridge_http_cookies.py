"""What an upstream over HTTP says of cookies is nobody's business, least of all another caller's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcp_bridge.exchange import Exchange
from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.wire import Meta
from secure_mcp_grpc.calls import McpCall

ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'


@asynccontextmanager
async def server(cookie: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP server that sets `cookie` with each answer, and the heads of the requests that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.lower())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\nset-cookie: %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (cookie, len(ANSWER), ANSWER)
        )
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp", heads


@pytest.mark.parametrize("cookie", [b"who=model-a; Path=/", b"a=\xe4\xff; Path=/"], ids=["plain", "unsendable"])
async def test_cookies_of_one_caller_do_not_travel_with_another(cookie: bytes) -> None:
    """Ours: all callers share one client; a cookie would be a session across identities, and an odd one poison."""
    async with server(cookie) as (url, heads):
        upstream = HttpUpstream("remote", url, max_message_bytes=10_000)
        for owner in ("model-a", "model-b"):
            call = McpCall("ping", "", {}, "2026-07-28")
            exchange = Exchange(call, b"1", b"{}", Meta(), owner=owner)

            assert await upstream.request(exchange) == ANSWER
        await upstream.close()

    assert len(heads) == 2
    assert b"cookie:" not in heads[1]
