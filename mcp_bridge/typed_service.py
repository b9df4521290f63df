"""The gRPC service `model_context_protocol.Mcp` (typed, for stubs in any language), from Envoy to the executor.

Each RPC becomes stateless 2026-07-28 requests to the upstream; pages of lists
are drained. An MCP error becomes a gRPC status with `google.rpc` details.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2 as messages

from mcp_bridge import typed_json, wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange
from mcp_bridge.execute import Executor
from mcp_bridge.listing import HIDDEN
from mcp_bridge.serving import Call, Context, Routes
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.typed_calls import TYPED, read_typed_call, struct_to_dict

__all__ = ["TypedService"]

_VERSION: Final = "2026-07-28"
_MAX_PAGES: Final = 100
_ENVELOPE: Final = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "secure-mcp-grpc-typed", "version": "0.1.0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_STATUS: Final = {
    wire.METHOD_NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
    wire.INVALID_PARAMS: grpc.StatusCode.INVALID_ARGUMENT,
    wire.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    -32002: grpc.StatusCode.NOT_FOUND,
}
"""JSON-RPC error → gRPC status; UNKNOWN for the rest."""

_REQUESTS: Final[dict[str, Any]] = {
    "ListTools": messages.ListToolsRequest,
    "ListResources": messages.ListResourcesRequest,
    "ListPrompts": messages.ListPromptsRequest,
    "CallTool": messages.CallToolRequest,
    "ReadResource": messages.ReadResourceRequest,
    "GetPrompt": messages.GetPromptRequest,
}
_LISTS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "ListTools": typed_json.list_tools,
    "ListResources": typed_json.list_resources,
    "ListPrompts": typed_json.list_prompts,
}
_SINGLE: Final[dict[str, Callable[[Any], Any]]] = {
    "CallTool": typed_json.call_tool,
    "ReadResource": typed_json.read_resource,
    "GetPrompt": typed_json.get_prompt,
}
_LATER: Final = ("ListResourceTemplates", "Complete")


class McpFailure(Exception):
    """The upstream answered with a JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__()
        self.error = error


class TypedService:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def serve(self, rpc: str, message: bytes, context: Context) -> bytes:
        """One RPC of the service. Every page of a list is a request of its own, authorized by the same decision."""
        try:
            if rpc in _SINGLE:
                result, server = await self._ask(rpc, message, context, None)
                response = _SINGLE[rpc](result)
            else:
                pages, server = await self._drain(rpc, message, context)
                response = _LISTS[rpc](pages)
        except McpFailure as failure:
            raise _mcp_error(failure.error) from None
        except (typed_json.CannotCarry, TypeError, AttributeError, ValueError) as error:
            sentence = str(error) if isinstance(error, typed_json.CannotCarry) else "the answer is not of MCP's form"
            raise HopError(grpc.StatusCode.INTERNAL, sentence) from None
        context.name_server(server)
        body: bytes = response.SerializeToString()
        return body

    async def _drain(self, rpc: str, message: bytes, context: Context) -> tuple[list[Any], str]:
        pages: list[Any] = []
        cursor: str | None = None
        while len(pages) < _MAX_PAGES:
            page, server = await self._ask(rpc, message, context, cursor)
            pages.append(page)
            cursor = page.get("nextCursor")
            if cursor is None:
                _gather_hidden(pages)
                return pages, server
        raise HopError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the list has more than {_MAX_PAGES} pages")

    async def _ask(self, rpc: str, message: bytes, context: Context, cursor: str | None) -> tuple[Any, str]:
        answer, visit, _ = await self._executor.request(
            rpc, context.metadata, len(message), lambda: _exchange(rpc, message, cursor)
        )
        if isinstance(answer, HopError):
            raise answer
        decoded = _decode(answer)
        if "error" in decoded:
            raise McpFailure(decoded["error"])
        return decoded["result"], visit.server

    def routes(self) -> Routes:
        calls = {f"{TYPED}{rpc}": self._handler(rpc) for rpc in _REQUESTS}
        return Routes(calls=calls | {f"{TYPED}{rpc}": _not_served for rpc in _LATER})

    def _handler(self, rpc: str) -> Call:
        async def serve(message: bytes, context: Context) -> bytes:
            return await self.serve(rpc, message, context)

        return serve


async def _not_served(message: bytes, context: Context) -> bytes:
    raise HopError(grpc.StatusCode.UNIMPLEMENTED, "this RPC is not served yet; use McpTransport")


def _exchange(rpc: str, message: bytes, cursor: str | None) -> Exchange:
    call = replace(read_typed_call(rpc, message), protocol_version=_VERSION)
    common = _REQUESTS[rpc].FromString(message).common
    if common.input_responses or common.HasField("resume_data") or common.HasField("request_state"):
        raise Malformed("input responses are not served here yet; use McpTransport")
    meta = struct_to_dict(common.metadata) | _ENVELOPE
    params = json.dumps(_params(call, cursor) | {"_meta": meta}, separators=(",", ":")).encode()
    return Exchange(call, b"1", params, wire.read_meta(params))


def _params(call: McpCall, cursor: str | None) -> dict[str, Any]:
    if call.method == "resources/read":
        return {"uri": call.name}
    if call.name:
        return {"name": call.name, "arguments": dict(call.arguments)}
    return {"cursor": cursor} if cursor is not None else {}


def _gather_hidden(pages: list[Any]) -> None:
    """The response has one `_meta`, the first page's: reasons of all pages go there."""
    told = [one for page in pages for one in (page.get("_meta") or {}).get(HIDDEN, ())]
    if told:
        pages[0]["_meta"] = (pages[0].get("_meta") or {}) | {HIDDEN: told}


def _decode(answer: bytes) -> Any:
    try:
        return msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise HopError(grpc.StatusCode.INTERNAL, "the answer is not of MCP's form") from None


def _mcp_error(error: Any) -> HopError:
    code = error.get("code") if isinstance(error, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    status_code = _STATUS.get(code if isinstance(code, int) else 0, grpc.StatusCode.UNKNOWN)
    message = text if isinstance(text, str) else "the MCP server answered with an error"
    info = error_details_pb2.ErrorInfo(reason="MCP_ERROR", domain="modelcontextprotocol.io")
    info.metadata["code"] = str(code)
    if isinstance(error, dict) and "data" in error:
        info.metadata["data"] = json.dumps(error["data"])
    status = status_pb2.Status(code=status_code.value[0], message=message)
    status.details.add().Pack(info)
    return HopError(status_code, message, status.SerializeToString())
