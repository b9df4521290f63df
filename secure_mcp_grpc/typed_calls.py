"""What a call of the typed service (PyPI `mcp-grpc-transport-proto`) asks for; `calls` does so for the other one.

authz_service reads it to decide and mcp_bridge reads it again before it
executes. Pure functions.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from secure_mcp_grpc.calls import Malformed, McpCall, check_name

__all__ = ["TYPED", "read_typed_call", "struct_to_dict"]

TYPED: Final = "/model_context_protocol.Mcp/"
"""Path prefix of the typed service."""


def read_typed_call(rpc: str, message: bytes) -> McpCall:
    """The call in `message` for an RPC of the typed service (`rpc` without the path's prefix).

    Raises `Malformed`, also for an RPC that does not exist.
    """
    known = _RPCS.get(rpc)
    if known is None:
        raise Malformed("no such RPC")
    request_class, read = known
    try:
        call = read(request_class.FromString(message))
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None
    check_name(call.name)
    return call


def struct_to_dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The JSON object that `struct` stands for; whole numbers become integers. Raises `Malformed` for what is not JSON.

    google.protobuf bounds the depth when it parses, so the recursion here is bounded too.
    """
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return struct_to_dict(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
    raise Malformed("an argument has no value")


def _number(number: float) -> int | float:
    if not math.isfinite(number):
        raise Malformed("numbers must be finite")
    return int(number) if number.is_integer() else number


def _lists(method: str) -> Callable[[Any], McpCall]:
    return lambda _request: McpCall(method, "", {})


def _call_tool(request: pb.CallToolRequest) -> McpCall:
    return McpCall("tools/call", request.request.name, struct_to_dict(request.request.arguments))


def _read_resource(request: pb.ReadResourceRequest) -> McpCall:
    return McpCall("resources/read", request.uri, {})


def _get_prompt(request: pb.GetPromptRequest) -> McpCall:
    return McpCall("prompts/get", request.name, dict(request.arguments))


def _complete(request: pb.CompletionRequest) -> McpCall:
    if request.HasField("resource_reference") == request.HasField("prompt_reference"):
        raise Malformed("completion must refer to either a resource or a prompt")
    if request.HasField("resource_reference"):
        return McpCall("completion/complete", request.resource_reference.uri, {})
    return McpCall("completion/complete", request.prompt_reference.name, {})


_RPCS: Final[dict[str, tuple[Any, Callable[[Any], McpCall]]]] = {
    "ListTools": (pb.ListToolsRequest, _lists("tools/list")),
    "CallTool": (pb.CallToolRequest, _call_tool),
    "ListResources": (pb.ListResourcesRequest, _lists("resources/list")),
    "ListResourceTemplates": (pb.ListResourceTemplatesRequest, _lists("resources/templates/list")),
    "ReadResource": (pb.ReadResourceRequest, _read_resource),
    "ListPrompts": (pb.ListPromptsRequest, _lists("prompts/list")),
    "GetPrompt": (pb.GetPromptRequest, _get_prompt),
    "Complete": (pb.CompletionRequest, _complete),
}
