"""No octets break the server's protocol machine, and how they are cut into pieces makes no difference."""

import itertools

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hpack
from http2_frames import ACK, ECHO, GREETING, REQUEST, Clock, Peer, block, data, headers, read, request
from hypothesis import given
from hypothesis import strategies as st

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.connection import Connection
from secure_mcp_grpc.http2.events import Call, Cancelled, Limits
from secure_mcp_grpc.http2.messages import prefixed
from secure_mcp_grpc.http2.wire import ErrorCode

LIMITS = {"max_message_bytes": 1000, "max_streams": 5, "max_header_bytes": 2000, "nuisances": 20}
ids = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 2**31 - 1])
raw_frames = st.builds(
    wire.frame,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x2D, 0xFF]),
    ids,
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes(4), bytes(5), bytes(8), b"\0\4\0\0\0\5", block()])),
)
good_frames = st.one_of(
    st.builds(lambda n, message: request(2 * n + 1, message), st.integers(0, 8), st.binary(max_size=50)),
    st.builds(lambda n: headers(2 * n + 1), st.integers(0, 8)),
    st.builds(
        lambda n, body, flags: data(2 * n + 1, body, flags),
        *(st.integers(0, 8), st.binary(max_size=30), st.sampled_from([0, 1])),
    ),
    st.builds(wire.window_update, st.sampled_from([0, 1, 3, 5]), st.integers(1, 100)),
    st.builds(lambda n: wire.reset(2 * n + 1, ErrorCode.CANCEL), st.integers(0, 8)),
    st.builds(lambda value: wire.settings({wire.Setting.INITIAL_WINDOW_SIZE: value}), st.integers(0, 200)),
    st.just(wire.frame(6, 0, 0, bytes(8))),
)  # fmt: skip
conversations = st.lists(st.one_of(good_frames, good_frames, raw_frames), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 3000), max_size=12)


def pieces(octets: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(position % (len(octets) + 1) for position in at), len(octets)]
    return [octets[start:end] for start, end in itertools.pairwise(bounds)]


@given(st.binary(max_size=300), st.booleans())
def test_random_octets_never_raise_and_never_call(octets: bytes, greeted: bool) -> None:
    """Ours: no exception leaves the machine, and garbage is no request."""
    peer = Peer(greeted=False, **LIMITS)
    peer.send(GREETING + octets if greeted else octets)

    assert peer.calls == []


@given(conversations)
def test_random_frames_never_raise_and_what_is_called_was_sent(octets: bytes) -> None:
    """Ours: each call is answered at most once, each message is one that was in the octets, and all is bounded."""
    peer = Peer(**LIMITS)
    said = peer.send(octets)

    called = [event.stream_id for event in peer.events if isinstance(event, Call)]
    assert len(called) == len(set(called))
    for event in peer.events:
        if isinstance(event, Call):
            assert prefixed(event.message)[:5] in octets
            assert event.head.path == ECHO
        else:
            assert event.stream_id in called
    assert (said.goaway is not None) == peer.connection.closed
    assert all(stream_id in called or not answer.body for stream_id, answer in said.answers.items())


@given(conversations, cuts)
def test_how_octets_are_cut_makes_no_difference(octets: bytes, at: list[int]) -> None:
    """Ours: sockets deliver any piece; the same calls and the same octets come out."""
    whole, cut = (Connection({ECHO}, Clock(), Limits(**LIMITS)) for _ in range(2))  # type: ignore[arg-type]
    events = whole.receive(GREETING + octets)
    cut_events = [event for piece in pieces(GREETING + octets, at) for event in cut.receive(piece)]

    assert cut_events == events
    assert cut.take() == whole.take()
    assert (cut.closed, cut.fault) == (whole.closed, whole.fault)


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=8), cuts, st.integers(1, 400))
def test_every_message_comes_back_to_an_independent_client(messages: list[bytes], at: list[int], window: int) -> None:
    """RFC 9113: python-hyper's h2 as the client, with small windows that it opens as it reads."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    server = Connection({ECHO}, Clock(), Limits())
    bodies: dict[int, bytes] = {}
    ended: set[int] = set()
    for number, message in enumerate(messages):
        client.send_headers(2 * number + 1, list(REQUEST))
        client.send_data(2 * number + 1, prefixed(message), end_stream=True)
    while outgoing := client.data_to_send():
        for piece in pieces(outgoing, at):
            for event in server.receive(piece):
                assert isinstance(event, Call)
                server.answer(event.stream_id, event.message)
        for heard in client.receive_data(server.take()):
            if isinstance(heard, h2.events.DataReceived):
                bodies[heard.stream_id] = bodies.get(heard.stream_id, b"") + heard.data
                client.acknowledge_received_data(heard.flow_controlled_length, heard.stream_id)
            elif isinstance(heard, h2.events.TrailersReceived):
                assert ("grpc-status", "0") in heard.headers
            elif isinstance(heard, h2.events.StreamEnded):
                ended.add(heard.stream_id)

    assert not server.closed, server.fault
    assert bodies == {2 * number + 1: prefixed(message) for number, message in enumerate(messages)}
    assert ended == set(bodies)


@given(
    st.lists(st.tuples(st.text("abc-", min_size=1, max_size=5), st.text("xyz ", max_size=5)), max_size=6), st.booleans()
)
def test_remembered_headers_mean_what_decoded_ones_mean(fields: list[tuple[str, str]], huffman: bool) -> None:
    """Ours: the second of two equal requests, whose block is not decoded again, fares as the first."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    whole = encoder.encode([*REQUEST, *fields], huffman=huffman)
    peer = Peer()
    outcomes = [
        (answer.status, answer.reset)
        for stream_id in (1, 3, 5)
        for answer in [peer.send(headers(stream_id, b"\x20" + whole.lstrip(b"\x20")), data(stream_id, prefixed(b"")))
                       .answers[stream_id]]
    ]  # fmt: skip

    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(peer.calls) in (0, 3)


def test_client_that_cancels() -> None:
    """gRPC over HTTP2, Errors: h2 resets a call under way; the handler's side learns of it once."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, list(REQUEST))
    client.send_data(1, prefixed(b""), end_stream=True)
    client.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
    server = Connection({ECHO}, Clock(), Limits())
    events = server.receive(client.data_to_send())
    server.answer(1, b"late")

    assert [type(event) for event in events] == [Call, Cancelled]
    assert read(server.take()).answers == {}
    assert server.receive(ACK) == []
