"""Streams that stay open are judged again, and end when they may not go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from frames_harness import POLICY, Opening, Pod, notification, pod, tool, until

from mcp_bridge.errors import HopError
from mcp_bridge.serving import Context
from mcp_bridge.transport_service import TransportService
from secure_mcp_grpc import calls, headers
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

SLOW = tool("slow").request.SerializeToString()
LISTEN = pb.ListenRequest(session_id="s").SerializeToString()


def opening(one: Pod, rpc: str, message: bytes) -> Opening:
    return Opening(one.opening(rpc=rpc, body=b"\0" + len(message).to_bytes(4, "big") + message))


async def status_of(stream: AsyncIterator[bytes]) -> grpc.StatusCode | None:
    """What a stream ends with."""
    try:
        async for _ in stream:
            continue
    except HopError as error:
        return error.code
    return None


async def _noting(found: list[bytes], stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for message in stream:
        found.append(message)
        yield message


@pytest.mark.parametrize("what", ["revoked", "quarantined", "policy"])
async def test_stream_ends_when_its_caller_may_not_go_on(short_dir: Path, what: str) -> None:
    """Issue 4: streams of callers that lost their right end, and the server is told to stop."""
    async with pod(short_dir, recheck_s=0.2) as one:
        stream = one.standing.guarded("Stream", TransportService(one.executor).Stream)
        ending = asyncio.create_task(status_of(stream(SLOW, opening(one, "Stream", SLOW))))
        client = one.open()
        await until(lambda: one.upstream.executed == ["slow"])
        await asyncio.sleep(0.5)
        assert not ending.done()
        if what == "policy":
            lost = POLICY.replace("grpc:*", "grpc:listen").replace("p, role:user, tools/call, slow, allow\n", "")
            one.set_policy(lost)
        else:
            await one.revoke(quarantine=what == "quarantined")
        async with asyncio.timeout(1.2):
            code = await ending
            error = await client.ended()
        denials = [decision["reason"] for decision in one.journal() if decision["decision"] == "deny"]

        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert isinstance(error, HopError)
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert one.upstream.cancelled == ["1"]
        assert len(one.standing) == 0
        await until(lambda: any(record.rpc == "Stream" for record in one.interactions))
        record = next(record for record in one.interactions if record.rpc == "Stream")
    expected = "not_permitted" if what == "policy" else what
    assert (record.outcome, record.reason, record.grpc_status) == ("refused", expected, 7)
    assert record.duration_us > 500_000
    assert denials.count(expected) >= 2  # the streams', and what `revoke` looked for


async def test_only_the_stream_of_the_revoked_ends(short_dir: Path) -> None:
    """Ours: others of the same question go on."""
    async with pod(short_dir) as one:
        bad, good = one.open("model-a"), one.open("model-b")
        await until(lambda: len(one.standing) == 2)
        await one.revoke("model-a")
        await one.standing.sweep()
        error = await bad.ended()

        assert isinstance(error, HopError)
        assert len(one.standing) == 1
        assert not good.task.done()


async def test_frames_that_a_revocation_cut_off_were_refused_and_not_cancelled(short_dir: Path) -> None:
    """Issue 4: what the client cancels is `cancelled`; what the sidecar ends is not the client's doing."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1), tool("slow", 2))
        await until(lambda: one.upstream.executed == ["slow", "slow"])
        client.send(notification("notifications/cancelled", {"requestId": 1}))
        await until(lambda: one.upstream.cancelled == ["1"])
        await one.revoke()
        await one.standing.sweep()
        await client.ended()
        await until(lambda: len(one.interactions) == 4)
        found = [(record.request_id, record.outcome, record.reason) for record in one.interactions]

    assert sorted(found) == [
        ("request-1", "ok", ""),
        ("request-1/1", "cancelled", ""),
        ("request-1/2", "refused", "revoked"),
        ("request-1/3", "ok", ""),
    ]


async def test_stream_that_its_client_leaves_was_cancelled(short_dir: Path) -> None:
    """Ours: also while somebody watches it."""
    async with pod(short_dir) as one:
        stream = one.standing.guarded("Stream", TransportService(one.executor).Stream)
        reading = asyncio.create_task(status_of(stream(SLOW, opening(one, "Stream", SLOW))))
        await until(lambda: one.upstream.executed == ["slow"])
        reading.cancel()
        await asyncio.wait([reading])
        await until(lambda: one.interactions)

    assert [(record.outcome, record.reason) for record in one.interactions] == [("cancelled", "")]


