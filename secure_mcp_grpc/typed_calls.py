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

from secure_mcp_grpc.calls import PROTOCOL_VERSION_META_KEY, Malformed, McpCall, check_name

__all__ = ["TYPED", "TYPED_VERSION", "read_typed_call", "struct_to_dict"]

TYPED: Final = "/model_context_protocol.Mcp/"
"""Path prefix of the typed service."""
TYPED_VERSION: Final = "2026-07-28"
"""What its messages are written for."""

_MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""2026-07-28, "Supported Requests": only these may be answered with a wish for input."""
_MAX_EXACT: Final = 2**53


def read_typed_call(rpc: str, message: bytes) -> McpCall:
    """The call in `message` for an RPC of the typed service (`rpc` without the path's prefix).

    Raises `Malformed`, also for an RPC that does not exist.
    """
    known = _RPCS.get(rpc)
    if known is None:
        raise Malformed("no such RPC")
    request_class, read = known
    try:
        request = request_class.FromString(message)
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None
    call = read(request)
    check_name(call.name)
    _check_common(request.common, call.method)
    return call


def _check_common(common: pb.RequestFields, method: str) -> None:
    """Raises `Malformed` for what two readers might take differently, or what MCP has no word for."""
    if common.HasField("resume_data"):
        raise Malformed("resume_data has no meaning in MCP; send the request_state that came with the response")
    if method not in _MAY_ASK and (common.input_responses or common.HasField("request_state")):
        raise Malformed("only CallTool, GetPrompt and ReadResource can be given input")
    for response in common.input_responses.values():
        if len(response.ListFields()) != 1:
            raise Malformed("an input response must be one of a sampled message, roots and an elicited value")
    if not common.HasField("metadata"):
        return
    metadata = struct_to_dict(common.metadata)
    if len({key.casefold() for key in metadata}) != len(metadata):
        raise Malformed("metadata has keys that differ in case only")
    if metadata.get(PROTOCOL_VERSION_META_KEY, TYPED_VERSION) != TYPED_VERSION:
        raise Malformed(f"this service speaks {TYPED_VERSION}; metadata must not name another version")


def struct_to_dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The JSON object that `struct` stands for; whole numbers up to 2^53 become integers.

    Raises `Malformed` for what is not JSON.

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
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number


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
