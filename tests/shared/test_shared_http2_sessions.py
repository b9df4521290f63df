"""Streams of requests in the protocol machine: messages, windows, bounds and ends, and no octets that break them."""

import itertools

import h2.config
import h2.connection
import h2.events
import pytest
from http2_frames import ECHO, END, GREETING, REQUEST, TALK, Clock, Peer, block, data, headers, request
from hypothesis import given
from hypothesis import strategies as st

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.connection import Connection
from secure_mcp_grpc.http2.events import Call, Cancelled, Ended, Event, Limits, Message, Opened, Room
from secure_mcp_grpc.http2.inflow import Inflow
from secure_mcp_grpc.http2.messages import RpcError, Status, prefixed
from secure_mcp_grpc.http2.wire import ErrorCode, FrameType, Setting

E = ErrorCode
OPEN = headers(1, block(_path=TALK))
WINDOW = 65_535
"""Of a stream, where messages are small."""


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


def test_messages_come_as_they_are_complete_and_the_end_last() -> None:
    """gRPC over HTTP2, Requests: messages and DATA frames do not align."""
    peer = Peer()
    octets = prefixed(b"one") + prefixed(b"") + prefixed(b"three")
    peer.send(OPEN)
    assert kinds(peer.events) == [Opened]
    peer.send(data(1, octets[:10], 0))
    assert peer.heard == [b"one"]
    peer.send(data(1, octets[10:], 0))
    assert peer.heard == [b"one", b"", b"three"]
    peer.send(data(1, prefixed(b"four")))

    assert kinds(peer.events) == [Opened, *[Message] * 4, Ended]
    assert peer.connection.buffered_bytes == len(octets + prefixed(b"four"))


def test_headers_and_messages_go_out_before_the_request_ends() -> None:
    """gRPC over HTTP2, Responses: full duplex; the headers need no message."""
    peer = Peer()
    peer.send(OPEN)
    peer.connection.begin(1)
    said = peer.said().answers[1]
    assert (said.headers[":status"], said.body, said.ended) == ("200", b"", False)
    peer.connection.send(1, b"x")
    peer.connection.end(1, Status.OK)
    said = peer.said().answers[1]

    assert (said.body, said.status, said.reset) == (prefixed(b"x"), "0", E.NO_ERROR)
    assert peer.connection.buffered_bytes == 0


def test_window_opens_again_only_as_messages_are_taken() -> None:
    """RFC 9113, 5.2: what nobody reads is not sent; more than that is an error of the stream."""
    peer = Peer(max_message_bytes=10_000)
    body = prefixed(bytes(9995))
    peer.send(OPEN)
    said = peer.send(*(data(1, body, 0) for _ in range(6)))
    assert said.windows == [(0, 16 * 2**20 - 65_535)]
    assert peer.connection.buffered_bytes == 60_000

    assert peer.connection.taken(1, 9995) is False, "not worth a frame yet"
    assert peer.connection.taken(1, 9995) is True
    assert peer.said().windows[1:] == [(1, 20_000)]
    assert peer.connection.buffered_bytes == 40_000
    said = peer.send(data(1, body, 0), data(1, body, 0), data(1, bytes(5536), 0))

    assert said.answers[1].reset == E.FLOW_CONTROL_ERROR
    assert kinds(peer.events)[-1] is Cancelled
    assert peer.connection.buffered_bytes == 0


def test_message_as_large_as_allowed_always_fits() -> None:
    """Ours: credit that is owed for small messages does not keep a large one from being completed."""
    peer = Peer(max_message_bytes=WINDOW - 5)
    peer.send(OPEN, data(1, prefixed(bytes(10_000)), 0))
    assert peer.connection.taken(1, 10_000) is False
    large = prefixed(bytes(WINDOW - 5))
    said = peer.send(data(1, large[:16_384], 0))
    assert (1, 10_005) in said.windows

    peer.send(*(data(1, large[at : at + 16_384], 0) for at in range(16_384, WINDOW, 16_384)))
    assert len(peer.heard[-1]) == WINDOW - 5


