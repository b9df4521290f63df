"""Floods through the real Envoy: requests that are reset at once, of one client; the others go on."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.exceptions
import msgspec
import pytest
from chain_stack import Stack, running
from raw_client import connect, frame

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

SESSION = "/secure_mcp_grpc.v1.McpTransport/Session"
RESETS = 3000
VERSION = "2026-07-28"


@pytest.fixture(scope="module")
def stack(root: Path) -> Iterator[Stack]:
    with running(root, without=("store", "sink", "dashboard")) as stack:
        yield stack


def call(number: int) -> pb.Request:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "echo", "arguments": {"text": str(number)}, "_meta": meta}
    return pb.Request(
        method="tools/call",
        name="echo",
        protocol_version=VERSION,
        id_json=b"%d" % number,
        params_json=msgspec.json.encode(params),
    )


def flood(stack: Stack) -> int:
    """Open sessions, send a frame on each, reset it: as fast as Envoy takes it. How many streams could be opened."""
    opened = 0
    while opened < RESETS:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", SESSION),
                  ("content-type", "application/grpc"), ("te", "trailers")]  # fmt: skip
        body = frame(pb.ClientFrame(request=call(opened)).SerializeToString())
        with connect(stack.address, stack.home.certs / "model-a") as stream:
            connection.initiate_connection()
            try:
                for _ in range(200):
                    number = connection.get_next_available_stream_id()
                    connection.send_headers(number, fields)
                    connection.send_data(number, body)
                    connection.reset_stream(number, error_code=8)
                    stream.sendall(connection.data_to_send())
                    opened += 1
            except (OSError, h2.exceptions.ProtocolError):
                continue  # cut off by Envoy
    return opened


async def test_sessions_that_are_reset_at_once_stop_nobody(stack: Stack) -> None:
    """Issue 4, and CVE-2023-44487: cancelled floods reach neither the other clients' calls nor the bridge's life."""
    pid = stack.pid("bridge")
    async with stack.channel("model-a") as channel:
        ask = channel.unary_unary(
            "/secure_mcp_grpc.v1.McpTransport/Call", pb.Request.SerializeToString, pb.Response.FromString
        )
        await ask(call(0), timeout=10)
        flooding = asyncio.create_task(asyncio.to_thread(flood, stack))
        took: list[float] = []
        while not flooding.done():
            started = time.monotonic()
            assert b'"result"' in (await ask(call(len(took) + 1), timeout=10)).message_json
            took.append(time.monotonic() - started)
            await asyncio.sleep(0.02)
        assert await flooding >= RESETS
        assert b'"result"' in (await ask(call(0), timeout=10)).message_json

    assert stack.pid("bridge") == pid
    assert took
    assert sorted(took)[len(took) // 2] < 2.0
