"""What of a typed request authz_service and the bridge refuse alike, and what its arguments become."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb
from typed_caller import RPCS, call_of

from mcp_bridge.typed.requests import params_of
from secure_mcp_grpc.calls import Malformed, name_of
from secure_mcp_grpc.typed_calls import read_typed_call

VERSION = "io.modelcontextprotocol/protocolVersion"


def two_answers(call: pb.CallToolRequest) -> None:
    call.common.input_responses["a"].elicit_result.type = pb.ElicitResult.TYPE_ACCEPT
    call.common.input_responses["a"].root_list_result.roots.add(uri="file:///x")


def no_answer(call: pb.CallToolRequest) -> None:
    call.common.input_responses["a"].SetInParent()


def resume_data(call: pb.CallToolRequest) -> None:
    call.common.resume_data.update({"a": 1})


def another_version(call: pb.CallToolRequest) -> None:
    call.common.metadata.update({VERSION: "2025-11-25"})


def twin_keys(call: pb.CallToolRequest) -> None:
    call.common.metadata.update({"progressToken": 1, "ProgressToken": 2})


@pytest.mark.parametrize("spoil", [two_answers, no_answer, resume_data, another_version, twin_keys])
def test_a_request_that_contradicts_itself_is_refused(spoil: Callable[[Any], None]) -> None:
    """Ours: by the one reading that authz_service and the bridge share."""
    call = call_of("t")
    assert read_typed_call("CallTool", call.SerializeToString()).target == "tools/call t"
    spoil(call)

    with pytest.raises(Malformed):
        read_typed_call("CallTool", call.SerializeToString())


@pytest.mark.parametrize("rpc", ["ListTools", "ListResources", "ListResourceTemplates", "ListPrompts"])
def test_lists_take_no_input(rpc: str) -> None:
    """MCP 2026-07-28, "Supported Requests": only three requests can be answered with a wish for input."""
    request = RPCS[rpc][0]()
    request.common.request_state = "x"

    with pytest.raises(Malformed, match="can be given input"):
        read_typed_call(rpc, request.SerializeToString())


def test_input_changes_nothing_about_the_target() -> None:
    """Ours: a retry is authorized as the call it retries."""
    call = call_of("t", a=1)
    before = read_typed_call("CallTool", call.SerializeToString())
    call.common.request_state = "tools/call other"
    call.common.input_responses["name"].elicit_result.type = pb.ElicitResult.TYPE_ACCEPT
    call.common.input_responses["name"].elicit_result.content.update({"name": "other"})

    assert read_typed_call("CallTool", call.SerializeToString()) == before


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("CallTool", call_of("t", a=1)),
        ("ReadResource", pb.ReadResourceRequest(uri="file:///x")),
        ("GetPrompt", pb.GetPromptRequest(name="p", arguments={"a": "b"})),
        ("Complete", pb.CompletionRequest(prompt_reference=pb.PromptReference(name="p", title="P"))),
        ("Complete", pb.CompletionRequest(resource_reference=pb.ResourceReference(uri="x://{a}"))),
    ],
)
def test_params_name_what_was_authorized(rpc: str, request_: Any) -> None:
    """Design: nothing else is executed than what was authorized."""
    message = request_.SerializeToString()
    call = read_typed_call(rpc, message)
    params = json.loads(params_of(rpc, message, None))

    assert name_of(call.method, params) == call.name
    assert params.get("arguments", {}) == call.arguments
    assert params["_meta"][VERSION] == "2026-07-28"


def test_an_elicited_value_without_an_action_is_refused() -> None:
    """Ours: whoever did not answer did not accept."""
    call = call_of("t")
    call.common.input_responses["a"].elicit_result.content.update({"ok": True})

    with pytest.raises(Malformed, match="accepted, declined or cancelled"):
        params_of("CallTool", call.SerializeToString(), None)


@pytest.mark.parametrize(
    ("number", "text"), [(3.0, "3"), (0.5, "0.5"), (2.0**53, "9007199254740992"), (1e300, "1e+300")]
)
def test_whole_numbers_stay_whole_where_a_double_has_them(number: float, text: str) -> None:
    """Ours: Struct knows doubles only; MCP's servers expect 3, and nobody expects 300 digits."""
    params = params_of("CallTool", call_of("t", n=number).SerializeToString(), None)

    assert f'"arguments":{{"n":{text}}}'.encode() in params


def test_a_client_speaks_for_itself_in_metadata() -> None:
    """Ours: clientCapabilities in metadata are what a server may ask for; without them it may ask for nothing."""
    key = "io.modelcontextprotocol/clientCapabilities"
    said = json.loads(params_of("CallTool", call_of("t").SerializeToString(), None))
    unsaid = json.loads(params_of("ListTools", b"", "next"))

    assert said["_meta"][key]["elicitation"] == {"form": {}, "url": {}}
    assert unsaid["_meta"][key] == {}
    assert unsaid["cursor"] == "next"
