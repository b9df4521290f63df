"""Only a request that every reader reads alike is judged; attack bodies are refused."""

import gzip
from typing import Any

import pytest
from authz_requests import CALL, check_request, frame, mcp_request
from google.protobuf import struct_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2 as typed

from authz_service.request import read_call
from authz_service.verdict import Deny
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.typed_calls import read_typed_call
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

GOOD = mcp_request("tools/call", "x", arguments={"a": 1})
LIMIT = 10_000


def read(change: Any = None, **request: Any) -> McpCall | Deny:
    http = check_request(**{"body": GOOD, **request}).attributes.request.http
    if change:
        change(http)
    return read_call(http, LIMIT)


def test_call_is_read_from_the_body() -> None:
    """Ours: method, name and arguments come from the message, not from headers."""
    assert read() == McpCall("tools/call", "x", {"a": 1})


def _raw(**fields: Any) -> bytes:
    return frame(pb.Request(**{"method": "tools/call", "name": "x", "id_json": b"1", **fields}).SerializeToString())


ATTACKS = {
    "nothing": b"",
    "short prefix": b"\0\0\0",
    "truncated": GOOD[:-1],
    "trailing byte": GOOD + b"\0",
    "two frames": GOOD + GOOD,
    "compressed flag": b"\x01" + GOOD[1:],
    "compressed": frame(gzip.compress(GOOD[5:])),
    "not protobuf": frame(b"\xff\xff"),
    "empty message": frame(b""),
    "mirror differs": _raw(name="y", params_json=b'{"name":"x"}'),
    "mirror missing": _raw(name="", params_json=b'{"name":"x"}'),
    "key twice": _raw(params_json=b'{"name":"y","name":"x"}'),
    "key in two cases": _raw(params_json=b'{"name":"x","Name":"y"}'),
    "NUL in name": mcp_request("tools/call", "x\0"),
    "bidirectional name": mcp_request("tools/call", "x\u202e"),
    "newline in method": mcp_request("tools/call\n", "x"),
    "long name": mcp_request("tools/call", "x" * 3000),
    "id is an object": _raw(id_json=b"{}", params_json=b'{"name":"x"}'),
    "params is a list": _raw(params_json=b"[]"),
    "deep params": _raw(params_json=b'{"name":"x","arguments":' + b'{"a":' * 9000 + b"1" + b"}" * 9001),
    "NaN": _raw(params_json=b'{"name":"x","arguments":{"a":NaN}}'),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_body_is_malformed(attack: str) -> None:
    """Ours: exactly one uncompressed frame with one reading."""
    http = check_request(body=ATTACKS[attack]).attributes.request.http
    outcome = read_call(http, 1_000_000)

    assert isinstance(outcome, Deny)
    assert (outcome.code, outcome.reason) == (3, "malformed")


def test_duplicated_field_is_read_as_protobuf_reads_it() -> None:
    """protobuf: the last one wins, here and in the bridge alike; a wrong wire type is an unknown field to both."""
    twice = pb.Request(method="tools/list").SerializeToString() + GOOD[5:]
    odd = GOOD[5:] + b"\x08\x05"  # field 1 as a varint

    assert read(body=frame(twice)) == read(body=frame(odd)) == McpCall("tools/call", "x", {"a": 1})


def _set(**values: Any) -> Any:
    def change(http: Any) -> None:
        for key, value in values.items():
            setattr(http, key, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set(size=3),
        _set(size=-1),
        _set(method="GET"),
        _set(query="x=1"),
        _set(fragment="x"),
        _set(body="text"),
        lambda http: http.headers.update({"content-length": "5"}),
        lambda http: http.headers.update({"content-type": "application/json"}),
        lambda http: http.headers.update({"content-type": "application/grpc-web+proto"}),
        lambda http: http.headers.pop("content-type"),
    ],
    ids=range(10),
)
def test_contradicting_envelope_is_malformed(change: Any) -> None:
    """Ours: the body must be whole and the request an ordinary unary gRPC one."""
    outcome = read(change)

    assert isinstance(outcome, Deny)
    assert (outcome.code, outcome.reason) == (3, "malformed")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{CALL}?x=1", 3),
        (f"{CALL}#x", 3),
        (f"{CALL}%00", 3),
        ("/secure_mcp_grpc.v1.McpTransport/%43all", 3),
        (f"/x/..{CALL}", 7),
        (f"/{CALL}", 7),
        (f"{CALL}/", 7),
        ("/secure_mcp_grpc.v1.McpTransport/", 7),
        ("/secure_mcp_grpc.v1.McpTransport/Nothing", 3),
        ("/secure_mcp_grpc.v1.mcptransport/Call", 7),
        ("/secure_mcp_grpc.v1.McpTransport/Session?x=1", 3),
        ("/secure_mcp_grpc.v1.McpTransport/Session/", 7),
        ("/model_context_protocol.Mcp/Session", 3),
        ("/grpc.health.v1.Health/Check", 7),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 7),
        ("", 7),
    ],
)
def test_path_that_is_not_open_is_refused(path: str, code: int) -> None:
    """Ours: default deny for paths."""
    outcome = read(path=path)

    assert isinstance(outcome, Deny)
    assert outcome.code == code


