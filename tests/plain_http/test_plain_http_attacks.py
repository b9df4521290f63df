"""What no honest client sends to the MCP endpoint, over HTTP/1.1 and HTTP/2, at the whole sidecar.

What was executed is counted at the MCP server: nothing but what was authorized.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import raw_client
from chain_stack import Stack, until
from plain_kit import (
    ACCEPT,
    HANDSHAKE,
    META,
    MODERN,
    Reply,
    Wire,
    echo,
    exchange,
    http1,
    message,
    mirrors,
    open_session,
    plain_stack,
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with plain_stack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def _nothing_forbidden_runs(stack: Stack) -> Iterator[None]:
    """Whatever a test here tries."""
    yield
    assert not [line for line in stack.recorded() if line.startswith("forbidden")]


def ran(stack: Stack, text: str) -> int:
    return stack.recorded().count(f"echo {text}")


def text_of(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))


CALL = text_of(echo("bad"))
LIST = message("tools/list")
UNSOUND: dict[str, tuple[Any, int]] = {
    "method twice": (CALL.replace('"method"', '"method":"tools/list","method"'), -32600),
    "name twice": (CALL.replace('"name":"echo"', '"name":"echo","name":"forbidden"'), -32600),
    "name twice, escaped": (CALL.replace('"name":"echo"', '"name":"echo","n\\u0061me":"forbidden"'), -32600),
    "argument twice": (CALL.replace('"text":"bad"', '"text":"bad","text":"worse"'), -32600),
    "case-folded method": (CALL.replace('"method"', '"Method":"tools/list","method"'), -32600),
    "case-folded name": (CALL.replace('"name":"echo"', '"name":"echo","Name":"forbidden"'), -32602),
    "batch": (f"[{CALL}]", -32600),
    "batch of two": (f"[{CALL},{text_of(LIST)}]", -32600),
    "two messages": (CALL + CALL, -32700),
    "two lines": (f"{CALL}\n{CALL}", -32700),
    "nothing": ("", -32700),
    "no JSON": ("hello", -32700),
    "not UTF-8": (CALL.encode().replace(b"bad", b"b\xffd"), -32700),
    "byte order mark": (b"\xef\xbb\xbf" + CALL.encode(), -32700),
    "UTF-16": (CALL.encode("utf-16-le"), -32700),
    "a number": ("7", -32600),
    "NaN": (CALL.replace('"bad"', "NaN"), -32600),
    "too deep": ('{"jsonrpc":"2.0","id":1,"method":"x","params":' + "[" * 100_000 + "]" * 100_000 + "}", -32700),
    "no version of JSON-RPC": (CALL.replace('"2.0"', '"1.0"'), -32600),
    "id null": (CALL.replace('"id":1', '"id":null'), -32600),
    "id object": (CALL.replace('"id":1', '"id":{}'), -32600),
    "request without id": (CALL.replace('"id":1,', ""), -32600),
    "notification with id": (text_of(message("notifications/initialized")), -32600),
    "request and reply in one": (CALL.replace('"id":1', '"id":1,"result":{}'), -32600),
    "reply with result and error": ('{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', -32600),
    "method is no text": (CALL.replace('"tools/call"', "7"), -32600),
    "params is a list": ('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}', -32602),
    "own method": (text_of(message("grpc:listen")), -32602),
    "no name": (text_of(message("tools/call", {"arguments": {}})), -32602),
    "name is a list": (text_of(message("tools/call", {"name": ["echo"]})), -32602),
    "bidirectional name": (text_of(message("tools/call", {"name": "ec\u202eho"})), -32602),
    "arguments are a list": (text_of(message("tools/call", {"name": "echo", "arguments": []})), -32602),
}


@pytest.mark.parametrize("attack", UNSOUND)
def test_unsound_message_is_refused_and_not_executed(stack: Stack, attack: str) -> None:
    """Issue 4: fuzz of JSON; MCP, JSON-RPC 2.0: the error has its code, and a decision stands behind it."""
    body, code = UNSOUND[attack]
    reply = exchange(stack, http1(body, {"mcp-protocol-version": MODERN}))
    assert (reply.status, reply.error["code"]) == (400, code)
    assert reply.error["data"] == {"grpcStatus": "INVALID_ARGUMENT"}
    assert ran(stack, "bad") == 0


HEADERS: dict[str, tuple[dict[str, str], int, int]] = {
    "plain text": ({"content-type": "text/plain"}, 400, -32600),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, 400, -32600),
    "no content type": ({"content-type": ""}, 400, -32600),
    "two content types": ({"content-type": "application/json, text/plain"}, 400, -32600),
    "other charset": ({"content-type": "application/json; charset=utf-16"}, 400, -32600),
    "gzip": ({"content-encoding": "gzip"}, 400, -32600),
    "lying Mcp-Name": ({"mcp-name": "count"}, 400, -32020),
    "lying Mcp-Name, encoded": ({"mcp-name": "=?base64?Y291bnQ=?="}, 400, -32020),
    "broken Mcp-Name": ({"mcp-name": "=?base64?ZWNobw?="}, 400, -32020),
    "lying Mcp-Method": ({"mcp-method": "tools/list"}, 400, -32020),
    "other version": ({"mcp-protocol-version": HANDSHAKE}, 400, -32020),
    "no version": ({"mcp-protocol-version": ""}, 400, -32020),
    "no Accept": ({"accept": ""}, 406, -32600),
    "Origin": ({"origin": "https://evil.example"}, 403, -32011),
    "Origin null": ({"origin": "null"}, 403, -32011),
    "Origin of itself": ({"origin": "https://localhost"}, 403, -32011),
    "session twice": ({"mcp-session-id": "a, b"}, 400, -32600),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_headers_that_lie_are_refused_and_nothing_is_executed(stack: Stack, attack: str) -> None:
    """MCP 2026-07-28, Streamable HTTP: mirrors agree with the body; Origin is checked (Security Warning)."""
    changes, status, code = HEADERS[attack]
    reply = exchange(stack, http1(echo("lie"), {**mirrors(echo("lie")), **changes}))
    assert (reply.status, reply.error["code"]) == (status, code)
    assert ran(stack, "lie") == 0


@pytest.mark.parametrize("name", ["origin", "mcp-name", "mcp-method", "mcp-protocol-version", "content-type"])
def test_header_that_stands_twice_is_refused(stack: Stack, name: str) -> None:
    """Ours: two readers may take different ones of two."""
    value = mirrors(echo("twice")).get(name, "application/json" if name == "content-type" else "https://a.example")
    raw = f"{name}: {value}\r\n" * (2 if name == "origin" else 1)
    reply = exchange(stack, http1(echo("twice"), raw=raw))
    assert reply.status in (400, 403)
    assert ran(stack, "twice") == 0


def test_what_authz_says_cannot_be_said_by_the_client(stack: Stack) -> None:
    """Ours: x-mcp-* of clients end at Envoy; another identity, target or ticket stays without effect."""
    forged = {
        "x-mcp-subject": "model-a",
        "x-mcp-target": "tools/call forbidden",
        "x-mcp-user": "root",
        "x-mcp-ticket": "t",
        "x-envoy-original-path": "/other",
        "x-forwarded-client-cert": "URI=spiffe://test.mcp/model-a",
    }
    body = echo("forged", "forbidden")
    assert exchange(stack, http1(body, {**mirrors(body), **forged})).status == 403
    body = echo("forged")
    assert exchange(stack, http1(body, {**mirrors(body), **forged}), "model-b").status == 403
    assert ran(stack, "forged") == 0
    assert exchange(stack, http1(body, {**mirrors(body), **forged})).status == 200
    assert ran(stack, "forged") == 1


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_method_override_is_ignored(stack: Stack, name: str) -> None:
    """Ours: a POST stays a POST; a DELETE that says it is a POST ends the session and runs nothing."""
    session = open_session(stack)
    assert exchange(stack, http1(LIST, {**mirrors(LIST), name: "DELETE"})).status == 200
    reply = exchange(stack, http1(b"", {**session, name: "POST"}, method="DELETE"))
    assert (reply.status, reply.body) == (200, b"")
    body = http1(echo("override"), {**mirrors(echo("override")), **session, name: "POST"}, method="DELETE")
    assert exchange(stack, body).status == 400
    assert ran(stack, "override") == 0


PATHS = {
    "/mcp/": 404,
    "/MCP": 404,
    "/mcp?x=1": 400,
    "/mcp?": 400,
    "/mcp;a": 404,
    "/mcp/../mcp/x": 404,
    "/mcp%2f": 400,
    "/mcp%00": 400,
    "/mcp%3Fx": 404,
    "/x/mcp": 404,
    "/mcp#x": 400,
    "/": 404,
    "*": 400,
    "/mcp\\": 404,
    "http://other.example/mcp?x": 400,
}


@pytest.mark.parametrize("path", PATHS)
def test_only_the_endpoint_itself_is_served(stack: Stack, path: str) -> None:
    """Issue 4: exactly /mcp; other spellings lead nowhere."""
    reply = exchange(stack, http1(echo("path"), path=path))
    assert reply.closed or reply.status == PATHS[path], reply
    assert ran(stack, "path") == 0


@pytest.mark.parametrize("path", ["//mcp", "/./mcp", "/x/../mcp", "/%6dcp"])
def test_spellings_that_envoy_makes_one_are_judged_as_the_endpoint(stack: Stack, path: str) -> None:
    """Ours: Envoy normalizes before anybody looks, so that all see /mcp."""
    assert exchange(stack, http1(echo("same", "forbidden"), path=path)).status == 403
    reply = exchange(stack, http1(message("tools/list"), path=path))
    assert reply.status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "POSTX", "post"])
def test_other_methods_are_not_served(stack: Stack, method: str) -> None:
    """MCP, Streamable HTTP: POST, GET and DELETE; OPTIONS gets no CORS headers."""
    reply = exchange(stack, http1(echo("method"), method=method))
    assert reply.closed or reply.status in (400, 405), reply
    assert "access-control-allow-origin" not in reply.headers
    assert ran(stack, "method") == 0


def test_connect_and_upgrade_lead_nowhere(stack: Stack) -> None:
    """Ours: no tunnel, no WebSocket, no HTTP/2 without TLS."""
    for raw, headers in (
        (b"CONNECT localhost:443 HTTP/1.1\r\nhost: localhost:443\r\n\r\n", None),
        (None, {"connection": "upgrade", "upgrade": "websocket"}),
        (None, {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}),
    ):
        body = echo("upgrade", "forbidden")
        reply = exchange(stack, raw or http1(body, {**mirrors(body), **(headers or {})}))
        assert reply.closed or reply.status in (400, 403, 404, 405), reply


def smuggled() -> bytes:
    return http1(echo("smuggled"), {"host": "localhost"})


SMUGGLING: dict[str, bytes] = {
    "both lengths": http1(echo("cl"), {}, raw="transfer-encoding: chunked\r\n") + smuggled(),
    "two lengths": http1(echo("cl"), {}, raw="content-length: 5\r\n") + smuggled(),
    "length too short": http1(echo("cl"), {"content-length": "10"}) + smuggled(),
    "signed length": http1(echo("cl"), {"content-length": "+10"}) + smuggled(),
    "lengths in a list": http1(echo("cl"), {"content-length": "10, 10"}) + smuggled(),
    "two encodings": http1(echo("cl"), {"content-length": "", "transfer-encoding": "gzip, chunked"}) + smuggled(),
    "unknown encoding": http1(echo("cl"), {"content-length": "", "transfer-encoding": "xchunked"}) + smuggled(),
    "blank before colon": http1(echo("cl"), {"content-length ": "10", "content-length": ""}) + smuggled(),
    "bare line feed": http1(echo("cl"), raw="x-a: b\ncontent-length: 3\r\n") + smuggled(),
    "bad chunk size": http1(
        b"zz\r\n" + text_of(echo("cl")).encode(), {"content-length": "", "transfer-encoding": "chunked"}
    ),
    "no end of chunks": http1(b"fffffffffffffffff\r\n{}", {"content-length": "", "transfer-encoding": "chunked"}),
    "HTTP/1.0": http1(echo("cl")).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "HTTP/0.9": b"POST /mcp\r\n",
    "no host": http1(echo("cl"), {"host": ""}),
}


@pytest.mark.parametrize("attack", SMUGGLING)
def test_request_of_two_readings_is_refused_before_anything_runs(stack: Stack, attack: str) -> None:
    """RFC 9112, 6.3 and 11.2: what could end in two places ends the connection, whatever follows on it."""
    before = ran(stack, "smuggled")
    with Wire(stack) as wire:
        reply = wire.send(SMUGGLING[attack]).read()
        assert reply.closed or 400 <= reply.status < 500 or reply.status == 501, reply
        assert wire.read().closed
    assert ran(stack, "cl") == 0
    assert ran(stack, "smuggled") == before


def test_folded_and_doubled_headers_hide_nothing(stack: Stack) -> None:
    """RFC 9112, 5.2 and RFC 9110, 7.2: Envoy reads a folded line as one value and two hosts as a list; nobody here
    asks for a host, and the bytes that follow are judged as the request they are."""
    folded = http1(echo("fold"), raw="x-a: b\r\n content-length: 3\r\n")
    with Wire(stack) as wire:
        wire.send(folded + http1(echo("fold", "forbidden")))
        assert (wire.read().status, wire.read().status) == (200, 403)
    assert exchange(stack, http1(echo("fold", "forbidden"), raw="host: other\r\n")).status == 403
    assert ran(stack, "fold") == 1


def test_pipelined_requests_are_judged_one_by_one(stack: Stack) -> None:
    """Issue 4: every request on a connection is authorized by itself, and answered in order."""
    bodies = [echo("pipe"), echo("pipe", "forbidden"), echo("pipe"), message("tools/list"), echo("pipe", "forbidden")]
    with Wire(stack) as wire:
        wire.send(b"".join(http1(body) for body in bodies))
        statuses = [wire.read().status for _ in bodies]
    assert statuses == [200, 403, 200, 200, 403]
    assert ran(stack, "pipe") == 2


def test_chunked_body_in_pieces_is_one_message(stack: Stack) -> None:
    """RFC 9112, 7.1: where a body is cut does not matter; what is in it does."""
    whole = text_of(echo("chunks")).encode()
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (whole[:7], whole[7:90], whole[90:]))
    headers = {**mirrors(echo("chunks")), "content-length": "", "transfer-encoding": "chunked"}
    assert exchange(stack, http1(chunks + b"0\r\n\r\n", headers)).status == 200
    assert ran(stack, "chunks") == 1
    trailers = b"0\r\nx-mcp-target: tools/call forbidden\r\n\r\n"
    assert exchange(stack, http1(chunks + trailers, headers)).status in (200, 400)


def test_http2_body_in_pieces_is_judged_as_a_whole(stack: Stack) -> None:
    """Issue 4: HTTP/2 too; DATA frames do not matter."""
    for tool, status in (("echo", "200"), ("forbidden", "403")):
        body = echo("h2" + "x" * 50_000, tool)
        answer = http2(stack, body)
        assert answer.headers[":status"] == status
        assert ("grpc-status" in answer.headers) is False
    assert ran(stack, "h2" + "x" * 50_000) == 1


def http2(stack: Stack, body: dict[str, Any], *, headers: Any = (), path: str = "/mcp") -> raw_client.Answer:
    base = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/json"),
        ("accept", ACCEPT),
        *mirrors(body).items(),
    ]
    data = text_of(body).encode()
    return raw_client.request(
        stack.address, stack.home.certs / "model-a", body=data, instead=[*base, *headers], timeout_s=10
    )


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "5")],
        [("content-length", "100000")],
        [("transfer-encoding", "chunked")],
        [("connection", "keep-alive")],
        [(":path", "/secure_mcp_grpc.v1.McpTransport/Call")],
        [("mcp-name", "forbidden")],
        [("x-mcp-target", "tools/call forbidden"), ("mcp_name", "forbidden")],
        [("content-type", "application/grpc")],
    ],
)
def test_http2_header_tricks_are_refused(stack: Stack, headers: Any) -> None:
    """RFC 9113, 8.1.1 and 8.2.2: malformed requests are refused, whatever Envoy would make of them for HTTP/1.1."""
    answer = http2(stack, echo("h2trick"), headers=headers)
    assert answer.reset or answer.headers[":status"] in ("400", "403")
    assert ran(stack, "h2trick") == 0


GRPC = "/secure_mcp_grpc.v1.McpTransport/"


@pytest.mark.parametrize("path", [f"{GRPC}Call", f"{GRPC}Session", "/model_context_protocol.Mcp/CallTool", "/"])
def test_http1_reaches_nothing_but_the_endpoint(stack: Stack, path: str) -> None:
    """Issue 4: gRPC routes stay HTTP/2 only."""
    headers = {"content-type": "application/grpc", "x-mcp-http": "HTTP/2", "te": "trailers"}
    assert exchange(stack, http1(b"\0\0\0\0\0", headers, path=path)).status in (200, 404)
    assert exchange(stack, http1(b"{}", {}, path=path)).status == 404


def test_grpc_stays_as_it_was(stack: Stack) -> None:
    """Issue 4: JSON at a gRPC path, and gRPC at the endpoint, are refused."""
    answer = http2(stack, echo("cross"), path=f"{GRPC}Call")
    assert answer.headers.get("grpc-status") == "3" or answer.headers[":status"] == "400"
    framed = exchange(stack, http1(raw_client.frame(text_of(echo("cross")).encode()), mirrors(echo("cross"))))
    assert framed.status == 400
    assert ran(stack, "cross") == 0


def test_bodies_over_the_limit_are_cut_off(stack: Stack) -> None:
    """Issue 4: requests have a limit (1 MiB by default), with a length told and with chunks."""
    huge = text_of(echo("huge" + "x" * 1_100_000)).encode()
    reply = exchange(stack, http1(huge, mirrors(echo("x"))))
    assert (reply.status, reply.error["code"]) == (413, -32012)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(huge), huge)
    headers = {**mirrors(echo("x")), "content-length": "", "transfer-encoding": "chunked"}
    reply = exchange(stack, http1(chunked, headers))
    assert reply.closed or (reply.status, reply.error["code"]) == (413, -32012)
    assert not [line for line in stack.recorded() if line.startswith("echo huge")]


def test_large_but_allowed_body_passes_envoys_filter(stack: Stack) -> None:
    """Ours: Envoy's MCP filter reads the first kilobytes only; that alone refuses nothing."""
    text = "big" + "y" * 500_000
    assert exchange(stack, http1(echo(text))).status == 200
    assert ran(stack, text) == 1
    padded = message("tools/call", {"arguments": {"text": "z" * 50_000}, "name": "forbidden"})
    assert exchange(stack, http1(padded)).status == 403


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_need_a_session_of_ones_own(stack: Stack, method: str) -> None:
    """MCP 2025-11-25, Streamable HTTP: sessions belong to whoever opened them."""
    assert exchange(stack, http1(b"", {"mcp-protocol-version": HANDSHAKE}, method=method)).status == 400
    theirs = open_session(stack, "model-a")
    foreign = exchange(stack, http1(b"", theirs, method=method), "model-b")
    assert (foreign.status, foreign.error["code"]) == (404, -32001)
    made_up = exchange(stack, http1(b"", {**theirs, "mcp-session-id": "guessed"}, method=method))
    assert (made_up.status, made_up.error["code"]) == (404, -32001)
    with_body = exchange(stack, http1(b"{}", theirs, method=method))
    assert with_body.status == 400
    still = exchange(stack, http1(b"", theirs, method="DELETE"))
    assert still.status == 200


