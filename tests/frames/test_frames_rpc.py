"""The small client on the private socket: it asks, falls back, and survives whatever is at the other end."""

import asyncio
from pathlib import Path

import grpc
import pytest
from frames_harness import authz_channel

from authz_service.server import PartHealth, ServerKind, new_server
from mcp_bridge.errors import HopError
from mcp_bridge.judging import Judge
from mcp_bridge.private_rpc import PrivateRpc
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

METHOD = "/secure_mcp_grpc.v1.PolicyQuery/Judge"


@pytest.mark.parametrize("kind", ["http2", "grpc"])
async def test_it_is_answered_by_both_servers(short_dir: Path, kind: ServerKind) -> None:
    """Ours: setting `server` of authz_service; more than a window in all, and several at once."""
    server = new_server(kind, {METHOD: lambda body: body}, PartHealth(), short_dir / "s")
    await server.start()
    rpc = PrivateRpc(str(short_dir / "s"), METHOD)
    try:
        for number in range(30):
            messages = [bytes([number]) * 1000 for number in range(number, number + 8)]
            found = await asyncio.gather(*(rpc.call(message) for message in messages))
            assert [one for one in found if one is not None] == [
                m for m, one in zip(messages, found, strict=True) if one
            ]
            assert any(found)
        assert await rpc.call(b"x" * 20_000) is None
    finally:
        rpc.close()
        await server.stop(0)


async def test_large_question_goes_the_other_way(short_dir: Path) -> None:
    """Ours: a frame may be larger than what the small client sends."""

    def judge(body: bytes) -> bytes:
        frames = pb.JudgeRequest.FromString(body).frames
        return pb.JudgeResponse(judgements=[pb.Judgement(allowed=True) for _ in frames]).SerializeToString()

    server = new_server("http2", {METHOD: judge}, PartHealth(), short_dir / "s")
    await server.start()
    async with authz_channel(f"unix:{short_dir}/s") as channel:
        asking = Judge(channel, timeout_s=5, address=f"unix:{short_dir}/s")
        answers = [len(await asking.ask([pb.Frame(message=b"x" * size)])) for size in (10, 15_000, 20_000, 1_000_000)]
        asking.close()
    await server.stop(0)

    assert answers == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "garbage",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b"\0\0\1\1\4\0\0\0\1\xff", b"\0\0\0\7\0\0\0\0\0",
     b"\0\0\0\0\1\0\0\0\1", b"\0\0\0\3\0\0\0\0\1", b"\0\0\0\x09\4\0\0\0\1"],
)  # fmt: skip
async def test_peer_that_does_not_answer_is_an_error(short_dir: Path, garbage: bytes) -> None:
    """Ours: fail closed, and soon."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(garbage)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, short_dir / "s")
    async with server, authz_channel(f"unix:{short_dir}/none") as channel:
        asking = Judge(channel, timeout_s=2, address=f"unix:{short_dir}/s")
        with pytest.raises(HopError) as refused:
            await asking.ask([pb.Frame(message=b"x")])
        asking.close()

    assert refused.value.code is grpc.StatusCode.UNAVAILABLE


async def test_it_connects_again_after_a_loss(short_dir: Path) -> None:
    """Ours: authz_service is restarted by its supervisor."""
    rpc = PrivateRpc(str(short_dir / "s"), METHOD)
    assert await rpc.call(b"1") is None
    for content in (b"2", b"3"):
        server = new_server("http2", {METHOD: lambda body: body}, PartHealth(), short_dir / "s")
        await server.start()
        await asyncio.sleep(0.3)
        assert await rpc.call(content) == content
        await server.stop(0)
    rpc.close()
