"""What one client can cost all others while Envoy holds back bodies that are not yet judged."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from envoy_harness import CALL, Pki, Pod, call, client_tls, eventually, running_pod

STREAMS, BODY = 128, 1_000_000


class Hoarder:
    """One connection of many requests, each with a body that is all but complete."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self._left = {1 + 2 * number: BODY for number in range(STREAMS)}
        self.cut_off: set[int] = set()

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

    async def see_the_end(self) -> None:
        """Until no request is left, or Envoy has nothing more to say of them."""
        with contextlib.suppress(TimeoutError, ConnectionError, h2.exceptions.ProtocolError):
            while len(self.cut_off) < STREAMS and (data := await asyncio.wait_for(self._reader.read(65536), 5)):
                self._take(data)

    def _send(self, stream: int) -> None:
        while (count := min(self._left[stream], 16_384, self._connection.local_flow_control_window(stream))) > 0:
            self._connection.send_data(stream, b"x" * count)
            self._left[stream] -= count

    def _take(self, data: bytes) -> None:
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
                self.cut_off.add(event.stream_id)
                self._left.pop(event.stream_id, None)


async def hoard(pod: Pod, identity: Path | None) -> Hoarder:
    tls = client_tls(pod.pki.ca, ["h2"], identity)
    hoarder = Hoarder(*await asyncio.open_connection("127.0.0.1", pod.port, ssl=tls, server_hostname="127.0.0.1"))
    await hoarder.fill()
    return hoarder


@pytest.mark.parametrize("heap_mib", [96, 128, 192])
async def test_who_finishes_no_request_does_not_keep_others_out(root: Path, pki: Pki, heap_mib: int) -> None:
    """Ours: 128 MB of unfinished bodies from a stranger, below, about and beyond what the heap may hold.

    Without a limit of time on requests everybody would be refused for as long as the stranger stays.
    """
    options = {"auth_type": "jwt", "max_heap_bytes": heap_mib * 1_048_576, "request_timeout_s": 2.0}
    async with running_pod(root, pki, **options) as pod:
        hoarder = await hoard(pod, None)
        async with pod.channel(certificate=False) as channel:

            async def steadily_served() -> bool:
                return all([(await call(channel))[0] is grpc.StatusCode.OK for _ in range(50)])

            await eventually(steadily_served, within_s=20)
            await hoarder.see_the_end()

    assert len(hoarder.cut_off) == STREAMS