def test_session_of_another_identity_runs_nothing(stack: Stack) -> None:
    """Issue 4: the session names nobody; the certificate does."""
    theirs = open_session(stack, "model-b")
    call = echo("stolen")
    del call["params"]["_meta"]
    reply = exchange(stack, http1(call, theirs), "model-a")
    assert (reply.status, reply.error["code"]) == (404, -32001)
    told = exchange(stack, http1({"jsonrpc": "2.0", "id": 1, "result": {}}, theirs), "model-a")
    assert told.status == 404
    assert ran(stack, "stolen") == 0


def test_request_cannot_travel_as_a_reply(stack: Stack) -> None:
    """Ours: what policy allows as grpc:reply is a response to a request of the server, and nothing else."""
    session = open_session(stack, "model-b")
    for body in (
        {"jsonrpc": "2.0", "id": 1, "result": {}, "method": "tools/call", "params": {"name": "forbidden"}},
        {"jsonrpc": "2.0", "id": 1, "result": {"method": "tools/call", "params": {"name": "forbidden"}}},
    ):
        reply = exchange(stack, http1(body, session), "model-b")
        assert 400 <= reply.status < 500


def test_session_and_statelessness_do_not_mix(stack: Stack) -> None:
    """Ours: a stateless request with somebody's session id is judged and executed as stateless."""
    session = open_session(stack, "model-b")["mcp-session-id"]
    body = echo("mixed")
    reply = exchange(stack, http1(body, {**mirrors(body), "mcp-session-id": session}))
    assert reply.status in (200, 404)
    assert ran(stack, "mixed") == (1 if reply.status == 200 else 0)


