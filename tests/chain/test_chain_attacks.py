"""Somebody with a good certificate and bad intentions: nothing but what was authorized is ever executed.

Each attack goes over a raw HTTP/2 connection to the whole running stack, and
must be refused with a clear status, leave nothing at the MCP server, and leave
a record in the store.
"""

import contextlib
import gzip
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_stack import TRUST_DOMAIN, Stack, running, until
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from raw_client import CALL, Answer, frame, request

from secure_mcp_grpc import certs
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

VERSION = "2026-07-28"
TYPED = "/model_context_protocol.Mcp/CallTool"
INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAUTHENTICATED = 3, 7, 8, 12, 16


def params(name: str, **arguments: Any) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return json.dumps({"name": name, "arguments": arguments, "_meta": meta}).encode()


def call(name: str = "echo", params_json: bytes | None = None, **fields: Any) -> bytes:
    """A serialized `Request`."""
    values = {"method": "tools/call", "name": name, "protocol_version": VERSION, "id_json": b"1", **fields}
    body = params(name, text="attack") if params_json is None else params_json
    return bytes(pb.Request(params_json=body, **values).SerializeToString())


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field, its length below 128 written as one byte."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


FORBIDDEN = params("forbidden", text="attack")
NUMBERS = {one.name: one.number for one in pb.Request.DESCRIPTOR.fields}


@pytest.fixture(scope="module", params=["http2", "grpc"])
def stack(request: pytest.FixtureRequest, root: Path) -> Iterator[Stack]:
    """Issue 3: the same attacks over every server around the check that is kept."""
    with running(root / request.param, {"authz": {"metrics_port": 0, "server": request.param}}) as stack:
        yield stack


@pytest.fixture(scope="module")
def model_a(stack: Stack) -> Path:
    return stack.home.certs / "model-a"


class Attacked:
    """Answers to many attacks, and the rows that they left, waited for together."""

    def __init__(self, stack: Stack, answers: dict[str, Answer]) -> None:
        self.answers = answers
        ids = {one.headers["x-request-id"]: attack for attack, one in answers.items() if "x-request-id" in one.headers}
        self.rows = {ids[request_id]: row for request_id, row in recorded(stack, *ids).items()}

    def refused(self, attack: str, *codes: int) -> dict[str, Any]:
        """The row of an attack whose answer is a refusal with one of `codes`."""
        refused(self.answers[attack], *codes)
        return self.rows[attack]


@pytest.fixture(autouse=True)
def nothing_forbidden_was_executed(stack: Stack) -> Iterator[None]:
    """The claim of this file, checked after every one of its tests by what the MCP server itself wrote down."""
    before = len(stack.recorded())
    yield
    assert [line for line in stack.recorded()[before:] if not line.startswith("echo honest")] == []


def refused(answer: Answer, *codes: int) -> None:
    assert not answer.reset, answer
    assert answer.grpc_status in codes, answer.headers
    assert answer.body == b""
    message = answer.headers.get("grpc-message", "")
    assert message, "a refusal says what is wrong"
    assert not any(word in message for word in ("Traceback", "Error(", "/home", ".py"))


def recorded(stack: Stack, *request_ids: str) -> dict[str, dict[str, Any]]:
    """The rows of these requests, waited for: one for each."""
    columns = ("request_id", "outcome", "decision", "reason", "method", "tool", "grpc_status")
    sql = f"SELECT {', '.join(columns)} FROM requests WHERE request_id IN {{ids:Array(String)}}"
    found = until(
        lambda: rows if len(rows := stack.rows(sql, ids=list(request_ids))) >= len(set(request_ids)) else None
    )
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    assert sorted(row["request_id"] for row in rows) == sorted(request_ids)
    return {row["request_id"]: row for row in rows}


def row_of(stack: Stack, answer: Answer) -> dict[str, Any]:
    request_id = answer.headers["x-request-id"]
    return recorded(stack, request_id)[request_id]


def test_the_raw_client_is_served_when_it_is_honest(stack: Stack, model_a: Path) -> None:
    """Ours: without this, every refusal below could have another cause."""
    body = call(params_json=params("echo", text="honest"))

    answer = request(stack.address, model_a, body=frame(body))

    assert answer.grpc_status == 0
    assert b"honest" in answer.body
    assert row_of(stack, answer)["outcome"] == "allowed"


