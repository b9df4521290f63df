"""The pure parts: splicing JSON, cutting lines, sanitizing arguments, reading settings."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_bridge import wire
from mcp_bridge.exchange import Outbox
from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams.http import header_value
from mcp_bridge.upstreams.lines import LineReader, TooLong, one_line
from mcp_bridge.upstreams.tagged import Tagged, untag
from secure_mcp_grpc.errors import UserError

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, values, max_size=5)


@given(objects, objects, st.sampled_from([(",", ":"), (" , ", " : "), (",\n", ":\r\n")]), st.booleans())
def test_replacing_a_token_changes_nothing_else(params: Any, meta: Any, separators: Any, ascii_only: bool) -> None:
    """Issue 4: big integers, key order, unicode and unknown fields survive."""
    document = {**params, "_meta": {**meta, "progressToken": "old"}}
    written = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()

    replaced = wire.replace_meta(written, {"progressToken": b"7", "absent": b"1"})

    document["_meta"]["progressToken"] = 7
    assert json.loads(replaced) == document
    assert list(json.loads(replaced)) == list(document)
    assert list(json.loads(replaced)["_meta"]) == list(document["_meta"])


@given(objects, st.integers(0), st.sampled_from([None, 2]))
def test_response_comes_home_under_the_callers_id(result: Any, number: int, indent: int | None) -> None:
    """Ours: only the id changes."""
    body = json.dumps(result, indent=indent, ensure_ascii=False)
    envelope = wire.read_envelope(f'{{"result":{body} , "id":{number},"jsonrpc":"2.0"}}'.encode())

    home = wire.response_with_id(envelope, b'"mine"')

    assert json.loads(home) == {"jsonrpc": "2.0", "id": "mine", "result": result}
    assert body.strip().encode() in home


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_not_json(message: bytes) -> None:
    """Ours: an upstream can say anything without an exception other than NotJson."""
    with contextlib.suppress(wire.NotJson):
        wire.read_envelope(message)
    wire.read_meta(message)


@given(values, st.sampled_from(["\n", "\r", "\r\n", " "]))
def test_one_line_is_one_line_of_the_same_json(value: Any, separator: str) -> None:
    """Ours: no reader of lines finds two messages in one."""
    message = json.dumps(value, separators=(f",{separator}", f":{separator}"), ensure_ascii=False)

    line = one_line(message.encode())

    assert json.loads(line) == value
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert "\u2028" not in line.decode()
    assert "\u2029" not in line.decode()


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))), st.integers(1, 7))
def test_lines_do_not_depend_on_how_bytes_arrive(lines: list[bytes], size: int) -> None:
    """Ours: chunks are the pipe's business."""
    stream = b"".join(line + b"\n" for line in lines)
    reader = LineReader(1000)

    found = [line for start in range(0, len(stream), size) for line in reader.feed(stream[start : start + size])]

    assert found == lines


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_long_line_is_told_by_its_ends_and_the_next_is_whole(size: int) -> None:
    """Ours: a line over the limit costs bounded memory, and only itself."""
    stream = b"HEAD" + b"x" * 50_000 + b"TAIL\nnext\n"
    reader = LineReader(1000)
    found: list[Any] = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
        assert len(reader._buffer) <= 1000 + size

    assert isinstance(found[0], TooLong)
    assert found[0].head.startswith(b"HEAD")
    assert found[0].tail.endswith(b"TAIL")
    assert found[0].length == 50_008 or size == 100_000
    assert found[1] == b"next"


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("plain name", "plain name"), ("", ""), (" edge", "=?base64?IGVkZ2U=?="), ("é", "=?base64?w6k=?=")],
)
def test_names_travel_in_headers_as_the_sdk_writes_them(given_text: str, expected: str) -> None:
    """Spec 2026-07-28, "Standard headers": one encoding, checked against the SDK's."""
    from mcp.shared.inbound import decode_header_value, encode_header_value

    assert header_value(given_text) == expected == encode_header_value(given_text)
    assert decode_header_value(header_value(given_text)) == given_text


async def test_servers_requests_are_told_apart_and_answered() -> None:
    """Ours: two servers may choose the same id."""
    outbox = Outbox(10_000)
    for server in ("one", "two"):
        assert Tagged(outbox, server).offer(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    first, second = [json.loads(await outbox.get() or b"") for _ in range(2)]
    assert first["id"] != second["id"]
    assert untag(json.dumps(second["id"]).encode()) == ("two", b"1")
    assert untag(b"1") is None


async def test_outbox_bounds_what_a_slow_reader_costs() -> None:
    """Issue 4: a slow reader costs bounded memory; one message always fits."""
    outbox = Outbox(10, max_messages=3)
    assert outbox.offer(b"x" * 50)
    assert not outbox.offer(b"y")
    assert outbox.overflowed
    assert await outbox.get() == b"x" * 50
    assert [outbox.offer(b"z") for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ("{}", "name at least one MCP server"),
        ("time", "expected JSON like"),
        ('{"Time": {"command": ["x"]}}', "should match pattern"),
        ('{"time": {"command": ["x"], "url": "http://x"}}', "exactly one of command, url and target"),
        ('{"time": {}}', "exactly one of command, url and target"),
        ('{"time": {"url": "ftp://x"}}', "should match pattern"),
        ('{"time": {"target": "no-colon"}}', "should match pattern"),
        ('{"time": {"command": []}}', "at least 1 item"),
        ('{"time": {"url": "http://x", "env": {"A": "b"}}}', "env, cwd and limits belong to an upstream"),
    ],
)
def test_bad_upstreams_stop_the_start_with_one_line(upstreams: str, said: str) -> None:
    """Style: a bad value names its variable, the value and what was expected."""
    with pytest.raises(UserError, match="MCP_BRIDGE_UPSTREAMS") as refused:
        BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": upstreams})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_upstreams_at_all_is_said() -> None:
    """Ours: a bridge to nothing is a mistake."""
    with pytest.raises(UserError, match="name at least one MCP server"):
        BridgeSettings.load({})