def test_message_beyond_the_limit_ends_its_stream_with_a_sentence() -> None:
    """Ours: RESOURCE_EXHAUSTED from the prefix on, the handler is cancelled, other streams go on."""
    peer = Peer(max_message_bytes=1000)
    said = peer.send(OPEN, data(1, prefixed(b"fine"), 0), data(1, b"\0" + (1001).to_bytes(4, "big"), 0), request(3))

    assert said.answers[1].status == str(int(Status.RESOURCE_EXHAUSTED))
    assert said.answers[1].headers["grpc-message"] == "messages are limited to 1000 bytes"
    assert said.answers[1].reset == E.NO_ERROR
    assert said.answers[3].status == "0"
    assert kinds(peer.events) == [Opened, Message, Cancelled, Call]


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (data(1, b"\1\0\0\0\1x", 0), Status.UNIMPLEMENTED),
        (data(1, b"\2\0\0\0\1x", 0), Status.INTERNAL),
        (data(1, b"\0\0\0\0\5x"), Status.INTERNAL),
        (data(1, b"\0\0\0", END), Status.INTERNAL),
    ],
    ids=["compressed", "flags", "cut short", "prefix cut short"],
)
def test_what_is_no_message_ends_the_stream(octets: bytes, status: Status) -> None:
    """gRPC over HTTP2, Length-Prefixed-Message."""
    peer = Peer()
    said = peer.send(OPEN, octets)

    assert said.answers[1].status == str(int(status))
    assert kinds(peer.events) == [Opened, Cancelled]


def test_flood_of_empty_messages_ends_its_stream() -> None:
    """Ours: five octets each, and work for every one; a reader that keeps up sees any number of them."""
    flood = Inflow(2**20, 2**20)
    answers = [flood.add(b"\0" * 5000) for _ in range(20)]
    read = Inflow(2**20, 2**20)
    for _ in range(100):
        messages = read.add(b"\0" * 5000)
        assert isinstance(messages, list)
        for message in messages:
            read.take(len(message))

    refusal = next(answer for answer in answers if isinstance(answer, RpcError))
    assert refusal.status is Status.RESOURCE_EXHAUSTED
    assert sum(len(answer) for answer in answers if isinstance(answer, list)) <= 16_384


def test_refusal_after_the_headers_is_a_trailer() -> None:
    """RFC 9113, 8.1: no second header block with a status."""
    peer = Peer(max_message_bytes=10)
    peer.send(OPEN)
    peer.connection.begin(1)
    before = len(peer.octets) + len(peer.said().answers)
    said = peer.send(data(1, prefixed(bytes(11)), 0))

    assert before
    assert said.answers[1].status == "8"
    assert peer.octets.count(b"application/grpc") == 1


def test_data_after_our_end_that_waits_is_not_kept() -> None:
    """Ours: nobody reads it any more."""
    peer = Peer()
    peer.send(wire.settings({Setting.INITIAL_WINDOW_SIZE: 10}), OPEN)
    peer.connection.send(1, bytes(50))
    peer.connection.end(1, Status.OK)
    peer.send(data(1, prefixed(bytes(5000)), 0))
    assert peer.connection.buffered_bytes == 0
    said = peer.send(wire.window_update(1, 1000))

    assert said.answers[1].status == "0"
    assert said.answers[1].reset == E.NO_ERROR, "the rest is not wanted"


def test_unread_messages_of_all_streams_are_bounded_at_the_cost_of_the_largest() -> None:
    """Ours: the stream that holds most is refused; a small one beside it is not."""
    peer = Peer(max_buffered_bytes=50_000)
    peer.send(*(headers(number, block(_path=TALK)) for number in (1, 3, 5)))
    for number, size in ((1, 100), (3, 30_000), (5, 19_000)):
        body = prefixed(bytes(size))
        peer.send(*(data(number, body[at : at + 16_384], 0) for at in range(0, len(body), 16_384)))
    assert {number: answer.status for number, answer in peer.said().answers.items()} == {}
    said = peer.send(data(5, prefixed(bytes(2000)), 0))

    assert {number: answer.status for number, answer in said.answers.items()} == {3: "8"}
    assert peer.connection.buffered_bytes < 25_000


