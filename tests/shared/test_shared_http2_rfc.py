"""The protocol, clause by clause, on octets: RFC 9113, RFC 7541 and gRPC over HTTP2."""

from collections.abc import Callable

import hpack
import pytest
from http2_frames import ACK, ECHO, END, GREETING, REQUEST, WHOLE, Peer, block, code, data, headers, request

from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.events import Call, Cancelled
from secure_mcp_grpc.http2.messages import Status, prefixed
from secure_mcp_grpc.http2.wire import ErrorCode, FrameType, Setting

HELLO = prefixed(b"hello")
E = ErrorCode


def frame(kind: FrameType, stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return wire.frame(kind, flags, stream_id, payload)


def setting(name: int, value: int) -> bytes:
    return frame(FrameType.SETTINGS, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


def test_call_is_answered() -> None:
    """gRPC over HTTP2, Responses: headers, one length-prefixed message, trailers with the status."""
    answer = Peer().send(request(1)).answers[1]

    assert answer.headers == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert answer.body == HELLO
    assert (answer.ended, answer.reset) == (True, None)


CONNECTION_ERRORS = {
    "3.4 no preface": (b"GET / HTTP/1.1\r\n\r\n", E.PROTOCOL_ERROR),
    "3.4 first frame is not SETTINGS": (wire.PREFACE + request(1), E.PROTOCOL_ERROR),
    "3.4 first frame is an ACK": (wire.PREFACE + ACK, E.PROTOCOL_ERROR),
    "4.2 frame longer than we take": (GREETING + frame(FrameType.DATA, 1, bytes(2**14 + 1)), E.FRAME_SIZE_ERROR),
    "4.3 block that cannot be decoded": (GREETING + headers(1, b"\xff\xff\xff\xff\xff\xff"), E.COMPRESSION_ERROR),
    "5.1 data on an idle stream": (GREETING + data(1, HELLO), E.PROTOCOL_ERROR),
    "5.1 reset of an idle stream": (GREETING + frame(FrameType.RST_STREAM, 1, bytes(4)), E.PROTOCOL_ERROR),
    "5.1 window of an idle stream": (GREETING + wire.window_update(1, 5), E.PROTOCOL_ERROR),
    "5.1 headers on a closed stream": (
        GREETING + headers(1, block(_path="/x"), WHOLE | END) + headers(1),
        E.STREAM_CLOSED,
    ),
    "5.1.1 even stream": (GREETING + headers(2), E.PROTOCOL_ERROR),
    "5.1.1 data on an even stream": (GREETING + request(5) + data(4, HELLO), E.PROTOCOL_ERROR),
    "5.1.1 stream numbers go up": (GREETING + request(5) + headers(3), E.STREAM_CLOSED),
    "6.1 DATA on stream 0": (GREETING + data(0, HELLO), E.PROTOCOL_ERROR),
    "6.1 padding as long as the frame": (GREETING + headers(1) + data(1, b"\x06hello", 8), E.PROTOCOL_ERROR),
    "6.1 padded without a length": (GREETING + headers(1) + data(1, b"", 8), E.FRAME_SIZE_ERROR),
    "6.2 HEADERS on stream 0": (GREETING + headers(0), E.PROTOCOL_ERROR),
    "6.2 padding of headers": (GREETING + headers(1, b"\xff" + block(), WHOLE | 8), E.PROTOCOL_ERROR),
    "6.2 priority is missing": (GREETING + headers(1, b"\0\0", WHOLE | 0x20), E.FRAME_SIZE_ERROR),
    "6.2 another frame in a block": (GREETING + headers(1, block(), 0) + ACK, E.PROTOCOL_ERROR),
    "6.2 unknown frame in a block": (
        GREETING + headers(1, block(), 0) + wire.frame(99, 0, 1),
        E.PROTOCOL_ERROR,
    ),
    "6.3 PRIORITY on stream 0": (GREETING + frame(FrameType.PRIORITY, 0, bytes(5)), E.PROTOCOL_ERROR),
    "6.3 PRIORITY of 4": (GREETING + frame(FrameType.PRIORITY, 1, bytes(4)), E.FRAME_SIZE_ERROR),
    "6.4 RST_STREAM on stream 0": (GREETING + frame(FrameType.RST_STREAM, 0, bytes(4)), E.PROTOCOL_ERROR),
    "6.4 RST_STREAM of 3": (GREETING + headers(1) + frame(FrameType.RST_STREAM, 1, bytes(3)), E.FRAME_SIZE_ERROR),
    "6.5 SETTINGS on a stream": (GREETING + frame(FrameType.SETTINGS, 1), E.PROTOCOL_ERROR),
    "6.5 SETTINGS of 5": (GREETING + frame(FrameType.SETTINGS, 0, bytes(5)), E.FRAME_SIZE_ERROR),
    "6.5 ACK with content": (GREETING + frame(FrameType.SETTINGS, 0, bytes(6), 1), E.FRAME_SIZE_ERROR),
    "6.5.2 ENABLE_PUSH 2": (GREETING + setting(Setting.ENABLE_PUSH, 2), E.PROTOCOL_ERROR),
    "6.5.2 window 2^31": (GREETING + setting(Setting.INITIAL_WINDOW_SIZE, 2**31), E.FLOW_CONTROL_ERROR),
    "6.5.2 frame size 16383": (GREETING + setting(Setting.MAX_FRAME_SIZE, 2**14 - 1), E.PROTOCOL_ERROR),
    "6.5.2 frame size 2^24": (GREETING + setting(Setting.MAX_FRAME_SIZE, 2**24), E.PROTOCOL_ERROR),
    "6.6 PUSH_PROMISE": (GREETING + headers(1) + frame(FrameType.PUSH_PROMISE, 1, bytes(4)), E.PROTOCOL_ERROR),
    "6.7 PING on a stream": (GREETING + frame(FrameType.PING, 1, bytes(8)), E.PROTOCOL_ERROR),
    "6.7 PING of 7": (GREETING + frame(FrameType.PING, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": (GREETING + frame(FrameType.GOAWAY, 1, bytes(8)), E.PROTOCOL_ERROR),
    "6.8 GOAWAY of 7": (GREETING + frame(FrameType.GOAWAY, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of 3": (GREETING + frame(FrameType.WINDOW_UPDATE, 0, bytes(3)), E.FRAME_SIZE_ERROR),
    "6.9 connection window of 0": (GREETING + wire.window_update(0, 0), E.PROTOCOL_ERROR),
    "6.9.1 connection window overflows": (GREETING + wire.window_update(0, 2**31 - 1), E.FLOW_CONTROL_ERROR),
    "6.10 CONTINUATION of nothing": (GREETING + frame(FrameType.CONTINUATION, 1), E.PROTOCOL_ERROR),
    "6.10 CONTINUATION elsewhere": (
        GREETING + headers(1, block(), 0) + frame(FrameType.CONTINUATION, 3, b"", WHOLE),
        E.PROTOCOL_ERROR,
    ),
    "RFC 7541, 4.2: the table stays large": (
        GREETING + headers(1, hpack.Encoder().encode(list(REQUEST))),
        E.COMPRESSION_ERROR,
    ),
}


@pytest.mark.parametrize(("octets", "expected"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_broken_connection_is_told_why_and_cut_off(octets: bytes, expected: ErrorCode) -> None:
    """RFC 9113, 5.4.1: GOAWAY with the code, and nothing after it is read."""
    peer = Peer(greeted=False)
    said = peer.send(octets)

    assert code(said) == expected
    assert peer.connection.closed
    before = len(peer.calls)
    peer.send(request(101))
    assert len(peer.calls) == before


STREAM_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "5.1 data after the end": (data(1, HELLO), E.STREAM_CLOSED),
    "5.1 headers after the end": (headers(1), E.STREAM_CLOSED),
    "6.9 window of 0": (wire.window_update(1, 0), E.PROTOCOL_ERROR),
    "6.9.1 window overflows": (wire.window_update(1, 2**31 - 1), E.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("octets", "expected"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_broken_stream_is_reset_and_the_others_go_on(octets: bytes, expected: ErrorCode) -> None:
    """RFC 9113, 5.4.2: RST_STREAM; whoever works for the stream learns of it."""
    peer = Peer(answering=False)
    peer.send(request(1))
    said = peer.send(octets, request(3))

    assert said.answers[1].reset == expected
    assert said.goaway is None
    assert [type(event) for event in peer.events] == [Call, Cancelled, Call]
    peer.connection.answer(1, b"late")
    peer.connection.answer(3, b"good")
    assert peer.said().answers[1].body == b""
    assert peer.said().answers[3].body == prefixed(b"good")


MALFORMED: dict[str, bytes] = {
    "8.2.1 capitals": block((*REQUEST, ("X-A", "b"))),
    "8.2.1 blank in a name": block((*REQUEST, ("x a", "b"))),
    "8.2.1 empty name": block((*REQUEST, ("", "b"))),
    "8.2.1 NUL in a value": block((*REQUEST, ("x-a", "b\0c"))),
    "8.2.1 line break in a value": block((*REQUEST, ("x-a", "b\r\nc: d"))),
    "8.2.1 blank around a value": block((*REQUEST, ("x-a", " b"))),
    "8.2.2 connection": block((*REQUEST, ("connection", "close"))),
    "8.2.2 transfer-encoding": block((*REQUEST, ("transfer-encoding", "chunked"))),
    "8.2.2 te": block(te="gzip"),
    "8.3 unknown pseudo-header field": block(((":what", "x"), *REQUEST)),
    "8.3 pseudo-header field of responses": block(((":status", "200"), *REQUEST)),
    "8.3 pseudo-header field last": block((*REQUEST[1:], REQUEST[0])),
    "8.3 pseudo-header field twice": block((REQUEST[0], *REQUEST)),
    "8.3.1 no method": block(_method=None),
    "8.3.1 no scheme": block(_scheme=None),
    "8.3.1 no path": block(_path=None),
    "8.3.1 empty path": block(_path=""),
    "8.3.1 path without a slash": block(_path="test.Service/Echo"),
    "path with a blank": block(_path=f"{ECHO} x"),
    "path that is not ASCII": block(_path=f"{ECHO}é"),
    "8.1.1 length that is none": block(content_length="-1"),
    "8.1.1 two lengths": block((*REQUEST, ("content-length", "10"), ("content-length", "11"))),
    "8.1.1 length of another body": block(content_length="11"),
}


@pytest.mark.parametrize("header_block", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request_is_never_called(header_block: bytes) -> None:
    """RFC 9113, 8.1.1: a stream error PROTOCOL_ERROR; what follows on the stream is ignored."""
    peer = Peer()
    said = peer.send(headers(1, header_block), data(1, HELLO), request(3))

    assert said.answers[1].reset == E.PROTOCOL_ERROR
    assert said.answers[1].headers == {}
    assert peer.calls == [b"hello"]
    assert said.answers[3].status == "0"


REFUSED: dict[str, tuple[bytes, Status]] = {
    "no such method": (headers(1, block(_path="/test.Service/Other")) + data(1, HELLO), Status.UNIMPLEMENTED),
    "path with a query": (headers(1, block(_path=f"{ECHO}?x")) + data(1, HELLO), Status.UNIMPLEMENTED),
    "path in another case": (headers(1, block(_path=ECHO.lower())) + data(1, HELLO), Status.UNIMPLEMENTED),
    "compressed": (headers(1) + data(1, b"\1" + HELLO[1:]), Status.UNIMPLEMENTED),
    "invalid flags": (headers(1) + data(1, b"\2" + HELLO[1:]), Status.INTERNAL),
    "no message": (headers(1, flags=WHOLE | END), Status.UNIMPLEMENTED),
    "empty body": (headers(1) + data(1, b""), Status.UNIMPLEMENTED),
    "two messages": (headers(1) + data(1, HELLO + HELLO), Status.UNIMPLEMENTED),
    "octets after the message": (headers(1) + data(1, HELLO + b"x"), Status.UNIMPLEMENTED),
    "part of a message": (headers(1) + data(1, HELLO[:-1]), Status.INTERNAL),
    "part of a prefix": (headers(1) + data(1, HELLO[:3]), Status.INTERNAL),
    "too long, whole": (headers(1) + data(1, prefixed(bytes(101))), Status.RESOURCE_EXHAUSTED),
    "too long, from its prefix": (headers(1) + data(1, b"\0\0\0\1\0", 0), Status.RESOURCE_EXHAUSTED),
    "no timeout": (headers(1, block(grpc_timeout="soon")) + data(1, HELLO), Status.INTERNAL),
}


@pytest.mark.parametrize(("octets", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_unary_call_is_refused_with_a_status(octets: bytes, status: Status) -> None:
    """gRPC over HTTP2: Trailers-Only; statuscodes.md gives the codes. The connection goes on."""
    peer = Peer(max_message_bytes=100)
    said = peer.send(octets, request(3))

    assert said.answers[1].status == str(int(status))
    assert said.answers[1].headers["grpc-message"]
    assert said.answers[1].ended
    assert peer.calls == [b"hello"]
    assert said.answers[3].status == "0"


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"_method": "GET"}, "405"), ({"content_type": "application/json"}, "415"), ({"content_type": None}, "415")],
)
def test_what_is_not_grpc_gets_an_http_status(changes: dict[str, str | None], status: str) -> None:
    """gRPC over HTTP2, Requests: 415 for another content type, so that other clients fail as they know how."""
    peer = Peer()

    assert peer.send(request(1, **changes)).answers[1].headers[":status"] == status
    assert peer.calls == []


def test_answer_before_the_end_of_a_request_tells_the_peer_to_stop() -> None:
    """RFC 9113, 8.1: a complete response, then RST_STREAM NO_ERROR; data on its way is ignored."""
    said = Peer().send(headers(1, block(_path="/nowhere")), data(1, HELLO, 0), data(1, HELLO))

    assert (said.answers[1].ended, said.answers[1].reset) == (True, E.NO_ERROR)
    assert said.goaway is None


def test_body_in_many_pieces_with_padding_and_trailers() -> None:
    """RFC 9113, 6.1 and 8.1: pieces, padding, empty frames, continued headers and trailers all are one request."""
    peer = Peer()
    whole = block()
    said = peer.send(
        wire.frame(FrameType.HEADERS, 0x20 | 8, 1, b"\3" + bytes(5) + whole[:7] + b"pad"),
        frame(FrameType.CONTINUATION, 1, whole[7:20]),
        frame(FrameType.CONTINUATION, 1, whole[20:], WHOLE),
        data(1, HELLO[:4], 0),
        data(1, b"", 0),
        data(1, b"\2" + HELLO[4:] + b"pd", 8),
        headers(1, block([("x-trailer", "1")]), WHOLE | END),
    )

    assert peer.calls == [b"hello"]
    assert said.answers[1].status == "0"
    assert (1, 3) in said.windows, "padding is given back to the stream"


@pytest.mark.parametrize(
    "trailers", [headers(1, block([("a", "b")])), headers(1, block([(":path", "/")]), WHOLE | END)]
)
def test_trailers_must_end_the_request_and_be_fields(trailers: bytes) -> None:
    """RFC 9113, 8.1: otherwise the request is malformed."""
    peer = Peer()

    assert peer.send(headers(1), data(1, HELLO, 0), trailers).answers[1].reset == E.PROTOCOL_ERROR
    assert peer.calls == []


def test_unknown_frames_settings_and_flags_are_ignored() -> None:
    """RFC 9113, 4.1, 5.5, 6.5.2: extensions do no harm."""
    said = Peer().send(
        wire.frame(99, 0xFF, 0, b"x"), wire.frame(99, 0, 1, b"x"), setting(99, 7), headers(1, flags=WHOLE | 0x42),
        wire.frame(FrameType.PRIORITY, 0, 7, bytes(5)), data(1, HELLO, END | 0x80),
    )  # fmt: skip

    assert said.answers[1].status == "0"


def test_ping_and_settings_are_acknowledged() -> None:
    """RFC 9113, 6.5.3 and 6.7: with the same payload; an acknowledgement is not answered."""
    said = Peer().send(
        frame(FrameType.PING, 0, b"12345678"), frame(FrameType.PING, 0, b"87654321", 1), wire.settings({})
    )

    assert said.pongs == [b"12345678"]
    assert said.acks == 2


def test_answers_wait_for_the_windows_of_the_peer() -> None:
    """RFC 9113, 5.2 and 6.9.2: no octet beyond either window, also after the peer has shrunk them."""
    peer = Peer()
    peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 20))
    first = peer.send(request(1, b"a" * 45)).answers[1]
    assert (len(first.body), first.ended) == (20, False)

    assert len(peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 5)).answers[1].body) == 20
    assert len(peer.send(wire.window_update(1, 10)).answers[1].body) == 20, "the window was negative"
    assert len(peer.send(wire.window_update(1, 10)).answers[1].body) == 25
    assert len(peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 15)).answers[1].body) == 35
    done = peer.send(wire.window_update(1, 100)).answers[1]
    assert (done.body, done.ended, done.status) == (prefixed(b"a" * 45), True, "0")
    assert peer.connection.waiting_bytes == 0


def test_answer_that_nobody_takes_any_more_is_forgotten() -> None:
    """RFC 9113, 6.4: after RST_STREAM what waited for the stream's window no longer counts."""
    peer = Peer()
    peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 20), request(1, b"a" * 45))
    assert peer.connection.waiting_bytes == 30

    said = peer.send(wire.reset(1, E.CANCEL), wire.window_update(0, 100))
    assert peer.connection.waiting_bytes == 0
    assert len(said.answers[1].body) == 20


def test_data_on_a_stream_that_is_answered_is_an_error_of_that_stream() -> None:
    """RFC 9113, 5.1 closed: STREAM_CLOSED, unless it may have been on its way when we reset the stream."""
    peer = Peer()
    peer.send(request(1))
    said = peer.send(data(1, HELLO), request(3))

    assert said.answers[1].reset == E.STREAM_CLOSED
    assert said.answers[3].status == "0"


def test_answers_share_the_window_of_the_connection() -> None:
    """RFC 9113, 6.9.1: 65,535 octets until the peer gives more."""
    peer = Peer()
    message = bytes(10_000)
    said = peer.send(*(request(1 + 2 * number, message) for number in range(8)))
    assert sum(len(answer.body) for answer in said.answers.values()) == 65_535

    said = peer.send(wire.window_update(0, 1_000_000))
    assert [answer.body for answer in said.answers.values()] == [prefixed(message)] * 8
    assert all(answer.ended for answer in said.answers.values())


def test_answers_respect_the_frame_size_of_the_peer() -> None:
    """RFC 9113, 4.2: 16,384 octets unless the peer says more."""
    peer = Peer(answering=False)
    peer.send(wire.window_update(0, 2**20), setting(Setting.INITIAL_WINDOW_SIZE, 2**20), request(1), request(3))
    peer.connection.answer(1, bytes(40_000))
    small = peer.connection.take()
    assert small[:9] == wire.frame(1, 4, 1, bytes(32))[:9]
    assert max(_sizes(small)) == 16_384

    peer.connection.receive(setting(Setting.MAX_FRAME_SIZE, 2**20))
    peer.connection.take()
    peer.connection.answer(3, bytes(40_000))
    assert max(_sizes(peer.connection.take())) == 40_005


def _sizes(octets: bytes) -> list[int]:
    sizes = []
    while octets:
        sizes.append(int.from_bytes(octets[:3], "big"))
        octets = octets[9 + sizes[-1] :]
    return sizes


def test_windows_are_refilled_so_that_large_requests_pass() -> None:
    """RFC 9113, 5.2: the connection's window grows again as octets come in."""
    peer = Peer()
    message = bytes(4 * 1024 * 1024)
    body = prefixed(message)
    for stream_id in range(1, 21, 2):
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        peer.send(headers(stream_id), *(data(stream_id, piece, 0) for piece in pieces), data(stream_id, b""))

    assert peer.calls == [message] * 10
    assert sum(increment for stream_id, increment in peer.said().windows if stream_id == 0) > 10 * len(message)


def test_more_than_the_window_of_a_stream_is_an_error() -> None:
    """RFC 9113, 6.9.1: FLOW_CONTROL_ERROR, of the stream."""
    peer = Peer(max_message_bytes=20_000)
    body = b"\0" + (20_000).to_bytes(4, "big")
    said = peer.send(headers(1), data(1, body, 0), *[data(1, bytes(16_000), 0)] * 5)

    assert said.answers[1].reset == E.FLOW_CONTROL_ERROR


def test_dynamic_table_before_our_settings_arrive() -> None:
    """RFC 7541: a peer may use the table until it has acknowledged; then it says so, and blocks stay the same."""
    peer = Peer(greeted=False)
    encoder = hpack.Encoder()
    peer.send(wire.PREFACE, wire.settings({}), headers(1, encoder.encode(list(REQUEST))), data(1, HELLO))
    peer.send(headers(3, encoder.encode(list(REQUEST))), data(3, HELLO))
    encoder.header_table_size = 0
    peer.send(ACK, headers(5, encoder.encode(list(REQUEST))), data(5, HELLO))
    for stream_id in (7, 9):
        said = peer.send(headers(stream_id, encoder.encode(list(REQUEST))), data(stream_id, HELLO))

    assert peer.calls == [b"hello"] * 5
    assert all(answer.status == "0" for answer in said.answers.values())


def test_same_octets_before_and_after_the_table_is_gone_are_not_confused() -> None:
    """Ours: a block is remembered only while it cannot mean anything else."""
    peer = Peer(greeted=False)
    encoder = hpack.Encoder()
    peer.send(wire.PREFACE, wire.settings({}), headers(1, encoder.encode(list(REQUEST))), data(1, HELLO))
    indexed = encoder.encode(list(REQUEST))
    peer.send(headers(3, indexed), data(3, HELLO))
    said = peer.send(ACK, headers(5, b"\x20" + block()), data(5, HELLO), headers(7, indexed), data(7, HELLO))

    assert peer.calls == [b"hello"] * 3
    assert code(said) == E.COMPRESSION_ERROR


Flood = Callable[[int], bytes]
FLOODS: dict[str, Flood] = {
    "pings": lambda n: frame(FrameType.PING, 0, bytes(8)),
    "settings": lambda n: wire.settings({}),
    "rapid reset": lambda n: headers(1 + 2 * n) + frame(FrameType.RST_STREAM, 1 + 2 * n, bytes(4)),
    "reset after the call": lambda n: request(1 + 2 * n) + frame(FrameType.RST_STREAM, 1 + 2 * n, bytes(4)),
    "malformed requests": lambda n: headers(1 + 2 * n, block(_path=None)),
    "refused streams": lambda n: headers(1 + 2 * n),
    "empty data": lambda n: (headers(1) if n == 0 else b"") + data(1, b"", 0),
    "unknown frames": lambda n: wire.frame(99, 0, 0),
    "empty continuations": lambda n: headers(1, b"", 0) if n == 0 else frame(FrameType.CONTINUATION, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_of_what_costs_and_leads_to_nothing_ends_the_connection(flood: Flood) -> None:
    """Ours, RFC 9113 10.5 and CVE-2023-44487: ENHANCE_YOUR_CALM after so many at once."""
    peer = Peer(nuisances=50, nuisances_per_s=10, max_streams=10, answering=False)
    said = peer.send(*(flood(number) for number in range(200)))

    assert code(said) == E.ENHANCE_YOUR_CALM
    assert peer.connection.closed


def test_slow_nuisances_are_borne() -> None:
    """Ours: keepalive pings and cancelled calls go on for ever."""
    peer = Peer(nuisances=50, nuisances_per_s=10)
    for _ in range(500):
        peer.clock.now_s += 0.2
        peer.send(frame(FrameType.PING, 0, bytes(8)))

    assert not peer.connection.closed


def test_header_block_without_end_is_cut_off() -> None:
    """Ours, CVE-2024-27316: continued headers are bounded before they are whole."""
    peer = Peer(max_header_bytes=4096)
    said = peer.send(headers(1, bytes(4000), 0), frame(FrameType.CONTINUATION, 1, bytes(200)))

    assert code(said) == E.ENHANCE_YOUR_CALM


def test_header_list_longer_than_announced_is_cut_off() -> None:
    """RFC 9113, 6.5.2 MAX_HEADER_LIST_SIZE: also when few octets stand for many."""
    peer = Peer(max_header_bytes=4096)

    assert code(peer.send(headers(1, block((*REQUEST, ("x-a", "b" * 5000)))))) == E.COMPRESSION_ERROR


def test_streams_beyond_the_limit_may_be_tried_again() -> None:
    """RFC 9113, 5.1.2: REFUSED_STREAM; the others are served."""
    peer = Peer(max_streams=2)
    peer.send(headers(1), headers(3), headers(5), data(1, HELLO), data(3, HELLO), data(5, HELLO))
    said = peer.send(request(7))

    assert said.answers[5].reset == E.REFUSED_STREAM
    assert [said.answers[number].status for number in (1, 3, 7)] == ["0", "0", "0"]


def test_incomplete_requests_are_bounded_together() -> None:
    """Ours: the one that goes too far is refused, and the others can still complete."""
    peer = Peer(max_buffered_bytes=1000, max_message_bytes=900)
    beginning = b"\0" + (900).to_bytes(4, "big") + bytes(400)
    said = peer.send(
        headers(1), data(1, beginning, 0), headers(3), data(3, beginning, 0), headers(5), data(5, beginning, 0)
    )
    assert said.answers[5].status == str(int(Status.RESOURCE_EXHAUSTED))

    said = peer.send(data(1, bytes(500)), data(3, bytes(500)))
    assert said.answers[1].status == said.answers[3].status == "0"


def test_answer_that_was_not_taken_for_longest_makes_room_for_others() -> None:
    """Ours: answers that wait for windows are bounded, at the cost of those alone who do not take theirs."""
    peer = Peer(max_buffered_bytes=10_000)
    peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 100), *(request(1 + 2 * n, bytes(1000)) for n in range(11)))
    said = peer.send(wire.window_update(1, 50), request(23, bytes(1000)))

    assert [number for number, answer in said.answers.items() if answer.reset is not None] == [3]
    assert said.answers[3].reset == E.ENHANCE_YOUR_CALM
    assert peer.connection.waiting_bytes <= 10_000
    done = peer.send(wire.window_update(1, 1000), wire.window_update(23, 1000))
    assert done.answers[1].status == done.answers[23].status == "0"


def test_peer_that_never_takes_its_answers_is_cut_off() -> None:
    """Ours: dropped answers are nuisances, of which there may be so many."""
    peer = Peer(max_buffered_bytes=10_000, nuisances=20)
    said = peer.send(setting(Setting.INITIAL_WINDOW_SIZE, 0), *(request(1 + 2 * n, bytes(1000)) for n in range(50)))

    assert code(said) == E.ENHANCE_YOUR_CALM


def test_shutdown_serves_what_was_under_way() -> None:
    """RFC 9113, 6.8: a warning first; the final GOAWAY only when the peer has read the warning."""
    peer = Peer(answering=False)
    peer.send(request(1))
    peer.connection.shut_down()
    said = peer.said()
    assert said.goaway == (2**31 - 1, E.NO_ERROR)
    assert not peer.connection.drained

    said = peer.send(request(3), frame(FrameType.PING, 0, said.pongs[-1], 1), request(5))
    assert said.goaway == (3, E.NO_ERROR)
    assert said.answers[5].reset == E.REFUSED_STREAM
    for stream_id in (1, 3):
        assert not peer.connection.drained
        peer.connection.answer(stream_id, b"done")
    assert peer.connection.drained
    assert peer.said().answers[3].status == "0"
