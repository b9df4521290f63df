"""Reading a call from the message: what authz_service decides on and mcp_bridge executes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_mcp_grpc import calls
from secure_mcp_grpc.calls import Malformed
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


def request(**fields: Any) -> pb.Request:
    values = {"method": "tools/call", "name": "t", "id_json": b"1", "params_json": b'{"name":"t"}', **fields}
    return pb.Request(**values)


def test_a_request_gives_method_name_and_arguments() -> None:
    """Ours: policy sees what the message asks for."""
    params = {"name": "query", "arguments": {"limit": 10**30}}

    call = calls.read_request(request(name="query", params_json=json.dumps(params).encode()))

    assert (call.method, call.name, call.arguments) == ("tools/call", "query", {"limit": 10**30})
    assert call.target == "tools/call query"


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a"}, "a"),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "file:///x"}, "file:///x"),
        ("resources/subscribe", {"uri": "u:1"}, "u:1"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "u:2"}}, "u:2"),
        ("tools/list", {"name": "ignored"}, ""),
    ],
)
def test_the_name_is_what_the_spec_names(method: str, params: dict[str, Any], name: str) -> None:
    """Spec 2026-07-28, server/*: params.name for tools and prompts, params.uri for resources."""
    assert calls.read_request(request(method=method, name=name, params_json=json.dumps(params).encode())).name == name


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "other"},
        {"name": ""},
        {"params_json": b'{"name":"t","name":"u"}'},
        {"params_json": b'{"name":"t","Name":"u"}'},
        {"params_json": b'{"name":"t","arguments":{"a":1,"a":2}}'},
        {"params_json": b'{"name":"t","arguments":[{"a":{"b":1,"b":2}}]}'},
        {"params_json": b'{"name":"t","arguments":[]}'},
        {"params_json": b'{"name":"t","arguments":{"x":NaN}}'},
        {"params_json": b'{"name":"t"} {}'},
        {"params_json": b'["t"]'},
        {"params_json": b"{" * 100_000},
        {"params_json": b"[" * 100_000},
        {"params_json": b'{"name":1}', "name": ""},
        {"params_json": b'{"name":"t\\ud800"}', "name": "t"},
        {"params_json": b"\xff"},
        {"params_json": b'{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}'},
        {
            "method": "completion/complete",
            "name": "public",
            "params_json": b'{"ref":{"type":"ref/resource","uri":"secret://x","name":"public"}}',
        },
        {"method": ""},
        {"method": "grpc:listen", "name": ""},
        {"method": "tools/call\n"},
        {"method": "töols/call"},
        {"id_json": b""},
        {"id_json": b"null"},
        {"id_json": b"1.5"},
        {"id_json": b'"a'},
        {"id_json": b'"\xff"'},
        {"id_json": b'"a"\n'},
        {"session_id": "a b"},
        {"session_id": "é"},
        {"protocol_version": "x" * 33},
    ],
)
def test_what_no_honest_client_sends_is_malformed(bad: dict[str, Any]) -> None:
    """Ours: two readings of one message must not exist."""
    with pytest.raises(Malformed):
        calls.read_request(request(**bad))


@pytest.mark.parametrize("character", ["\x00", "\n", "\x7f", "\u202e", "\u2066", "\u200f", "\x85"])
def test_invisible_characters_in_names_are_malformed(character: str) -> None:
    """Ours: a name reads the same for a person, a policy and a server."""
    name = f"tool{character}x"
    with pytest.raises(Malformed):
        calls.read_request(request(name=name, params_json=json.dumps({"name": name}).encode()))


def test_a_name_in_another_script_is_a_name() -> None:
    """Spec: tool names are strings."""
    name = "wetter_北京"
    call = calls.read_request(request(name=name, params_json=json.dumps({"name": name}).encode()))
    assert call.target == "tools/call wetter_%E5%8C%97%E4%BA%AC"


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_different_calls_have_different_targets(method: str, name: str, other_method: str, other_name: str) -> None:
    """Ours: x-mcp-target identifies a call, so that the bridge cannot be talked into another one."""
    try:
        first, second = calls.target(method, name), calls.target(other_method, other_name)
    except UnicodeEncodeError:
        return
    assert (first == second) == ((method, name) == (other_method, other_name))
    assert first.isascii()
    assert first.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0",
        frame(b"abc", flag=1),
        frame(b"abc", length=2),
        frame(b"abc", length=4),
        frame(b"abc") + frame(b"abc"),
    ],
)
def test_a_body_that_is_not_one_plain_frame_is_malformed(body: bytes) -> None:
    """gRPC over HTTP/2, Length-Prefixed-Message; ours: exactly one, uncompressed."""
    with pytest.raises(Malformed):
        calls.read_frame(body)


@given(st.binary(max_size=200))
def test_a_frame_gives_its_message(message: bytes) -> None:
    """gRPC over HTTP/2, Length-Prefixed-Message."""
    assert calls.read_frame(frame(message)) == message


@given(st.sampled_from(["Call", "Stream", "Notify", "Listen", "Reply", "EndSession", "Session", ""]), st.binary())
def test_random_messages_are_calls_or_malformed_and_nothing_else(rpc: str, message: bytes) -> None:
    """Ours: no other exception leaves the reading."""
    try:
        call = calls.read_transport_call(rpc, message)
    except Malformed:
        return
    assert call.method


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_an_object_without_double_keys_is_read_as_it_is(value: dict[str, Any]) -> None:
    """RFC 8259, section 4: names within an object should be unique."""
    text = json.dumps(value).encode()
    if len({key.casefold() for key in value}) == len(value):
        assert calls.parse_json_object(text) == json.loads(text)
    else:
        with pytest.raises(Malformed):
            calls.parse_json_object(text)
