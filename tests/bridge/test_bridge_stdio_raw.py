"""Payloads are bytes to the bridge: what a client wrote reaches the server so, and what the server wrote the client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from bridge_harness import HERE, Bridge, serving, stdio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from unruly_http import Asked, http_server

from mcp_bridge import raw_json, wire
from mcp_bridge.upstreams.http import HttpUpstream
from secure_mcp_grpc import calls
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

ODD_NUMBERS = ["-0", "1.0", "1e400", "-1E+2", "0.1e-7", "123456789012345678901234567890", "1.10", "9007199254740993"]
ODD_STRINGS = [
    r'"\ud800"',
    r'"\udc00\ud800"',
    r'"\ud83d\ude00"',
    r'"é"',
    '"é"',
    r'"\/"',
    r'"\u0000"',
    '"🎉"',
    r'"\\ud800"',
]
DEEP = st.integers(1, 150).map(lambda depth: "[" * depth + '{"a":null}' + "]" * depth)

numbers = (
    st.sampled_from(ODD_NUMBERS) | st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
strings = st.sampled_from(ODD_STRINGS) | st.text(st.characters(exclude_categories=["Cs"])).map(
    lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0)
)
space = st.sampled_from(["", "", " ", "\t"])


def an_object(members: list[tuple[str, str, str]]) -> str:
    unique = {json.loads(key): (key, gap, value) for key, gap, value in members}
    return "{" + ",".join(f"{gap}{key}:{gap}{value}" for key, gap, value in unique.values()) + "}"


values: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(["null", "true", "false"]) | numbers | strings,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(strings, space, inner), max_size=4).map(an_object)
    ),
    max_leaves=8,
)
PARAMS = (
    '{"zzz":%s,"name":"echo","arguments":{"z":%s,"a":%s},"_meta":{"io.modelcontextprotocol/protocolVersion":'
    '"2026-07-28","x":%s},"unknown":[%s]}'
)


@contextlib.asynccontextmanager
async def echoing(kind: str) -> AsyncIterator[Bridge]:
    async def answer(asked: Asked) -> None:
        params = asked.body.partition(b',"params":')[2][:-1]
        await asked.json(b'{"jsonrpc":"2.0","id":1,"result":{"params":' + params + b"}}")

    async with contextlib.AsyncExitStack() as stack:
        if kind == "stdio":
            upstream: Any = stdio("raw", "-S", str(HERE / "upstream_raw.py"))
        else:
            server = await stack.enter_async_context(http_server(answer))
            upstream = HttpUpstream("raw", server.url, max_message_bytes=4 * 1024 * 1024)
        yield await stack.enter_async_context(serving(upstream))


async def echoed(channel: grpc.aio.Channel, params: bytes) -> bytes:
    call = channel.unary_unary(f"{calls.TRANSPORT}Call", pb.Request.SerializeToString, pb.Response.FromString)
    message = pb.Request(
        method="tools/call", name="echo", id_json=b"1", params_json=params, protocol_version="2026-07-28"
    )
    return (await call(message, timeout=20)).message_json


def check_same(found: bytes, sent: bytes) -> None:
    """The same members in the same order with the same bytes; `_meta` may have gained some, of the chain's trace."""
    before, after = raw_json.members(sent), raw_json.members(found)
    assert list(before) == list(after)
    for key in before.keys() - {"_meta"}:
        assert bytes(before[key]) == bytes(after[key])
    metas = [raw_json.members(bytes(one["_meta"])) for one in (before, after)]
    for key, value in metas[0].items():
        assert bytes(value) == bytes(metas[1][key])


@pytest.mark.parametrize("kind", ["stdio", "http"])
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(payloads=st.lists(st.tuples(values, values, DEEP | values, values, values), min_size=5, max_size=20))
def test_payloads_survive_byte_for_byte(kind: str, payloads: list[tuple[str, ...]]) -> None:
    """Issue 4: big integers, key order, unicode, lone surrogate escapes, unknown fields, odd floats, deep nesting."""

    async def check() -> None:
        async with echoing(kind) as bridge, bridge.channel() as channel:
            for payload in payloads:
                params = (PARAMS % payload).encode()
                # What line-based readers take for a line's end travels as an escape over stdio: the same JSON.
                sent = params.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")
                expected = sent if kind == "stdio" else params
                answer = await echoed(channel, params)
                head, tail = b'{"jsonrpc":"2.0","id":1,"result":{"params":', b"}}"
                assert answer.startswith(head)
                assert answer.endswith(tail)
                check_same(answer.removeprefix(head).removesuffix(tail), expected)

    asyncio.run(check())


@pytest.mark.parametrize(
    "params",
    [
        '{"name":"echo","name":"echo","arguments":{},"_meta":%s}',
        '{"name":"echo","Name":"other","arguments":{},"_meta":%s}',
        '{"name":"echo","arguments":{"a":1,"a":2},"_meta":%s}',
    ],
)
async def test_equal_keys_in_a_request_are_refused(params: str) -> None:
    """Issue 4: two parsers may disagree on which one counts."""
    meta = '{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}'
    await refused((params % meta).encode())


@pytest.mark.parametrize("more", ['"progressToken":1,"progresstoken":2', '"a":1,"A":2', '"a":1,"a":1'])
async def test_equal_keys_in_the_meta_of_a_request_are_refused(more: str) -> None:
    """Issue 4: in `_meta`, too, whose keys are protocol."""
    meta = '{"io.modelcontextprotocol/protocolVersion":"2026-07-28",' + more + "}"
    await refused(('{"name":"echo","arguments":{},"_meta":' + meta + "}").encode())


async def refused(params: bytes) -> None:
    """The bridge refuses, even where the interceptor, which reads as authz_service does, would not."""
    with pytest.raises(calls.Malformed):
        calls.parse_json_object(params)


json_objects = st.lists(st.tuples(strings, space, values), max_size=6).map(an_object)


def plain(key: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in key)


@settings(deadline=None)
@given(json_objects)
def test_members_are_the_object_as_json_reads_it(text: str) -> None:
    """Ours: keys and values are those of another parser, or it is refused for keys that are read differently."""
    encoded = text.encode()
    expected = json.loads(text)
    bad = len({key.casefold() for key in expected}) != len(expected) or not all(plain(key) for key in expected)
    if bad:
        with pytest.raises(raw_json.NotJson):
            raw_json.members(encoded)
        return
    found = raw_json.members(encoded)
    assert list(found) == list(expected)
    assert all(bytes(value) in encoded and json.loads(bytes(value)) == expected[key] for key, value in found.items())


@settings(deadline=None)
@given(st.tuples(strings.filter(lambda key: plain(json.loads(key))), values, values), st.lists(values, max_size=2))
def test_key_that_stands_twice_is_always_found(member: tuple[str, str, str], others: list[str]) -> None:
    """Ours: whatever the two values are, also where one begins with the other."""
    key, first, second = member
    middle = "".join(f'"other {n}":{value},' for n, value in enumerate(others))
    text = "{" + f"{key}:{first},{middle}{key} : {second}" + "}"
    with pytest.raises(raw_json.NotJson):
        raw_json.members(text.encode())
    with pytest.raises(raw_json.NotJson):
        wire.read_answer(b'{"jsonrpc":"2.0","id":1,"result":' + text.encode() + b"}")


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: ("{" + text + "}").encode("utf-8", "replace")))
def test_anything_else_is_refused_not_raised(data: bytes) -> None:
    """Ours: `NotJson` or an envelope, for whatever a server sends."""
    with contextlib.suppress(wire.NotJson):
        wire.read_answer(data)
