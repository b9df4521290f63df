"""What hostile and clumsy clients write: JSON-RPC near its rules, HTTP requests, and plain noise."""

import json
from typing import Any

from hypothesis import strategies as st

VERSION = "2026-07-28"
HOST = "127.0.0.1:8080"

_NAMES = st.sampled_from(["echo", "shell", "bounded", "", "echo\n", "*", "ECHO", "echo\u202e", "\ud800", "e" * 3000])
_METHODS = st.sampled_from(
    [
        *("tools/call", "tools/list", "initialize", "ping", "grpc:session", "subscriptions/listen", "", "tools/call "),
        *("notifications/initialized", "notifications/cancelled", "notifications/progress", "\ud800", "x" * 300),
    ]
)
_IDS = st.sampled_from([1, 2, "1", "a", None, 1.5, [], True, "\ud800", 10**30, -0, "x" * 300])
_META = st.sampled_from(
    [
        None,
        {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}},
        {"io.modelcontextprotocol/protocolVersion": "2025-11-25"},
        {"io.modelcontextprotocol/protocolVersion": 7, "progressToken": 1},
        {"io.modelcontextprotocol/protocolVersion": VERSION, "progressToken": [], "traceparent": "\ud800"},
        [],
    ]
)
_VALUES = st.recursive(
    st.sampled_from([None, True, 0, 5, 50, 10**40, 1e300, "", "\ud800", "\x00", "x" * 100]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "N", "a", ""]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def _messages(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": draw(st.sampled_from(["2.0"] * 6 + ["1.0", None]))}
    if draw(st.integers(0, 9)):
        message["method"] = draw(_METHODS)
    if draw(st.integers(0, 3)):
        message["id"] = draw(_IDS)
    if draw(st.integers(0, 5)):
        params: Any = {"name": draw(_NAMES), "arguments": draw(_VALUES)}
        if (meta := draw(_META)) is not None:
            params["_meta"] = meta
        if not draw(st.integers(0, 3)):
            params["requestId"] = draw(_IDS)
        message["params"] = params if draw(st.integers(0, 9)) else draw(_VALUES)
    if not draw(st.integers(0, 5)):
        message[draw(st.sampled_from(["result", "error", "Method", "ID"]))] = draw(_VALUES)
    return message


@st.composite
def _calls(draw: st.DrawFn) -> dict[str, Any]:
    """What an honest client would write, of a tool that it may or may not call."""
    meta = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
    arguments = {"n": draw(st.integers(0, 20))}
    params = {
        "name": draw(st.sampled_from(["echo", "shell", "bounded", "\ud800"])),
        "arguments": arguments,
        "_meta": meta,
    }
    return {"jsonrpc": "2.0", "id": draw(st.integers(1, 3)), "method": "tools/call", "params": params}


@st.composite
def _texts(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(st.one_of(_calls(), _messages())), ensure_ascii=draw(st.booleans()))
    body = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)):
        return body
    at, piece = draw(st.integers(0, len(body))), draw(st.sampled_from([b"", b"}", b'"name":"shell",', b"\xff", b"["]))
    return body[:at] + piece + body[at + draw(st.integers(0, 5)) :]


BODIES = st.one_of(_texts(), _texts(), _texts(), st.binary(max_size=60), st.just(b'{"a":' * 2000))
LINES = st.lists(BODIES.map(lambda body: body.replace(b"\n", b" ") + b"\n"), min_size=1, max_size=8)

_HEADERS: dict[str, list[str]] = {
    "host": [HOST, "evil.example", "localhost:8080", ""],
    "origin": ["", "http://127.0.0.1:8080", "https://evil.example", "null"],
    "content-type": ["application/json", "text/plain", "application/json; charset=utf-7"],
    "accept": ["application/json, text/event-stream", "*/*", "text/event-stream;q=0"],
    "mcp-protocol-version": [VERSION, "2025-11-25", "", "2024-11-05", "?" * 50, "\xe9"],
    "mcp-session-id": ["known", "", "unknown", "a b", "x" * 200],
    "mcp-method": ["mirror", "tools/list", ""],
    "mcp-name": ["mirror", "echo", "=?base64?ZWNobw==?=", "=?base64?*?=", ""],
    "last-event-id": ["", "0-0", "1-1", "99999999999999999-0", "-1-", "x"],
    "content-length": ["", "99999999999", "1"],
}
"""The first value is an honest client's; empty ones are left out."""


@st.composite
def _requests(draw: st.DrawFn) -> dict[str, Any]:
    odd = draw(st.lists(st.sampled_from([*_HEADERS, "mcp-protocol-version"]), max_size=2))
    values = {name: draw(st.sampled_from(values)) if name in odd else values[0] for name, values in _HEADERS.items()}
    headers = [(name, value) for name, value in values.items() if value]
    if not draw(st.integers(0, 15)):
        headers.append(draw(st.sampled_from([("host", "evil.example"), ("origin", "null"), ("mcp-session-id", "y")])))
    method = draw(st.sampled_from(["POST"] * 8 + ["GET", "DELETE", "OPTIONS", "PUT"]))
    path = draw(st.sampled_from(["/mcp"] * 12 + ["/mcp/", "/", "/mcp/..", "//mcp"]))
    return {"method": method, "path": path, "headers": headers, "body": draw(BODIES)}


REQUESTS = st.lists(_requests(), min_size=1, max_size=6)
