"""A client that asks for much and reads nothing, through real Envoy: it waits alone."""

import asyncio
import json
import ssl
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from chain_stack import Stack
from mcp import Client
from raw_client import CALL, connect, frame

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

CALLS = 25
TEXT_BYTES = 900_000
"""Answers hold it twice, so that all of them are more than Envoy's default window of a connection (24 MiB)."""


def ask() -> bytes:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "hoarder", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "echo", "arguments": {"text": "x" * TEXT_BYTES}, "_meta": envelope}
    request = pb.Request(
        method="tools/call",
        name="echo",
        protocol_version="2026-07-28",
        id_json=b"1",
        params_json=json.dumps(params).encode(),
    )
    return frame(request.SerializeToString())


def hoard(address: str, identity: Path) -> ssl.SSLSocket:
    """A connection on which every call has begun to be answered, and that is read no further."""
    config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    stream = connect(address, identity)
    stream.settimeout(20)
    connection.initiate_connection()
    headers = ((":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CALL))
    body = ask()
    unsent = {1 + 2 * number: memoryview(body) for number in range(CALLS)}
    waiting = set(unsent)
    for stream_id in unsent:
        connection.send_headers(stream_id, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
    while waiting:
        for stream_id, rest in list(unsent.items()):
            while room := min(connection.local_flow_control_window(stream_id), 16_384, len(rest)):
                connection.send_data(stream_id, bytes(rest[:room]), end_stream=room == len(rest))
                rest = rest[room:]
            if rest:
                unsent[stream_id] = rest
            else:
                del unsent[stream_id]
        stream.sendall(connection.data_to_send())
        for event in connection.receive_data(stream.recv(65_536)):
            if isinstance(event, h2.events.ResponseReceived):
                waiting.discard(event.stream_id)
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated)
    return stream


async def test_client_that_reads_nothing_delays_nobody_else(stack: Stack) -> None:
    """Issue 4, back-pressure: all clients share Envoy's one connection to the bridge, and its windows."""
    identity = stack.home.certs / "model-a"
    greedy = await asyncio.to_thread(hoard, stack.address, identity)
    try:
        async with asyncio.timeout(20), Client(stack.transport()) as client:
            times = []
            for number in range(20):
                started = time.perf_counter()
                result = await client.call_tool("echo", {"text": f"{number}"})
                times.append(time.perf_counter() - started)
                assert result.structured_content == {"result": f"{number}"}
            assert sorted(times)[10] < 1
    finally:
        greedy.close()