def test_too_large_body_is_refused() -> None:
    """Ours: max_body_bytes."""
    outcome = read(body=mcp_request("tools/call", "x", arguments={"a": "b" * LIMIT}))

    assert isinstance(outcome, Deny)
    assert (outcome.code, outcome.reason) == (8, "too_large")


def test_a_body_that_envoy_cut_is_too_large() -> None:
    """Ours: RESOURCE_EXHAUSTED, as Envoy answers to a body that is far over its limit."""
    outcome = read(lambda http: http.headers.update({"x-envoy-auth-partial-body": "true"}))

    assert isinstance(outcome, Deny)
    assert (outcome.code, outcome.reason) == (8, "too_large")


def _arguments(**values: Any) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


@pytest.mark.parametrize(
    ("rpc", "message", "call"),
    [
        ("ListTools", typed.ListToolsRequest(), McpCall("tools/list", "", {})),
        ("ListResources", typed.ListResourcesRequest(), McpCall("resources/list", "", {})),
        ("ListResourceTemplates", typed.ListResourceTemplatesRequest(), McpCall("resources/templates/list", "", {})),
        ("ListPrompts", typed.ListPromptsRequest(), McpCall("prompts/list", "", {})),
        ("ReadResource", typed.ReadResourceRequest(uri="file:///x"), McpCall("resources/read", "file:///x", {})),
        (
            "GetPrompt",
            typed.GetPromptRequest(name="greet", arguments={"who": "me"}),
            McpCall("prompts/get", "greet", {"who": "me"}),
        ),
        (
            "CallTool",
            typed.CallToolRequest(
                request=typed.CallToolRequest.Request(
                    name="add", arguments=_arguments(a=1, b=2.5, c=[True, None, {"d": "e"}])
                )
            ),
            McpCall("tools/call", "add", {"a": 1, "b": 2.5, "c": [True, None, {"d": "e"}]}),
        ),
        (
            "Complete",
            typed.CompletionRequest(prompt_reference=typed.PromptReference(name="greet")),
            McpCall("completion/complete", "greet", {}),
        ),
        (
            "Complete",
            typed.CompletionRequest(resource_reference=typed.ResourceReference(uri="file:///{x}")),
            McpCall("completion/complete", "file:///{x}", {}),
        ),
    ],
    ids=range(9),
)
def test_typed_call_has_the_same_reading_as_json(rpc: str, message: Any, call: McpCall) -> None:
    """Ours: one policy for both services."""
    body = frame(message.SerializeToString())

    assert read(body=body, path=f"/model_context_protocol.Mcp/{rpc}") == call


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        ("Nothing", b""),
        ("CallTool", b"\xff"),
        ("CallTool", typed.CallToolRequest(request=typed.CallToolRequest.Request(name="x\0")).SerializeToString()),
        (
            "CallTool",
            typed.CallToolRequest(
                request=typed.CallToolRequest.Request(name="x", arguments=_arguments(a=float("inf")))
            ).SerializeToString(),
        ),
        ("ReadResource", typed.ReadResourceRequest(uri="\u202e").SerializeToString()),
        ("Complete", typed.CompletionRequest().SerializeToString()),
        (
            "Complete",
            typed.CompletionRequest(
                prompt_reference=typed.PromptReference(name="a"), resource_reference=typed.ResourceReference(uri="b")
            ).SerializeToString(),
        ),
    ],
    ids=[
        "no such RPC",
        "not protobuf",
        "NUL in name",
        "infinite number",
        "bidirectional URI",
        "no reference",
        "both references",
    ],
)
def test_malformed_typed_call_is_refused(rpc: str, message: bytes) -> None:
    """Ours: the same name checks as in the full-fidelity service."""
    with pytest.raises(Malformed):
        read_typed_call(rpc, message)
