"""A pipelined session: authz_service decides on each frame, and the bridge executes what was allowed."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from frames_harness import POLICY, notification, pod, request, status, tool, until

from mcp_bridge.errors import HopError
from secure_mcp_grpc import headers
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb


async def test_allowed_and_refused_frames_are_told_apart(short_dir: Path) -> None:
    """Issue 4: each frame passes authz_service before it is executed; nothing that it refuses is."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("echo", 1), tool("shell", 2), tool("echo", 3), tool("bounded", 4, {"n": 11}))
        answers = await client.messages(4)

    assert [status(answers[number]) for number in (1, 2, 3, 4)] == [
        "OK",
        "PERMISSION_DENIED",
        "OK",
        "PERMISSION_DENIED",
    ]
    assert answers[2]["error"] == {
        "code": -32011,
        "message": "model-a may not call shell: no rule allows it",
        "data": {"grpcStatus": "PERMISSION_DENIED"},
    }
    assert one.upstream.executed == ["echo", "echo"]


async def test_every_frame_leaves_a_decision_and_an_interaction(short_dir: Path) -> None:
    """Issue 4: a frame stands in both logs like a call of its own, under a request ID of its own."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("echo", 1), tool("shell", 2), notification("notifications/progress"))
        await client.messages(2)
        await until(lambda: len(one.interactions) == 4)
        decisions = one.decisions()

    assert [(d["request_id"], d["method"], d["tool"], d["decision"], d["identity"]) for d in decisions] == [
        ("request-1/1", "tools/call", "echo", "allow", "model-a"),
        ("request-1/2", "tools/call", "shell", "deny", "model-a"),
        ("request-1/3", "notifications/progress", "", "allow", "model-a"),
    ]
    executed = {record.request_id: record for record in one.interactions}
    assert executed["request-1"].method == "grpc:session"
    for decision in decisions:
        record = executed[decision["request_id"]]
        assert (record.chain, record.seq, record.rpc) == (decision["chain"], decision["seq"], "Session")
    assert executed["request-1/1"].outcome == "ok"
    assert executed["request-1/2"].outcome == "refused"


async def test_answers_come_as_they_are_ready(short_dir: Path) -> None:
    """Issue 4: pipelining; a slow call holds up none behind it."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", "a"), tool("echo", "b"))

        first = await client.message()
        one.upstream.release.set()
        second = await client.message()

    assert [message["id"] for message in (first, second) if message] == ["b", "a"]


async def test_policy_acts_on_the_next_frame(short_dir: Path) -> None:
    """Issue 4: policy in force when a frame comes, not when its session was opened."""
    async with pod(short_dir) as one:
        client = one.open()
        before = await client.ask(tool("echo"))
        one.set_policy(POLICY.replace("p, role:user, tools/call, echo, allow\n", ""))
        after = await client.ask(tool("echo"))

    assert (status(before), status(after)) == ("OK", "PERMISSION_DENIED")


