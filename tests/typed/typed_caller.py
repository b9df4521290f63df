"""A client of the typed service that answers what servers ask, and an upstream that answers what a test says."""

import json
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb
from test_bridge_execute import Spy

from mcp_bridge.exchange import Exchange
from secure_mcp_grpc.typed_calls import TYPED

RPCS: dict[str, tuple[Any, Any]] = {
    "ListTools": (pb.ListToolsRequest, pb.ListToolsResponse),
    "ListResources": (pb.ListResourcesRequest, pb.ListResourcesResponse),
    "ListResourceTemplates": (pb.ListResourceTemplatesRequest, pb.ListResourceTemplatesResponse),
    "ListPrompts": (pb.ListPromptsRequest, pb.ListPromptsResponse),
    "CallTool": (pb.CallToolRequest, pb.CallToolResponse),
    "ReadResource": (pb.ReadResourceRequest, pb.ReadResourceResponse),
    "GetPrompt": (pb.GetPromptRequest, pb.GetPromptResponse),
    "Complete": (pb.CompletionRequest, pb.CompletionResponse),
}
CAPABILITIES = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}


async def ask(channel: grpc.aio.Channel, rpc: str, request: Any = None) -> Any:
    given, answer = RPCS[rpc]
    call = channel.unary_unary(f"{TYPED}{rpc}", given.SerializeToString, answer.FromString)
    return await call(given() if request is None else request, timeout=20)


def call_of(name: str, **arguments: Any) -> pb.CallToolRequest:
    """From a client that can be asked for everything."""
    call = pb.CallToolRequest()
    call.request.name = name
    call.request.arguments.update(arguments)
    call.common.metadata.update({"io.modelcontextprotocol/clientCapabilities": CAPABILITIES})
    return call


async def call_tool(channel: grpc.aio.Channel, name: str, asked: list[str], **arguments: Any) -> Any:
    """The complete result; what the server asked for on the way goes into `asked`."""
    call = call_of(name, **arguments)
    for _ in range(5):
        answer = await ask(channel, "CallTool", call)
        if answer.common.result_type == pb.RESULT_TYPE_COMPLETE:
            return answer
        call = call_of(name, **arguments)
        for key, request in answer.common.input_requests.items():
            call.common.input_responses[key].CopyFrom(respond(request, asked))
        if answer.common.HasField("request_state"):
            call.common.request_state = answer.common.request_state
    raise AssertionError("the server never stops asking")


def respond(request: pb.InputRequest, asked: list[str]) -> pb.InputResponse:
    response = pb.InputResponse()
    if request.HasField("sampling_create_message"):
        text = request.sampling_create_message.messages[0].text.text
        asked.append(f"sample {text}")
        result = response.sampling_create_message_result
        result.model, result.message.role, result.message.text.text = "m", pb.Role.Value("ROLE_ASSISTANT"), f"re {text}"
    elif request.HasField("elicit_request"):
        elicited = request.elicit_request
        asked.append(f"elicit {elicited.url_mode.url or elicited.message}")
        response.elicit_result.type = pb.ElicitResult.TYPE_ACCEPT
        if not elicited.HasField("url_mode"):
            response.elicit_result.content.update(dict.fromkeys(elicited.requested_schema, f"to {elicited.message}"))
    else:
        asked.append("roots")
        response.root_list_result.roots.add(uri="file:///here")
    return response


class Scripted(Spy):
    """Answers each request with the result, or the bytes, that `script` makes of its params."""

    def __init__(self, script: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__()
        self.script = script
        self.params: list[dict[str, Any]] = []

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        self.params.append(json.loads(exchange.params_json))
        answer = self.script(self.params[-1])
        if isinstance(answer, bytes):
            return answer
        member = "error" if "code" in answer else "result"
        return json.dumps({"jsonrpc": "2.0", "id": 1, member: answer}).encode()


def details_of(error: grpc.aio.AioRpcError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info