def test_no_certificate_no_handshake(stack: Stack) -> None:
    """Issue 4: identity as for gRPC."""
    try:
        reply = exchange(stack, http1(echo("nobody")), None)
    except OSError:
        return
    assert reply.closed
    assert ran(stack, "nobody") == 0


def test_refused_and_allowed_have_rows(stack: Stack) -> None:
    """Issue 4: each request has a row, with the reason of a refusal."""
    cases: dict[str, tuple[Reply, tuple[Any, ...]]] = {
        "origin": (
            exchange(stack, http1(LIST, {**mirrors(LIST), "origin": "https://x.example"})),
            ("model-a", "denied", "origin_not_allowed", 403),
        ),
        "malformed": (exchange(stack, http1("hello")), ("model-a", "denied", "malformed", 400)),
        "method": (exchange(stack, http1(LIST, method="PUT")), ("model-a", "error", "", 405)),
        "path": (exchange(stack, http1(LIST, path="/mcp/")), ("model-a", "error", "", 404)),
        "allowed": (exchange(stack, http1(LIST)), ("model-a", "allowed", "permitted", 200)),
    }
    sql = "SELECT identity, outcome, reason, http_status FROM requests WHERE request_id = {request:String}"
    for name, (reply, expected) in cases.items():
        rows = until(lambda request=reply.headers["x-request-id"]: stack.rows(sql, request=request))
        assert rows == [expected], name


def test_meta_is_the_requests_own(stack: Stack) -> None:
    """Ours: the fixture's requests state their version, or the tests above would test the other era."""
    assert echo("x")["params"]["_meta"] == META
