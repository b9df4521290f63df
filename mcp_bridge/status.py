"""gRPC status codes as JSON-RPC errors: what an MCP application sees when a hop refuses or fails.

The client makes them of the status of a call, the bridge of a refused frame
of a pipelined session.
"""

from typing import Any, Final

import grpc

from secure_mcp_grpc.http_calls import JSON_RPC_CODES, OTHER_CODE

__all__ = ["CODES", "NO_RESPONSE", "error_of"]

CODES: Final[dict[grpc.StatusCode, int]] = {grpc.StatusCode[name]: code for name, code in JSON_RPC_CODES.items()}

_OF_CORE: Final = ("RST_STREAM", "Internal error from Core")
NO_RESPONSE: Final = "the stream ended without a response"
_BROKEN_OFF: Final = "the connection to the server broke off before it answered"


def error_of(code: grpc.StatusCode, details: str | None) -> dict[str, Any]:
    """The `error` member: `data.grpcStatus` names the code, the message is the sentence that came with it."""
    if code is grpc.StatusCode.INTERNAL and any(word in (details or "") for word in _OF_CORE):
        # No peer said so: gRPC core maps a stream that Envoy had to reset (its bridge died in mid-answer) to INTERNAL,
        # and a write to a stream that has just ended.
        code, details = grpc.StatusCode.UNAVAILABLE, _BROKEN_OFF
    message = details or f"the call failed with gRPC status {code.name}"
    return {"code": CODES.get(code, OTHER_CODE), "message": message, "data": {"grpcStatus": code.name}}