def test_full_stream_is_told_when_it_has_room() -> None:
    """Ours: each stream by itself; one that nobody reads leaves the others theirs."""
    peer = Peer()
    peer.send(wire.window_update(0, 2**20), request(1, b"1"), headers(3, block(_path=TALK)))
    talk = peer.connection
    while talk.send(3, bytes(10_000)):
        pass
    waiting = talk.waiting_bytes
    assert 64 * 1024 < waiting < 64 * 1024 + 10_010
    said = peer.send(request(5, bytes(1000)))
    assert said.answers[5].status == "0"

    peer.events.clear()
    peer.send(wire.window_update(3, 1000))
    assert peer.events == []
    peer.send(wire.window_update(3, 20_000))
    assert peer.events == [Room(3)]


def test_large_answer_goes_out_in_pieces_without_being_copied() -> None:
    """Ours: 16 MiB under small windows; what waits are views of the one message."""
    peer = Peer(max_buffered_bytes=2**26)
    message = bytes(16 * 2**20)
    peer.send(request(1, b"x", _path=TALK))
    connection = peer.connection
    connection.send(1, message)
    connection.end(1, Status.OK)
    received = 0
    while connection.waiting_bytes:
        connection.take()
        received += 60_000
        connection.receive(wire.window_update(0, 60_000) + wire.window_update(1, 60_000))
    octets = connection.take()

    assert octets.endswith(wire.frame(FrameType.RST_STREAM, 0, 1, bytes(4))) or b"grpc-status" in octets
    assert received >= 16 * 2**20 - 2**17


talk_frames = st.one_of(
    st.builds(lambda n: headers(2 * n + 1, block(_path=TALK)), st.integers(0, 4)),
    st.builds(lambda n: headers(2 * n + 1), st.integers(0, 4)),
    st.builds(
        lambda n, message, flags: data(2 * n + 1, prefixed(message), flags),
        *(st.integers(0, 4), st.binary(max_size=1100), st.sampled_from([0, 0, 0, 1])),
    ),
    st.builds(
        lambda n, body, flags: data(2 * n + 1, body, flags),
        *(st.integers(0, 4), st.binary(max_size=30), st.sampled_from([0, 1, 8])),
    ),
    st.builds(wire.window_update, st.sampled_from([0, 1, 3, 5]), st.integers(1, 100)),
    st.builds(lambda n: wire.reset(2 * n + 1, ErrorCode.CANCEL), st.integers(0, 4)),
    st.builds(lambda value: wire.settings({Setting.INITIAL_WINDOW_SIZE: value}), st.integers(0, 200)),
)  # fmt: skip
cuts = st.lists(st.integers(0, 3000), max_size=8)
LIMITS = {"max_message_bytes": 1000, "max_streams": 5, "max_header_bytes": 2000, "nuisances": 20}


def pieces(octets: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(position % (len(octets) + 1) for position in at), len(octets)]
    return [octets[start:end] for start, end in itertools.pairwise(bounds)]


