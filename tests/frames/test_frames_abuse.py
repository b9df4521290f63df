"""What a hostile client of a pipelined session tries: it harms itself at most."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from frames_harness import POLICY, Opening, notification, pod, request, status, tool, until

from mcp_bridge import wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange, Note
from mcp_bridge.serving import Context
from mcp_bridge.session_frames import Load
from mcp_bridge.session_trunk import Backlog
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import policy_query_pb2 as query

ANY_TOOL = f"{POLICY}p, role:user, tools/call, *, allow\n"


async def _sent(*frames: pb.ClientFrame) -> AsyncIterator[bytes]:
    """From a client that stays."""
    for frame in frames:
        yield frame.SerializeToString()
    await asyncio.Event().wait()


async def _first_and_after(answers: AsyncIterator[bytes], condition: Callable[[], bool]) -> None:
    """Read one answer, and the next only when `condition` holds."""
    await anext(answers)
    await until(condition)
    await anext(answers)


@pytest.mark.parametrize("id_json", [b'"\\q"', b'"\\u12"', b'"\\ud800"', b'"\\\x01"'])
async def test_id_that_is_no_json_string_is_refused_as_malformed(short_dir: Path, id_json: bytes) -> None:
    """JSON-RPC 2.0, "Request object": an id is a JSON string; ours: one that is none ends its stream, as malformed."""
    frame = tool("echo")
    frame.request.id_json = id_json
    async with pod(short_dir) as one:
        client = one.open()
        client.send(frame)
        error = await client.ended()

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert one.upstream.executed == []


async def test_long_names_disturb_no_other_session(short_dir: Path) -> None:
    """Ours: answers of authz_service grow with names; the connection that all sessions ask over bears the largest."""
    async with pod(short_dir, policy=ANY_TOOL) as one:
        hostile, other = one.open(), one.open("model-b")
        hostile.send(*(tool(f"{number:02}" + "\u6f22" * 2000, number) for number in range(64)))
        answers = await hostile.messages(64)
        answer = await other.ask(tool("echo"))

    assert {status(one) for one in answers.values()} == {"OK"}
    assert status(answer) == "OK"


async def test_client_that_does_not_read_gets_nothing_by_an_old_decision(short_dir: Path) -> None:
    """Ours: what was allowed and could not begin at once is judged anew, so no client can keep a decision for later."""
    async with pod(short_dir) as one:
        one.sessions.good_for_s = 0.05
        gate = asyncio.Event()
        notify = one.upstream.notify

        async def slow(note: Note) -> None:
            await gate.wait()
            await notify(note)

        one.upstream.notify = slow  # type: ignore[method-assign]
        client = one.open()
        client.send(notification("notifications/progress"), tool("echo", 2))
        await until(lambda: len(one.decisions()) == 2)
        one.set_policy(POLICY.replace("p, role:user, tools/call, echo, allow\n", ""))
        await asyncio.sleep(0.1)
        gate.set()
        answer = await client.message()

    assert answer is not None
    assert status(answer) == "PERMISSION_DENIED"
    assert one.upstream.executed == []


async def test_reply_and_cancel_pass_requests_that_wait_for_room(short_dir: Path) -> None:
    """Ours: calls that wait for a reply do not keep that reply from being read, nor their own cancel."""
    async with pod(short_dir, max_in_flight=4) as one:
        client = one.open()
        await client.ask(request("initialize", {"protocolVersion": "2025-11-25"}))
        session_id = client.session_ids[0]
        client.send(*(tool("slow", number) for number in range(8)))
        await until(lambda: len(one.upstream.executed) == 5)
        reply = pb.ReplyRequest(session_id=session_id, message_json=b'{"jsonrpc":"2.0","id":1,"result":{}}')
        client.send(pb.ClientFrame(reply=reply), notification("notifications/cancelled", {"requestId": 0}))
        await until(lambda: one.upstream.noted == ["reply"] and one.upstream.cancelled == ["0"], 2)
        await until(lambda: len(one.upstream.executed) == 6)
        client.send(notification("notifications/cancelled", {"requestId": 7}))
        await until(lambda: one.interactions[-1].method == "notifications/cancelled")
        one.upstream.release.set()
        answers = await client.messages(6)

    assert sorted(answers) == [1, 2, 3, 4, 5, 6]
    assert one.upstream.most_at_once == 4


async def test_session_whose_slots_stay_taken_is_refused_and_not_blocked(short_dir: Path) -> None:
    """Ours: where nothing ends for a while, what waits behind it is refused, so that its client can go on."""
    async with pod(short_dir, max_in_flight=4) as one:
        one.sessions.patience_s = 0.1
        client = one.open()
        client.send(*(tool("slow", number) for number in range(4)))
        await until(lambda: len(one.upstream.executed) == 4)
        client.send(*(tool("slow", number) for number in range(4, 10)))
        refused = await client.messages(4)
        await until(lambda: client.read == 10)
        one.upstream.release.set()
        answers = await client.messages(6)

    assert {status(one) for one in refused.values()} == {"RESOURCE_EXHAUSTED"}
    assert {status(one) for one in answers.values()} == {"OK"}
    assert one.upstream.most_at_once == 4


async def test_revoked_client_that_reads_nothing_is_cancelled_at_once(short_dir: Path) -> None:
    """Issue 4: revocation ends what is under way, whether its sender reads or not."""
    async with pod(short_dir) as one:
        session = one.sessions.Session(_sent(tool("echo", 1), tool("slow", 2)), Opening(one.opening()))
        await anext(session)  # and never again
        await until(lambda: one.upstream.executed == ["echo", "slow"])
        await one.revoke()
        await one.standing.sweep()
        await until(lambda: one.upstream.cancelled == ["2"], 2)
        with pytest.raises(HopError):
            await anext(session)


async def test_stream_of_a_revoked_client_that_reads_nothing_is_cancelled_at_once(short_dir: Path) -> None:
    """Issue 4: the same for Stream and Listen."""
    stopped = asyncio.Event()
    message = tool("slow").request.SerializeToString()

    async def endless(_message: bytes, _context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            stopped.set()

    async with pod(short_dir) as one:
        body = b"\0" + len(message).to_bytes(4, "big") + message
        opening = Opening(one.opening(rpc="Stream", body=body))
        answers = one.standing.guarded("Stream", endless)(message, opening)
        await anext(answers)  # and never again
        await one.revoke()
        await one.standing.sweep()
        async with asyncio.timeout(2):
            await stopped.wait()
        with pytest.raises(HopError):
            await anext(answers)


async def test_answers_that_nobody_reads_cost_bounded_memory_and_their_own_session(short_dir: Path) -> None:
    """Issue 4: a slow reader costs bounded memory, over all sessions; who reads is not disturbed."""
    large = b'{"content":"%s"}' % (b"x" * 50_000)

    async def answer(exchange: Exchange) -> bytes:
        return wire.result(exchange.id_json, large)

    async with pod(short_dir) as one:
        one.upstream.request = answer  # type: ignore[assignment]
        one.sessions.backlog = Backlog(400_000)
        frames = [tool("echo", number) for number in range(30)]
        lazy = one.sessions.Session(_sent(*frames), Opening(one.opening()))
        with pytest.raises(HopError) as ended:
            await _first_and_after(lazy, lambda: len(one.interactions) == 32)
        other = [status(await one.open("model-b").ask(tool("echo"))) for _ in range(3)]
        assert one.sessions.backlog.total == 0

    assert ended.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert other == ["OK"] * 3


async def test_large_frames_of_one_caller_are_bounded_over_all_of_its_streams(short_dir: Path) -> None:
    """Ours: what is held of requests is bounded for each caller, and each of its streams still gets on."""
    async with pod(short_dir) as one:
        one.sessions.load = Load(500_000)
        clients = [one.open() for _ in range(3)]
        for client in clients:
            client.send(*(tool("slow", number, {"x": "x" * 100_000}) for number in range(20)))
        other = await one.open("model-b").ask(tool("echo"))
        await until(lambda: len(one.upstream.executed) >= 6)
        held = sum(client.read for client in clients)
        one.upstream.release.set()
        answers = [status(answer) for client in clients for answer in (await client.messages(20)).values()]
        for client in clients:
            await client.close()

        assert status(other) == "OK"
        assert held <= 11  # five that fit, one for each stream, and one of each in hand
        assert answers == ["OK"] * 60
        assert len(one.sessions.load) == 0


async def test_open_streams_with_large_messages_cost_authz_service_little(short_dir: Path) -> None:
    """Ours: a client writes its message once; judging it again while it is open must not cost more and more."""
    messages = [tool("slow", number, {"x": "x" * 200_000}).request.SerializeToString() for number in range(20)]
    async with pod(short_dir) as one, AsyncExitStack() as watching:
        asked: list[int] = []
        judge = one.standing._judge
        ask = judge.ask

        async def counting(frames: Sequence[query.Frame]) -> Sequence[query.Judgement]:
            asked.append(sum(len(frame.message) for frame in frames))
            return await ask(frames)

        judge.ask = counting  # type: ignore[method-assign]
        ended: list[HopError] = []
        ticket = one.opening(rpc="Stream", body=b"\0" + len(messages[0]).to_bytes(4, "big") + messages[0])
        for message in messages:
            watching.enter_context(one.standing.watch(ticket, "Stream", message, ended.append))
        small = one.open("model-b")
        await until(lambda: len(one.standing) == 21)
        for _ in range(4):
            await one.standing.sweep()
        every_sweep = max(asked)
        await one.revoke()
        for _ in range(4):
            await one.standing.sweep()

        assert every_sweep <= 1024 * 1024
        assert len(ended) == 20
        assert status(await small.ask(tool("echo"))) == "OK"


async def test_what_never_ends_may_not_be_large(short_dir: Path) -> None:
    """Ours: it would be judged again for as long as its client likes."""
    message = request("subscriptions/listen", {"x": "x" * 20_000}).request.SerializeToString()
    async with pod(short_dir) as one:
        ticket = one.opening(rpc="Stream", body=b"\0" + len(message).to_bytes(4, "big") + message)
        with pytest.raises(HopError) as refused, one.standing.watch(ticket, "Stream", message, print):
            pass

    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_flood_beyond_the_limit_is_slowed_and_harms_no_other(short_dir: Path) -> None:
    """Ours: refusing costs work, too: a client over its limit is read no faster than that, over all of its sessions."""
    limits = {"per_client_per_second": 100, "per_client_burst": 50}
    async with pod(short_dir, limits=limits) as one:
        hostile = [one.open() for _ in range(4)]
        for client in hostile:
            client.send(*(tool("echo", number) for number in range(1000)))
        started = time.monotonic()
        await asyncio.sleep(0.5)
        dealt_with = len(one.interactions) - len(hostile)
        allowed = 50 + 100 * (time.monotonic() - started)
        other = await one.open("model-b").ask(tool("echo"))

    assert dealt_with <= 2.5 * allowed
    assert status(other) == "OK"
