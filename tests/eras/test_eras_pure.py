"""The translation's pure parts: capabilities, results, states."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mcp_bridge import wire
from mcp_bridge.assemble import build_upstream
from mcp_bridge.eras import words
from mcp_bridge.eras.bridged import Bridged
from mcp_bridge.eras.capabilities import lacking, refusal
from mcp_bridge.eras.parked import Parked, Parking, fingerprint
from mcp_bridge.errors import HopError
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams.inprocess import InProcessUpstream

URL = b'{"mode":"url","url":"https://x"}'


@pytest.mark.parametrize(
    ("method", "params", "capabilities", "code"),
    [
        ("roots/list", b"", {}, -32601),
        ("roots/list", b"", {"roots": {}}, None),
        ("sampling/createMessage", b"{}", {"roots": {}}, -32601),
        ("sampling/createMessage", b"{}", {"sampling": {}}, None),
        ("sampling/createMessage", b'{"tools":[]}', {"sampling": {}}, -32602),
        ("sampling/createMessage", b'{"toolChoice":{}}', {"sampling": {"tools": {}}}, None),
        ("elicitation/create", b"{}", {}, -32601),
        ("elicitation/create", b"{}", {"elicitation": {}}, None),
        ("elicitation/create", URL, {"elicitation": {}}, -32602),
        ("elicitation/create", URL, {"elicitation": {"url": {}}}, None),
        ("elicitation/create", b"{}", {"elicitation": {"url": {}}}, -32602),
        ("elicitation/create", b"{}", {"elicitation": True}, -32601),
        ("tasks/get", b"{}", {"sampling": {}}, -32601),
    ],
)
def test_what_a_client_did_not_declare_is_refused(
    method: str, params: bytes, capabilities: dict[str, Any], code: int | None
) -> None:
    """Spec 2025-11-25, "Error Handling" of roots, sampling and elicitation; an empty elicitation means form mode."""
    refused = refusal(method, params, capabilities)
    assert (refused[0] if refused else None) == code
    assert (lacking(method, params, capabilities) is None) == (code is None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_params_come_back_as_they_went(params: dict[str, Any]) -> None:
    """Issue 4: declaring a request and taking that away again changes nothing else, byte for byte."""
    params.pop("inputResponses", None)
    params.pop("requestState", None)
    if "_meta" in params:
        params["_meta"] = {"own": params["_meta"]}
    text = json.dumps(params).encode()
    declared = words.declare(text, b'{"name":"n"}', b"{}", "info")
    plain = words.plain_params(wire.object_of(declared))
    assert (wire.object_of(plain) if plain else {}) == wire.object_of(text) if "_meta" not in params else True
    assert (json.loads(plain) if plain else {}) == params


@given(st.dictionaries(st.text().filter(lambda key: key not in ("_meta", "resultType")), JSON, max_size=5))
def test_results_keep_every_value(result: dict[str, Any]) -> None:
    """Issue 4: only members that must change are spliced."""
    body = json.dumps(result).encode()
    modern = wire.object_of(words.modern_result("x/y", body, b'{"name":"s"}'))
    assert {key: bytes(value) for key, value in modern.items() if key not in ("_meta", "resultType")} == {
        key: bytes(value) for key, value in wire.object_of(body).items()
    }
    back = words.handshake_result("x/y", modern, "2025-11-25")
    assert json.loads(back) == result | {"_meta": {words.SERVER_KEY: {"name": "s"}}}


def test_content_that_came_later_becomes_text() -> None:
    """Issue 4: what the older schema forbids is not sent; everything beside it stays as it was written."""
    link = b'{"type":"resource_link","uri":"note://a","name":"a"}'
    audio = b'{"type":"audio","data":"","mimeType":"audio/wav"}'
    text = b'{"type": "text", "text": "\\u00e4 \\"audio\\""}'
    body = b'{"content":[' + b",".join((link, audio, text)) + b"]}"

    def blocks(version: str) -> bytes:
        return words.handshake_result("tools/call", wire.object_of(body), version)

    assert blocks("2025-11-25") == blocks("2025-06-18") == body
    assert blocks("2025-03-26") == body.replace(link, b'{"type":"text","text":"note://a"}')
    assert blocks("2024-11-05") == body.replace(link, b'{"type":"text","text":"note://a"}').replace(
        audio, b'{"type":"text","text":"[audio: audio/wav]"}'
    )
    message = b'{"messages":[{"role":"user","content":' + link + b"}]}"
    assert b"resource_link" not in words.handshake_result("prompts/get", wire.object_of(message), "2025-03-26")


def test_same_request_has_the_same_print_however_it_is_written() -> None:
    """Ours: key order and spaces do not matter, values and the method do, nor does what a retry adds."""

    def of(text: bytes, method: str = "tools/call") -> bytes:
        return fingerprint(method, wire.object_of(text))

    first = of(b'{"name":"a","arguments":{"x":1,"y":2}}')
    assert first == of(b'{"arguments":{"y": 2, "x": 1}, "name":"a", "requestState":"s","_meta":{},"inputResponses":{}}')
    assert first != of(b'{"name":"a","arguments":{"x":1,"y":3}}')
    assert first != of(b'{"name":"a","arguments":{"x":1,"y":2}}', "prompts/get")
    assert of(b'{"name":"a","arguments":1e400}') == of(b'{"name":"a","arguments":1e400}')


async def test_parking_gives_places_back() -> None:
    """Ours: taken, expired and cleared calls make room; a quarter of the places for one owner."""
    expired: list[Parked] = []
    parking = Parking(8, 0.05, expired.append)
    link: Any = None

    def put(owner: str) -> str:
        return parking.put(Parked(owner, b"p", link, None))

    first, _ = put("a"), put("a")
    with pytest.raises(HopError):
        put("a")
    assert parking.find(first, "b", b"p") is None
    assert parking.find(first, "a", b"q") is None
    assert parking.find(first, "a", b"p") is not None
    parking.take(first)
    assert parking.find(first, "a", b"p") is None
    put("a")
    for owner in "bcd":
        put(owner)
        put(owner)
    with pytest.raises(HopError):
        put("e")
    async with asyncio.timeout(30):
        while len(parking):
            await asyncio.sleep(0.01)
    assert len(expired) == 8
    put("a")
    parking.clear()
    assert not len(parking)


def test_modern_result_leaves_a_meta_that_is_none_alone() -> None:
    """Ours: a server's own fault stays its own."""
    assert msgspec.json.decode(words.modern_result("tools/call", b'{"_meta":null}', b"{}"))["_meta"] is None


def test_settings_wrap_every_server_but_those_in_this_process() -> None:
    """Ours: `auto` finds out over stdio and HTTP; SDK servers in this process speak both eras themselves."""
    settings = BridgeSettings.load(
        {
            "MCP_BRIDGE_UPSTREAMS": '{"a": {"command": ["x"], "era": "handshake"}}',
            "MCP_BRIDGE_INPUT_WAIT_S": "7",
            "MCP_BRIDGE_MAX_PARKED_CALLS": "9",
        }
    )
    registry = CollectorRegistry()
    bridged = build_upstream(settings, BridgeMetrics(registry))
    assert isinstance(bridged, Bridged)
    assert (bridged._is_modern, bridged._shakes_hands) == (False, True)
    assert (bridged._limits.input_wait_s, bridged._limits.max_parked_calls) == (7, 9)
    assert registry.get_sample_value("mcp_bridge_parked_calls", {"server": "a"}) == 0
    inside = BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": '{"a": {"target": "full_server:server"}}'})
    assert isinstance(build_upstream(inside, BridgeMetrics(CollectorRegistry())), InProcessUpstream)