class Handlers:
    """What a server does with streams of requests, as a fuzzer says."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.untaken: dict[int, list[bytes]] = {}

    def hear(self, event: Event) -> None:
        if isinstance(event, Opened):
            assert event.stream_id not in self.untaken
            self.untaken[event.stream_id] = []
        elif isinstance(event, Message):
            self.untaken[event.stream_id].append(event.message)
        elif isinstance(event, Cancelled):
            self.untaken.pop(event.stream_id, None)

    def act(self, doing: int) -> None:
        for stream_id, messages in list(self.untaken.items()):
            if doing in (1, 2) and messages:
                self.peer.connection.taken(stream_id, len(messages.pop(0)))
            elif doing == 3:
                self.peer.connection.send(stream_id, b"answer")
            elif doing == 4:
                self.peer.connection.end(stream_id, Status.OK)
                del self.untaken[stream_id]


@given(st.lists(st.tuples(talk_frames, st.integers(0, 5)), max_size=40))
def test_no_frames_break_the_bounds(steps: list[tuple[bytes, int]]) -> None:
    """Ours: whatever comes, with handlers that take, answer and end in between: counts stay true, events in order."""
    peer = Peer(max_buffered_bytes=3000, **LIMITS)
    handlers = Handlers(peer)
    for octets, doing in steps:
        seen = len(peer.events)
        peer.send(octets)
        for event in peer.events[seen:]:
            handlers.hear(event)
        handlers.act(doing)
        assert 0 <= peer.connection.buffered_bytes <= 3000 + 1100
        assert peer.connection.waiting_bytes >= 0
    handlers.act(4)
    peer.said()
    assert peer.connection.buffered_bytes <= 1000 * 5, "only calls that are incomplete are left"


@given(st.lists(talk_frames, max_size=30).map(b"".join), cuts)
def test_how_octets_are_cut_makes_no_difference(octets: bytes, at: list[int]) -> None:
    """Ours: the same events and answers come out."""
    whole, cut = (Connection({ECHO, TALK}, Clock(), Limits(**LIMITS), {TALK}) for _ in range(2))  # type: ignore[arg-type]
    events = whole.receive(GREETING + octets)
    cut_events = [event for piece in pieces(GREETING + octets, at) for event in cut.receive(piece)]

    assert cut_events == events
    assert cut.take() == whole.take()
    assert (cut.closed, cut.fault, cut.buffered_bytes) == (whole.closed, whole.fault, whole.buffered_bytes)


class Talker:
    """python-hyper's h2 as the client of one stream, which obeys our windows and opens its own as it reads."""

    def __init__(self, to_send: bytes, window: int) -> None:
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.client.update_settings({Setting.INITIAL_WINDOW_SIZE: window})
        self.client.send_headers(1, [(name, TALK if name == ":path" else value) for name, value in REQUEST])
        self.to_send = to_send
        self.body = b""
        self.ended = False

    def octets(self) -> bytes:
        client = self.client
        if size := min(len(self.to_send), client.local_flow_control_window(1), client.max_outbound_frame_size):
            client.send_data(1, self.to_send[:size], end_stream=size == len(self.to_send))
            self.to_send = self.to_send[size:]
        return client.data_to_send()

    def hear(self, octets: bytes) -> None:
        for heard in self.client.receive_data(octets):
            if isinstance(heard, h2.events.DataReceived):
                self.body += heard.data
                self.client.acknowledge_received_data(heard.flow_controlled_length, 1)
            elif isinstance(heard, h2.events.StreamEnded):
                self.ended = True


@given(st.lists(st.binary(max_size=9000), min_size=1, max_size=30), cuts, st.integers(1, 4000))
def test_every_message_of_a_stream_comes_back_to_an_independent_client(
    messages: list[bytes], at: list[int], window: int
) -> None:
    """RFC 9113: no message is lost, changed or stuck, however narrow the windows of both sides."""
    talker = Talker(b"".join(prefixed(message) for message in messages), window)
    server = Connection({TALK}, Clock(), Limits(max_message_bytes=9000), {TALK})
    for _ in range(100_000):
        for event in itertools.chain.from_iterable(map(server.receive, pieces(talker.octets(), at))):
            if isinstance(event, Message):
                server.taken(1, len(event.message))
                server.send(1, event.message)
            elif isinstance(event, Ended):
                server.end(1, Status.OK)
        talker.hear(server.take())
        if talker.ended:
            break

    assert talker.ended, server.fault
    assert talker.body == b"".join(prefixed(message) for message in messages)