@pytest.mark.parametrize("quarantine", [False, True], ids=["revoked", "quarantined"])
async def test_revoked_caller_loses_its_session_with_the_next_frame(short_dir: Path, quarantine: bool) -> None:
    """Issue 4: revocation and quarantine act on the next frame, which learns why, and what was under way is ended."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", "slow"))
        await until(lambda: one.upstream.executed == ["slow"])
        await one.revoke(quarantine=quarantine)
        refused = await client.ask(tool("echo", 2))
        error = await client.ended()

    assert status(refused) == "PERMISSION_DENIED"
    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    assert one.upstream.executed == ["slow"]
    assert one.upstream.cancelled == ['"slow"']


async def test_quota_counts_frames(short_dir: Path) -> None:
    """Issue 4: quotas count frames, and say when to come back."""
    async with pod(short_dir, quotas=["calls identity 2/60"]) as one:
        client = one.open()
        client.send(*(tool("echo", number) for number in range(3)))
        answers = await client.messages(3)

    assert [status(answers[number]) for number in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    assert answers[2]["error"]["data"]["retryAfterS"] > 0


async def test_rechecks_count_against_no_quota(short_dir: Path) -> None:
    """Ours: an open stream is asked about, and does nothing new."""
    async with pod(
        short_dir, quotas=[{"name": "all", "by": "identity", "limit": 2, "window_s": 60, "methods": ["*"]}]
    ) as one:
        client = one.open()
        await until(lambda: len(one.standing) == 1)
        for _ in range(5):
            await one.standing.sweep()
        answer = await client.ask(tool("echo"))

    assert status(answer) == "OK"


async def test_limits_of_clients_and_tools_count_frames(short_dir: Path) -> None:
    """Issue 4: Envoy sees one request, so the bridge counts the frames, over all streams of a caller."""
    async with pod(short_dir, limits={"per_tool_per_second": 1, "per_tool_burst": 2}) as one:
        first, second, other = one.open(), one.open(), one.open("model-b")
        spent = [status(await client.ask(tool("echo"))) for client in (first, second, first, second)]
        others = [status(await first.ask(request("tools/list"))), status(await other.ask(tool("echo")))]
    async with pod(short_dir / "two", limits={"per_client_per_second": 1, "per_client_burst": 2}) as one:
        client = one.open()
        client.send(*(tool("echo", number) for number in range(3)))
        answers = await client.messages(3)
        judged = len(one.decisions())

    assert spent == ["OK", "OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
    assert others == ["OK", "OK"]
    assert sorted(status(answer) for answer in answers.values()) == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    assert judged == 2


async def test_ticket_that_was_not_given_opens_nothing(short_dir: Path) -> None:
    """Issue 4: forged, foreign and missing tickets; a ticket counts for its RPC and in its process only."""
    listen = pb.ListenRequest(session_id="s").SerializeToString()
    async with pod(short_dir) as one, pod(short_dir / "two") as two:
        good = dict(one.opening())
        body = b"\0" + len(listen).to_bytes(4, "big") + listen
        of_listen = dict(one.opening(rpc="Listen", body=body))
        flipped = (
            good[headers.TICKET][:-6] + ("A" if good[headers.TICKET][-6] != "A" else "B") + good[headers.TICKET][-5:]
        )
        codes = []
        for ticket in (dict(two.opening())[headers.TICKET], flipped, "x", "ä", "A" * 20_000, of_listen[headers.TICKET]):
            client = one.open(metadata=[*{**good, headers.TICKET: ticket}.items()])
            client.send(tool("echo"))
            error = await client.ended()
            assert isinstance(error, HopError)
            codes.append(error.code)
        without = one.open(metadata=[(key, value) for key, value in good.items() if key != headers.TICKET])
        error = await without.ended()

    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
    assert isinstance(error, HopError)
    assert one.upstream.executed == two.upstream.executed == []
    assert "ticket" not in json.dumps([decision["reason"] for decision in two.decisions()])


async def test_stream_that_was_not_opened_as_a_session_is_none(short_dir: Path) -> None:
    """Ours: what authz_service allowed is in `x-mcp-target`, also for the opening."""
    async with pod(short_dir) as one:
        metadata = dict(one.opening()) | {headers.TARGET: "tools/call echo"}
        client = one.open(metadata=[*metadata.items()])
        client.send(tool("echo"))
        error = await client.ended()

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    assert one.upstream.executed == []


async def test_session_ends_when_it_is_too_old(short_dir: Path) -> None:
    """Issue 4: a ticket expires; the client opens another stream."""
    async with pod(short_dir, stream_max_age_s=0.2) as one:
        client = one.open()
        assert status(await client.ask(tool("echo"))) == "OK"
        await asyncio.sleep(0.25)
        refused = await client.ask(tool("echo"))
        error = await client.ended()

    assert status(refused) == "UNAVAILABLE"
    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert one.upstream.executed == ["echo"]


@pytest.mark.parametrize(
    "frame",
    [b"\xff\xff", b"", pb.ClientFrame(request=pb.Request(method="tools/list", id_json=b"{}")).SerializeToString(),
     notification("tools/call").SerializeToString(), pb.ClientFrame(reply=pb.ReplyRequest()).SerializeToString()],
    ids=["no message", "nothing", "no id", "no notification", "no session"],
)  # fmt: skip
async def test_frame_that_cannot_be_answered_ends_the_stream(short_dir: Path, frame: bytes) -> None:
    """Issue 4: a malformed frame without a usable id ends the stream with INVALID_ARGUMENT, and is recorded."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(frame, tool("echo"))
        error = await client.ended()
        reasons = [decision["reason"] for decision in one.decisions()]

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert reasons[0] == "malformed"
    assert one.upstream.executed == []


async def test_malformed_request_with_an_id_is_answered(short_dir: Path) -> None:
    """Issue 4: it is its sender's mistake, and nobody else's."""
    lies = pb.ClientFrame(
        request=pb.Request(method="tools/call", name="echo", id_json=b"7", params_json=b'{"name":"shell"}')
    )
    async with pod(short_dir) as one:
        client = one.open()
        client.send(lies, tool("echo", 8))
        answers = await client.messages(2)

    assert (status(answers[7]), status(answers[8])) == ("INVALID_ARGUMENT", "OK")
    assert one.upstream.executed == ["echo"]