BODIES = {
    "no body": b"",
    "half a frame header": b"\0\0\0",
    "a frame without its message": frame(b"", length=500),
    "a truncated message": frame(call())[:-7],
    "bytes after the frame": frame(call()) + b"x",
    "two frames": frame(call()) + frame(call("forbidden")),
    "an empty frame before": frame(b"") + frame(call("forbidden")),
    "a compressed frame": frame(gzip.compress(call("forbidden")), flag=1),
    "a flag of another kind": frame(call("forbidden"), flag=2),
    "a length that lies": frame(call("forbidden"), length=2**32 - 1),
    "not protobuf": frame(b"\xff\xff\xff\xff\xff"),
    "an unfinished group": frame(call() + bytes([NUMBERS["method"] << 3 | 3])),
    "a name that contradicts params": frame(call("echo", FORBIDDEN)),
    "a second name field": frame(call("echo") + field(NUMBERS["name"], b"forbidden")),
    "a second params field": frame(call("echo") + field(NUMBERS["params_json"], b'{"name":"forbidden"}')),
    "a method with a colon": frame(call(method="grpc:listen")),
    "a name twice in JSON": frame(call("echo", b'{"name":"forbidden","name":"echo","arguments":{}}')),
    "a name in two cases": frame(call("echo", b'{"name":"echo","Name":"forbidden","arguments":{}}')),
    "arguments twice in JSON": frame(call("echo", b'{"name":"echo","arguments":{},"arguments":{"text":"attack"}}')),
    "a name that is no string": frame(call("echo", b'{"name":["echo"],"arguments":{}}')),
    "NaN": frame(call("echo", b'{"name":"echo","arguments":{"text":NaN}}')),
    "a lone surrogate": frame(call("echo", b'{"name":"echo\\ud800","arguments":{}}')),
    "deep nesting": frame(call("echo", b'{"name":"echo","arguments":' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    "a line break in the id": frame(call(id_json=b'1\n{"jsonrpc":"2.0"}')),
    "a name with NUL": frame(call("echo\0", b'{"name":"echo\\u0000","arguments":{}}')),
    "a name with a control character": frame(call("echo\x1b[2J", json.dumps({"name": "echo\x1b[2J"}).encode())),
    "a name with a bidirectional override": frame(call("echo\u202e", json.dumps({"name": "echo\u202e"}).encode())),
    "a name that is not UTF-8": frame(call() + field(NUMBERS["name"], b"echo\xff\xfe")),
    "a method that is not UTF-8": frame(call() + field(NUMBERS["method"], b"tools/call\xff")),
    "a version that params contradict": frame(call(protocol_version="2025-11-25")),
}


@pytest.fixture(scope="module")
def bodies(stack: Stack, model_a: Path) -> Attacked:
    return Attacked(stack, {attack: request(stack.address, model_a, body=body) for attack, body in BODIES.items()})


@pytest.mark.parametrize("attack", BODIES)
def test_what_no_honest_client_sends_is_invalid_and_recorded(bodies: Attacked, attack: str) -> None:
    """Issue 3: refused with a clear status before it reaches the server, and it leaves a record."""
    row = bodies.refused(attack, INVALID_ARGUMENT)

    assert (row["decision"], row["reason"], row["grpc_status"]) == ("deny", "malformed", INVALID_ARGUMENT)


NAMES = {
    "another case": "Echo",
    "upper case": "FORBIDDEN",
    "full-width letters": "\uff45\uff43\uff48\uff4f",
    "a homoglyph": "\u0435\u0441ho",
    "a trailing blank": "echo ",
    "a trailing dot": "echo.",
    "a path": "../echo",
    "percent-encoded": "%65cho",
    "a zero-width joiner": "echo\u200d",
    "a wildcard": "*",
    "an empty name": "",
    "a comma": "echo,forbidden",
    "the rule's text": "echo, allow",
}


@pytest.fixture(scope="module")
def names(stack: Stack, model_a: Path) -> Attacked:
    answers = {attack: request(stack.address, model_a, body=frame(call(name))) for attack, name in NAMES.items()}
    return Attacked(stack, answers)


@pytest.mark.parametrize("attack", NAMES)
def test_a_name_that_only_looks_like_a_permitted_one_is_refused(names: Attacked, attack: str) -> None:
    """Issue 3: policy compares exactly what would be executed."""
    assert names.refused(attack, PERMISSION_DENIED, INVALID_ARGUMENT)["decision"] == "deny"


def test_wire_types_that_parsers_read_differently_are_no_way_in(stack: Stack, model_a: Path) -> None:
    """Design: Envoy's field extraction and protobuf disagree on these; authz and bridge read with one library."""
    number = NUMBERS["name"]
    odd = {
        "varint": bytes([number << 3 | 0, 1]),
        "fixed64": bytes([number << 3 | 1]) + b"forbidde",
        "fixed32": bytes([number << 3 | 5]) + b"forb",
        "group": bytes([number << 3 | 3, number << 3 | 4]),
    }
    bodies = {
        f"{name} {where}": body.replace(b"attack", b"honest")
        for name, extra in odd.items()
        for where, body in (("after", call() + extra), ("before", extra + call()))
    }

    seen = Attacked(stack, {name: request(stack.address, model_a, body=frame(body)) for name, body in bodies.items()})

    # An unknown field is no reason to refuse; what is executed is what was authorized.
    assert {answer.grpc_status for answer in seen.answers.values()} == {0}
    assert {row["tool"] for row in seen.rows.values()} == {"echo"}
    refused(request(stack.address, model_a, body=frame(odd["varint"] + call("forbidden"))), PERMISSION_DENIED)


PATHS = {
    "a query": f"{CALL}?x=1",
    "a fragment": f"{CALL}#x",
    "percent-encoded": CALL.replace("Call", "%43all"),
    "an encoded slash": CALL.replace("/Call", "%2FCall"),
    "an encoded dot": "/secure_mcp_grpc%2Ev1.McpTransport/Call",
    "dots": "/x/../secure_mcp_grpc.v1.McpTransport/Call/../Forbidden",
    "a trailing slash": f"{CALL}/",
    "a backslash": CALL.replace("/Call", "\\Call"),
    "a semicolon": f"{CALL};x",
    "another case": CALL.replace("Call", "CALL"),
    "an unknown RPC": CALL.replace("Call", "Execute"),
    "another service": "/grpc.health.v1.Health/Check",
    "reflection": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "the policy query of authz": "/secure_mcp_grpc.v1.PolicyQuery/Filter",
    "authz itself": "/envoy.service.auth.v3.Authorization/Check",
    "the root": "/",
    "an absolute URI": "https://localhost/secure_mcp_grpc.v1.McpTransport/Call",
}


NO_REQUEST_ID = {
    "a fragment": "path_normalization_failed",
    "an encoded slash": "path_normalization_failed",
    "an absolute URI": "http2.violation.of.messaging.rule",
}
"""Attack → Envoy's response code details."""


@pytest.fixture(scope="module")
def paths(stack: Stack, model_a: Path) -> Attacked:
    body = frame(call("forbidden"))
    answers = {attack: request(stack.address, model_a, path=path, body=body) for attack, path in PATHS.items()}
    return Attacked(stack, answers)


@pytest.mark.parametrize("attack", PATHS)
def test_only_the_paths_of_the_two_services_are_open(paths: Attacked, attack: str) -> None:
    """Issue 3: percent-encoded and dotted paths, query strings."""
    answer = paths.answers[attack]

    assert answer.reset or answer.grpc_status not in (0, None), answer
    assert answer.body == b""
    if attack not in NO_REQUEST_ID:
        assert paths.rows[attack]["outcome"] != "allowed"


def test_paths_that_envoy_refuses_before_it_gives_an_id_leave_a_row_too(paths: Attacked, stack: Stack) -> None:
    """Issue 3: each leaves a record."""
    assert {attack for attack in PATHS if attack not in paths.rows} == set(NO_REQUEST_ID)
    sql = "SELECT details FROM requests WHERE request_id = '' AND decision = '' AND identity = 'model-a'"

    until(lambda: set(NO_REQUEST_ID.values()) <= {details for (details,) in stack.rows(sql)})


def test_a_path_that_normalises_to_an_open_one_is_judged_as_that_one(stack: Stack, model_a: Path) -> None:
    """Ours: Envoy's normalisation comes before authorization, so both see one path."""
    for path in (f"/x/..{CALL}", f"/{CALL}", f"/.{CALL}"):
        answer = request(stack.address, model_a, path=path, body=frame(call("forbidden")))

        refused(answer, PERMISSION_DENIED)


HEADERS = [
    ("x-mcp-subject", "model-root"),
    ("x-mcp-target", "tools/call echo"),
    ("x-mcp-decision", "chain:1"),
    ("x-mcp-roles", "role:user"),
    ("x-mcp-user", "user:corp:root"),
    ("x-mcp-user-roles", "role:user"),
    ("X-Mcp-Subject", "model-root"),
    ("x-envoy-original-path", CALL),
    ("x-envoy-auth-partial-body", "false"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-internal", "true"),
    ("x-ext-authz-check-result", "allowed"),
    ("x-forwarded-client-cert", "URI=spiffe://test.mcp/model-root"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-original-path", CALL),
    ("x-request-id", "11111111-1111-1111-1111-111111111111"),
    ("grpc-encoding", "gzip"),
    ("grpc-timeout", "99999999H"),
    ("content-length", "1"),
]


@pytest.fixture(scope="module")
def headers(stack: Stack, model_a: Path) -> Attacked:
    body = frame(call("forbidden"))
    answers = {name: request(stack.address, model_a, body=body, headers=[(name, value)]) for name, value in HEADERS}
    return Attacked(stack, answers)


@pytest.mark.parametrize("name", [name for name, _ in HEADERS])
def test_headers_of_a_client_buy_nothing(headers: Attacked, name: str) -> None:
    """Issue 3: x-mcp-* and x-envoy-* headers; whatever is said, a forbidden call stays forbidden."""
    answer = headers.answers[name]
    if name in ("X-Mcp-Subject", "content-length"):
        assert answer.reset  # Envoy's own parser refuses it
        return
    row = headers.refused(name, PERMISSION_DENIED, INVALID_ARGUMENT)
    assert row["decision"] == "deny"
    assert answer.headers["x-request-id"] != "11111111-1111-1111-1111-111111111111"


def test_a_body_that_ends_in_a_reset_is_not_executed(stack: Stack, model_a: Path) -> None:
    """Issue 3: a truncated request; Envoy asks authz only about whole ones."""
    request(stack.address, model_a, body=frame(call())[:-3], end=False, reset_after=True)

    honest = request(stack.address, model_a, body=frame(call(params_json=params("echo", text="honest"))))
    assert honest.grpc_status == 0


@pytest.mark.parametrize("size", [1_048_576, 1_048_577, 3_000_000])
def test_a_body_at_the_limit_and_beyond_is_never_judged_by_its_beginning(
    stack: Stack, model_a: Path, size: int
) -> None:
    """Issue 3: partial bodies. The forbidden name comes after more bytes than authz would get."""
    start = b'{"arguments":{"text":"' + b"x" * size + b'"},"name":"forbidden","_meta":{}}'

    answer = request(stack.address, model_a, body=frame(call("echo", start)))

    refused(answer, RESOURCE_EXHAUSTED)


def test_a_body_cut_into_single_bytes_is_judged_as_a_whole(stack: Stack, model_a: Path) -> None:
    """Ours: how a client cuts its data frames is no business of policy."""
    import h2.connection
    from raw_client import connect  # one connection with many small frames

    text = f"honest {secrets.token_hex(4)}"
    body = frame(call(params_json=params("echo", text=text)))
    connection = h2.connection.H2Connection()
    with connect(stack.address, model_a) as stream:
        connection.initiate_connection()
        names = ((":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CALL))
        connection.send_headers(1, [*names, ("content-type", "application/grpc"), ("te", "trailers")])
        for position in range(len(body)):
            connection.send_data(1, body[position : position + 1], end_stream=position == len(body) - 1)
        stream.sendall(connection.data_to_send())
        until(lambda: f"echo {text}" in stack.recorded())


@pytest.mark.parametrize(
    "values",
    [["Bearer a", "Bearer b"], ["Bearer a, Bearer b"], ["Bearer a"], ["Basic bW9kZWwtYTp4"], [""]],
    ids=["two", "two in one", "one", "basic", "empty"],
)
def test_credentials_that_nobody_asked_for_are_no_help(stack: Stack, model_a: Path, values: list[str]) -> None:
    """Issue 3: two `authorization` headers; and a token where no issuer is configured is refused, not ignored."""
    headers = [("authorization", value) for value in values]

    answer = request(stack.address, model_a, body=frame(call("forbidden")), headers=headers)

    refused(answer, UNAUTHENTICATED, PERMISSION_DENIED)
    row = row_of(stack, answer)
    assert row["decision"] == "deny"
    if values != [""]:
        assert row["reason"] == "token_not_accepted"


ODD_SANS = {
    "two identities": [f"spiffe://{TRUST_DOMAIN}/model-b", f"spiffe://{TRUST_DOMAIN}/model-a"],
    "an identity and a foreign URI": [f"spiffe://{TRUST_DOMAIN}/model-a", "https://example.org/"],
    "another trust domain": ["spiffe://elsewhere/model-a"],
    "no path": [f"spiffe://{TRUST_DOMAIN}"],
    "a dot segment": [f"spiffe://{TRUST_DOMAIN}/x/../model-a"],
    "percent-encoded": [f"spiffe://{TRUST_DOMAIN}/model%2Da"],
    "a query": [f"spiffe://{TRUST_DOMAIN}/model-a?x"],
    "a port": [f"spiffe://{TRUST_DOMAIN}:443/model-a"],
    "upper case": [f"SPIFFE://{TRUST_DOMAIN}/model-a"],
    "a comma": [f"spiffe://{TRUST_DOMAIN}/model-a,spiffe://{TRUST_DOMAIN}/model-b"],
    "no URI at all": [],
}


@pytest.mark.parametrize("attack", ODD_SANS)
def test_a_certificate_without_one_clear_identity_is_refused(stack: Stack, tmp_path: Path, attack: str) -> None:
    """Issue 3: certificates with several or odd SANs, signed by our own CA."""
    certificate, key = certs.make_leaf(*certs.load_ca(stack.home.ca), ODD_SANS[attack])
    (tmp_path / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ca.crt").write_bytes((stack.home.certs / "model-a" / "ca.crt").read_bytes())
    failures = "SELECT count() FROM handshakes"
    before = stack.rows(failures)[0][0]

    try:
        answer = request(stack.address, tmp_path, body=frame(call()))
    except OSError:
        answer = Answer(reset=True)

    if attack == "a dot segment":  # Envoy's expression lets it in; authz does not
        refused(answer, UNAUTHENTICATED)
        assert row_of(stack, answer)["reason"] == "bad_certificate"
        return
    assert answer.reset
    until(lambda: stack.rows(failures)[0][0] > before)


def test_the_typed_service_refuses_the_same_tricks(stack: Stack, model_a: Path) -> None:
    """Ours: a second way in needs the same lock."""
    from mcp_grpc_transport_proto import mcp_messages_pb2 as typed

    message = typed.CallToolRequest(request=typed.CallToolRequest.Request(name="forbidden")).SerializeToString()
    for body, code in (
        (frame(message), PERMISSION_DENIED),
        (frame(message) + frame(message), INVALID_ARGUMENT),
        (frame(message, flag=1), INVALID_ARGUMENT),
        (frame(message)[:-2], INVALID_ARGUMENT),
    ):
        refused(request(stack.address, model_a, path=TYPED, body=body), code)


def test_a_request_over_http_1_is_not_served(stack: Stack, model_a: Path) -> None:
    """Ours: gRPC is HTTP/2; another codec would be another parser."""
    import http.client
    import ssl

    context = ssl.create_default_context(cafile=str(model_a / "ca.crt"))
    context.load_cert_chain(model_a / "tls.crt", model_a / "tls.key")
    host, _, port = stack.address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=5)
    headers = {"content-type": "application/grpc", "te": "trailers"}
    with contextlib.closing(connection):
        connection.request("POST", CALL, frame(call("forbidden")), headers)
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()
