"""Errors of MCP and of hops as `google.rpc.Status`, for callers that know gRPC and not JSON-RPC. Pure functions.

An MCP error has an `ErrorInfo` with reason MCP_ERROR and domain
modelcontextprotocol.io, its metadata the JSON-RPC `code` and the JSON of
`data`; a hop's has the name of its gRPC code and our domain.
"""

import json
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mcp_bridge import wire
from mcp_bridge.errors import HopError

__all__ = ["hop_error", "mcp_error"]

_MCP: Final = "modelcontextprotocol.io"
_OURS: Final = "secure-mcp-grpc"
_CODES: Final = {
    wire.METHOD_NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
    wire.INVALID_PARAMS: grpc.StatusCode.INVALID_ARGUMENT,
    wire.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    -32002: grpc.StatusCode.NOT_FOUND,
    -32020: grpc.StatusCode.INVALID_ARGUMENT,
    -32021: grpc.StatusCode.FAILED_PRECONDITION,
    -32022: grpc.StatusCode.FAILED_PRECONDITION,
    -32042: grpc.StatusCode.FAILED_PRECONDITION,
}
"""JSON-RPC error → gRPC status; UNKNOWN for the rest, for INTERNAL is a hop's."""
_MAX_CHARS: Final = 1500
"""Of a message and of data each: both travel in a header block, of which many clients take 8 KiB."""
_RETRY_S: Final = 1
"""When a hop that is unavailable may be worth another try: restarts take about as long."""


def mcp_error(error: Any) -> HopError:
    """An error answer of the MCP server, whatever it looks like."""
    members = error if isinstance(error, dict) else {}
    code, text = members.get("code"), members.get("message")
    code = code if isinstance(code, int) and abs(code) < 2**63 else 0
    status = _CODES.get(code, grpc.StatusCode.UNKNOWN)
    sentence = text if isinstance(text, str) else "the MCP server answered with an error"
    info = error_details_pb2.ErrorInfo(reason="MCP_ERROR", domain=_MCP, metadata={"code": str(code)})
    if len(sentence) > _MAX_CHARS:
        sentence, info.metadata["message_cut"] = f"{sentence[:_MAX_CHARS]}…", "true"
    details: list[Message] = [info]
    if members.get("data") is not None:
        data = json.dumps(members["data"], separators=(",", ":"))
        name = "data" if len(data) <= _MAX_CHARS else "data_dropped"
        info.metadata[name] = data if name == "data" else "true"
    if code == wire.INVALID_PARAMS:
        details.append(_bad_request(sentence))
    return HopError(status, sentence, _status(status, sentence, details))


def hop_error(error: HopError) -> HopError:
    """`error` with details, unless it has some; code and sentence stay."""
    if error.details:
        return error
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.name, domain=_OURS)]
    if error.code is grpc.StatusCode.UNAVAILABLE:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(_RETRY_S)
        details.append(retry)
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        details.append(_bad_request(error.sentence))
    return HopError(error.code, error.sentence, _status(error.code, error.sentence, details))


def _bad_request(sentence: str) -> Message:
    """Neither MCP nor we name the field; the sentence does."""
    request = error_details_pb2.BadRequest()
    request.field_violations.add(description=sentence[:200])
    bad: Message = request
    return bad


def _status(code: grpc.StatusCode, sentence: str, details: list[Message]) -> bytes:
    status = status_pb2.Status(code=code.value[0], message=sentence)
    for detail in details:
        status.details.add().Pack(detail)
    body: bytes = status.SerializeToString()
    return body