async def test_id_in_use_ends_the_stream(short_dir: Path) -> None:
    """MCP 2026-07-28, "Requests": the id must not be in use; an answer to one would be taken for the other's."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1), tool("slow", "1"), tool("echo", 1))
        error = await client.ended()

    assert isinstance(error, HopError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "echo" not in one.upstream.executed


async def test_cancelled_notification_cancels_its_request(short_dir: Path) -> None:
    """MCP 2026-07-28, "Cancellation": upstream hears of it, and no response is sent."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1), tool("slow", 2))
        await until(lambda: len(one.upstream.executed) == 2)
        client.send(notification("notifications/cancelled", {"requestId": 1}))
        await until(lambda: one.upstream.cancelled == ["1"])
        one.upstream.release.set()
        answer = await client.message()
        last = await client.ask(tool("echo", 3))

    assert answer is not None
    assert (answer["id"], last["id"]) == (2, 3)
    assert one.upstream.noted == []


async def test_request_that_is_cancelled_at_once_is_recorded(short_dir: Path) -> None:
    """Ours: it was allowed, so there is a record, although the server never saw it."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1), notification("notifications/cancelled", {"requestId": 1}), tool("echo", 2))
        answer = await client.message()
        await until(lambda: len(one.interactions) == 4)

    assert answer is not None
    assert answer["id"] == 2
    assert {one.request_id: one.outcome for one in one.interactions}["request-1/1"] == "cancelled"


async def test_end_of_the_stream_cancels_what_is_under_way(short_dir: Path) -> None:
    """Issue 4: disconnects reach the upstream."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1), tool("slow", 2))
        await until(lambda: len(one.upstream.executed) == 2)
        await client.close()

        assert sorted(one.upstream.cancelled) == ["1", "2"]
        assert len(one.standing) == 0
        assert one.executor.in_flight == 0


async def test_client_that_sends_no_more_gets_its_answers(short_dir: Path) -> None:
    """gRPC: half-close; the stream ends with OK after the last answer."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("slow", 1))
        client.half_close()
        await until(lambda: one.upstream.executed)
        one.upstream.release.set()
        answer = await client.message()
        error = await client.ended()

    assert answer is not None
    assert answer["id"] == 1
    assert error is None


async def test_messages_of_a_streaming_request_come_before_its_answer(short_dir: Path) -> None:
    """Issue 4: notifications of streaming requests are interleaved; a request that asks for none gets none."""
    async with pod(short_dir) as one:
        client = one.open()
        client.send(tool("echo", 1, _meta={"progressToken": "t"}))
        found = [await client.message() for _ in range(4)]
        plain = await client.ask(tool("echo", 2))

    assert [message.get("method") for message in found if message] == ["notifications/progress"] * 3 + [None]
    assert plain["id"] == 2


async def test_no_more_than_so_many_are_in_flight(short_dir: Path) -> None:
    """Issue 4: back-pressure by not reading further."""
    async with pod(short_dir, max_in_flight=4) as one:
        client = one.open()
        client.send(*(tool("slow", number) for number in range(10)))
        await until(lambda: len(one.upstream.executed) == 4)
        await asyncio.sleep(0.05)
        read = client.read
        one.upstream.release.set()
        await client.messages(10)

    assert read == 9  # as many are held as are in flight, and one is in hand
    assert one.upstream.most_at_once <= 4


async def test_handshake_session_works_over_frames(short_dir: Path) -> None:
    """Issue 4: initialize, initialized, calls and replies of a session, in their order; the session is its owner's."""
    async with pod(short_dir) as one:
        client = one.open()
        opened = await client.ask(request("initialize", {"protocolVersion": "2025-11-25"}))
        session_id = client.session_ids[0]
        reply = pb.ReplyRequest(session_id=session_id, message_json=b'{"jsonrpc":"2.0","id":1,"result":{}}')
        client.send(
            notification("notifications/initialized", session_id=session_id),
            request("tools/list", number=2, session_id=session_id),
            pb.ClientFrame(reply=reply),
        )
        listed = await client.message()
        await until(lambda: len(one.upstream.noted) == 2)
        stranger = one.open("model-b")
        stolen = await stranger.ask(request("tools/list", session_id=session_id))

    assert "result" in opened
    assert "result" in (listed or {})
    assert one.upstream.noted == ["notifications/initialized", "reply"]
    assert status(stolen) == "NOT_FOUND"


async def test_nothing_is_executed_while_authz_is_away(short_dir: Path) -> None:
    """Issue 4: fail closed; the stream itself stays for a while."""
    async with pod(short_dir) as one:
        client = one.open()
        assert status(await client.ask(tool("echo", 1))) == "OK"
        await one.stop_authz()
        refused = await client.ask(tool("echo", 2))

    assert status(refused) == "UNAVAILABLE"
    assert one.upstream.executed == ["echo"]
