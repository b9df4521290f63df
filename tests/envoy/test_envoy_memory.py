"""What one client can cost all others while Envoy holds back bodies that are not yet judged."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from envoy_harness import CALL, Pki, Pod, call, client_tls, eventually, running_pod

STREAMS, BODY = 128, 1_000_000


class Hoarder:
    """One connection of many requests, each with a body that is all but complete."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self._left = {1 + 2 * number: BODY for number in range(STREAMS)}
        self.cut_off = 0

    async def fill(self) -> None:
        """Until everything is sent or cut off, or Envoy takes no more."""
        self._connection.initiate_connection()
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", CALL)]
        for stream in self._left:
            self._connection.send_headers(stream, [*fields, ("content-type", "application/grpc")])
        with contextlib.suppress(TimeoutError, ConnectionError, h2.exceptions.ProtocolError):
            while any(self._left.values()):
                for stream in list(self._left):
                    self._send(stream)
                self._writer.write(self._connection.data_to_send())
                await self._writer.drain()
                self._take(await asyncio.wait_for(self._reader.read(65536), 1))

    def _send(self, stream: int) -> None:
        while (count := min(self._left[stream], 16_384, self._connection.local_flow_control_window(stream))) > 0:
            self._connection.send_data(stream, b"x" * count)
            self._left[stream] -= count

    def _take(self, data: bytes) -> None:
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
                self.cut_off += 1
                self._left.pop(event.stream_id, None)


async def hoard(pod: Pod, identity: Path | None) -> Hoarder:
    tls = client_tls(pod.pki.ca, ["h2"], identity)
    hoarder = Hoarder(*await asyncio.open_connection("127.0.0.1", pod.port, ssl=tls, server_hostname="127.0.0.1"))
    await hoarder.fill()
    return hoarder


async def test_who_finishes_no_request_does_not_keep_others_out(root: Path, pki: Pki) -> None:
    """Measured: 128 MB of unfinished bodies from a stranger, a heap of 96 MiB; the largest are cut off, others served.

    Without `reset_high_memory_stream` everybody is refused for as long as the stranger stays.
    """
    heap = 96 * 1_048_576
    async with running_pod(root, pki, auth_type="jwt", max_heap_bytes=heap) as pod:
        hoarder = await hoard(pod, None)
        async with pod.channel(certificate=False) as channel:

            async def steadily_served() -> bool:
                return all([(await call(channel))[0] is grpc.StatusCode.OK for _ in range(50)])

            await eventually(steadily_served)  # the heap is looked at four times a second

    assert hoarder.cut_off
