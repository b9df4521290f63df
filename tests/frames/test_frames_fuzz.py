"""Whatever frames a client sends: no crash, nothing executed that was not decided, and a journal that verifies."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from frames_harness import POLICY, Pod, notification, pod, request, tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_bridge.errors import HopError
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

NAMES = st.sampled_from(["echo", "shell", "bounded", "", "echo\n", "*", "ECHO", "echo\u202e"])
METHODS = st.sampled_from(["tools/call", "tools/list", "initialize", "grpc:session", "notifications/cancelled", ""])
JSON = st.sampled_from(
    [
        b"", b"{}", b"[]", b"{", b'{"name":"echo"}', b'{"name":"shell"}', b'{"name":"echo","name":"shell"}',
        b'{"name":"echo","Name":"shell"}', b'{"name":"bounded","arguments":{"n":5}}', b'{"requestId":1}', b"\xff",
        b'{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}',
    ]
)  # fmt: skip
IDS = st.sampled_from([b"1", b'"1"', b"", b"null", b"1.5", b"[]", b'"\\u0031"', b"99999999999999999999", b"2"])
SESSIONS = st.sampled_from(["", "s", "a b", "x" * 200])
_fields = {"method": METHODS, "protocol_version": st.sampled_from(["", "2026-07-28", "?"]), "session_id": SESSIONS}
SHAPED = st.one_of(
    st.builds(pb.Request, name=NAMES, id_json=IDS, params_json=JSON, **_fields).map(
        lambda one: pb.ClientFrame(request=one).SerializeToString()
    ),
    st.builds(pb.Notification, params_json=JSON, **_fields).map(
        lambda one: pb.ClientFrame(notification=one).SerializeToString()
    ),
    st.builds(pb.ReplyRequest, session_id=SESSIONS, message_json=JSON).map(
        lambda one: pb.ClientFrame(reply=one).SerializeToString()
    ),
)
GOOD = st.one_of(
    st.builds(tool, NAMES.filter(str.isalpha), st.integers(1, 5)),
    st.builds(lambda number: tool("bounded", number, {"n": number}), st.integers(1, 20)),
    st.just(request("tools/list")),
    st.just(notification("notifications/cancelled", {"requestId": 1})),
).map(pb.ClientFrame.SerializeToString)
MERGED = st.builds(lambda one, other: one + other, SHAPED, SHAPED)
"""Two messages after one another parse as one: the last of a oneof counts, and halves of it merge."""
FRAMES = st.lists(st.one_of(GOOD, SHAPED, MERGED, st.binary(max_size=40)), min_size=1, max_size=12)


async def _play(one: Pod, frames: list[bytes]) -> None:
    client = one.open()
    client.send(*frames)
    client.half_close()
    error = await client.ended()
    assert error is None or isinstance(error, HopError), error
    await asyncio.sleep(0)
    assert one.executor.in_flight == 0


def _allowed(decisions: list[dict[str, str]]) -> Counter[str]:
    return Counter(one["tool"] or one["method"] for one in decisions if one["decision"] == "allow")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=FRAMES)
def test_nothing_is_executed_without_a_decision(frames: list[bytes]) -> None:
    """Issue 4: fuzz of frames; what the server was asked, the journal allowed, as often and no more."""

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="frames-") as path:
            async with pod(Path(path), policy=POLICY) as one:
                await _play(one, frames)
                executed = Counter([*one.upstream.executed, *one.upstream.noted])
                assert executed <= _allowed(one.decisions())
                assert "shell" not in executed
                health = await one.open().ask(tool("echo"))
                assert "result" in health

    asyncio.run(scenario())