async def test_recheck_that_is_allowed_leaves_no_record(short_dir: Path) -> None:
    """Ours: the journal tells what was decided, not every five seconds that nothing changed."""
    async with pod(short_dir) as one:
        one.open()
        await until(lambda: len(one.standing) == 1)
        before = len(one.journal())
        for _ in range(5):
            await one.standing.sweep()

        assert len(one.journal()) == before


async def test_arguments_are_judged_again(short_dir: Path) -> None:
    """Ours: a condition of the policy speaks about the message that the stream was opened with."""
    message = tool("bounded", arguments={"n": 5}).request.SerializeToString()
    async with pod(short_dir) as one:
        ended: list[HopError] = []
        with one.standing.watch(opening(one, "Stream", message).metadata, "Stream", message, ended.append):
            await one.standing.sweep()
            assert ended == []
            one.set_policy(POLICY.replace("args.n < 10", "args.n < 5"))
            await one.standing.sweep()

    assert [error.code for error in ended] == [grpc.StatusCode.PERMISSION_DENIED]


async def test_streams_outlive_a_short_absence_of_authz_and_no_longer_one(short_dir: Path) -> None:
    """Issue 4: a bounded grace, then fail closed."""
    async with pod(short_dir, recheck_s=0.05, grace_s=0.8) as one:
        client = one.open()
        await until(lambda: len(one.standing) == 1)
        await one.stop_authz()
        await asyncio.sleep(0.4)
        assert not client.task.done()
        error = await client.ended()

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.UNAVAILABLE


async def test_ticket_of_a_process_before_ends_the_stream(short_dir: Path) -> None:
    """Issue 4: after a restart of authz_service old tickets are worth nothing; clients reconnect."""
    async with pod(short_dir) as one, pod(short_dir / "two") as two:
        client = one.open(metadata=two.opening())
        await until(lambda: len(one.standing) == 1)
        await one.standing.sweep()
        error = await client.ended()

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.UNAVAILABLE


async def test_stream_without_a_ticket_is_refused(short_dir: Path) -> None:
    """Ours: what could not be judged again may not stay open."""
    async with pod(short_dir) as one:
        stream = one.standing.guarded("Stream", TransportService(one.executor).Stream)
        bare = [(key, value) for key, value in opening(one, "Stream", SLOW).metadata if key != headers.TICKET]
        code = await status_of(stream(SLOW, Opening(bare)))

    assert code is grpc.StatusCode.UNAVAILABLE
    assert one.upstream.executed == []


async def test_only_what_stays_open_gets_a_ticket(short_dir: Path) -> None:
    """Ours: a ticket is a credential on the private socket; calls have no use for one."""
    async with pod(short_dir) as one:
        given = {
            rpc: headers.TICKET in dict(opening(one, rpc, message).metadata)
            for rpc, message in (("Call", SLOW), ("Stream", SLOW), ("Listen", LISTEN))
        }

    assert given == {"Call": False, "Stream": True, "Listen": True}


async def test_guarded_stream_passes_everything_on(short_dir: Path) -> None:
    """Ours: messages in order, the end, and a failure."""

    async def numbers(message: bytes, _context: Context) -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % number
        if message == SLOW:
            raise HopError(grpc.StatusCode.NOT_FOUND, "so it ends")

    async with pod(short_dir) as one:
        guarded = one.standing.guarded("Stream", numbers)
        found: list[bytes] = []
        code = await status_of(_noting(found, guarded(SLOW, opening(one, "Stream", SLOW))))
        assert len(one.standing) == 0

    assert code is grpc.StatusCode.NOT_FOUND
    assert found == [b"%d" % number for number in range(100)]


async def test_stream_whose_reader_is_gone_is_stopped(short_dir: Path) -> None:
    """Ours: closing the answers closes what makes them."""
    stopped = asyncio.Event()

    async def endless(_message: bytes, _context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            stopped.set()

    async with pod(short_dir) as one:
        answers = one.standing.guarded("Stream", endless)(SLOW, opening(one, "Stream", SLOW))
        await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]

        assert stopped.is_set()
        assert len(one.standing) == 0


def test_paths_that_get_tickets_are_those_that_are_watched() -> None:
    """Ours: both parts must mean the same streams."""
    from authz_service.frames.tickets import RPCS
    from mcp_bridge import standing

    assert {path.removeprefix(calls.TRANSPORT) for path in RPCS} == {*standing.LONG, "Session"}
