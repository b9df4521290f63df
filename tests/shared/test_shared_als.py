"""Our sender: batches are held until the receiver acknowledges them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from envoy.service.accesslog.v3 import als_pb2

from secure_mcp_grpc import als, headers


class Receiver:
    """An ALS server that refuses `failures` streams before it takes one."""

    def __init__(self) -> None:
        self.failures = 0
        self.refused = asyncio.Event()
        self.got: list[str] = []
        self.arrived = asyncio.Event()

    async def stream(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        batch = []
        async for data in requests:
            message = als_pb2.StreamAccessLogsMessage.FromString(data)
            assert message.identifier.log_name == "mcp.test"
            batch += [entry.common_properties.custom_tags[headers.RECORD_TAG] for entry in message.http_logs.log_entry]
        if self.failures:
            self.failures -= 1
            self.refused.set()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self.got += batch
        self.arrived.set()
        return als_pb2.StreamAccessLogsResponse().SerializeToString()


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[tuple[Receiver, grpc.aio.Channel]]:
    receiver = Receiver()
    server = grpc.aio.server()
    service, method = als.METHOD.strip("/").split("/")
    handler = grpc.stream_unary_rpc_method_handler(receiver.stream)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    server.add_insecure_port(f"unix:{tmp_path}/als.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/als.sock") as channel:
        yield receiver, channel
    await server.stop(None)


async def test_what_was_refused_is_sent_again_in_order(receiver: tuple[Receiver, grpc.aio.Channel]) -> None:
    """Ours: held and resent until acknowledged."""
    server, channel = receiver
    server.failures = 1
    sender = als.AlsSender(channel, "mcp.test", "n", max_batch=2, max_delay_s=0)
    task = asyncio.create_task(sender.run())
    for number in range(5):
        assert sender.offer(number, f"r{number}".encode())

    await asyncio.wait_for(server.refused.wait(), 10)
    lost = await sender.close(task, timeout_s=10)

    assert (lost, server.got) == (0, ["r0", "r1", "r2", "r3", "r4"])
    assert sender.acknowledged == 5


async def test_a_full_sender_refuses_and_counts(receiver: tuple[Receiver, grpc.aio.Channel]) -> None:
    """Ours: a receiver that stays away costs bounded memory, and the loss is known."""
    _, channel = receiver
    sender = als.AlsSender(channel, "mcp.test", "n", max_pending=2)
    assert [sender.offer(0, b"{}") for _ in range(3)] == [True, True, False]
    assert (sender.pending, sender.refused) == (2, 1)


async def test_a_sender_is_full_by_bytes_too(receiver: tuple[Receiver, grpc.aio.Channel]) -> None:
    """Ours: records hold payloads now; a thousand large ones are no small memory, and no small message."""
    server, channel = receiver
    sender = als.AlsSender(channel, "mcp.test", "n", max_delay_s=0, max_pending_bytes=10, max_batch_bytes=4)
    assert [sender.offer(0, one) for one in (b"aaaaaa", b"bb", b"cc", b"d")] == [True, True, True, False]
    assert [[record for _, record in sender._next_batch()]] == [[b"aaaaaa"]]
    task = asyncio.create_task(sender.run())

    assert await sender.close(task, timeout_s=10) == 0
    assert server.got == ["aaaaaa", "bb", "cc"]
    assert sender.offer(0, b"0123456789")


async def test_closing_tells_what_was_lost(tmp_path: Path) -> None:
    """Ours: a flush that cannot succeed ends in time and says so."""
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/nobody.sock") as channel:
        sender = als.AlsSender(channel, "mcp.test", "n", max_delay_s=0)
        sender.offer(0, b"{}")
        task = asyncio.create_task(sender.run())
        assert await sender.close(task, timeout_s=0.3) == 1
        assert task.done()
