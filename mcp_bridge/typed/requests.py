"""Requests of the typed service as the params that an MCP server takes. Pure functions."""

import json
from typing import Any, Final

from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from mcp_bridge.typed.inputs import input_response
from secure_mcp_grpc.typed_calls import TYPED_VERSION, struct_to_dict

__all__ = ["REQUESTS", "params_of"]

_META: Final = "io.modelcontextprotocol/"
_DEFAULTS: Final = {
    f"{_META}clientInfo": {"name": "secure-mcp-grpc-typed", "version": "1"},
    f"{_META}clientCapabilities": {},
}
"""Of a client that says nothing of itself: it cannot be asked for anything."""

REQUESTS: Final[dict[str, Any]] = {
    "ListTools": pb.ListToolsRequest,
    "ListResources": pb.ListResourcesRequest,
    "ListResourceTemplates": pb.ListResourceTemplatesRequest,
    "ListPrompts": pb.ListPromptsRequest,
    "CallTool": pb.CallToolRequest,
    "ReadResource": pb.ReadResourceRequest,
    "GetPrompt": pb.GetPromptRequest,
    "Complete": pb.CompletionRequest,
}
"""RPC → class of its message."""


def params_of(rpc: str, message: bytes, cursor: str | None) -> bytes:
    """`params` in JSON for a message that `read_typed_call` accepted; raises `Malformed`.

    `metadata` is `_meta`: clientInfo and clientCapabilities there speak for the client.
    """
    request = REQUESTS[rpc].FromString(message)
    common = request.common
    meta = _DEFAULTS | struct_to_dict(common.metadata) | {f"{_META}protocolVersion": TYPED_VERSION}
    params = _own(rpc, request)
    if cursor is not None:
        params["cursor"] = cursor
    if common.input_responses:
        params["inputResponses"] = {key: input_response(one) for key, one in common.input_responses.items()}
    if common.HasField("request_state"):
        params["requestState"] = common.request_state
    return json.dumps(params | {"_meta": meta}, separators=(",", ":")).encode()


def _own(rpc: str, request: Any) -> dict[str, Any]:
    match rpc:
        case "CallTool":
            return {"name": request.request.name, "arguments": struct_to_dict(request.request.arguments)}
        case "ReadResource":
            return {"uri": request.uri}
        case "GetPrompt":
            return {"name": request.name, "arguments": dict(request.arguments)}
        case "Complete":
            return _completion(request)
    return {}


def _completion(request: pb.CompletionRequest) -> dict[str, Any]:
    params = {"ref": _reference(request), "argument": {"name": request.argument.name, "value": request.argument.value}}
    if request.HasField("context"):
        params["context"] = {"arguments": dict(request.context.arguments)}
    return params


def _reference(request: pb.CompletionRequest) -> dict[str, str]:
    if request.HasField("resource_reference"):
        return {"type": "ref/resource", "uri": request.resource_reference.uri}
    reference = request.prompt_reference
    titled = {"title": reference.title} if reference.title else {}
    return {"type": "ref/prompt", "name": reference.name} | titled
