"""gRPC status codes as JSON-RPC errors, where clients look for them."""

import grpc
import msgspec

from mcp_bridge.status import CODES, NO_RESPONSE, error_of

__all__ = ["CODES", "NO_RESPONSE", "error_message", "error_of"]


def error_message(id_json: bytes, code: grpc.StatusCode, details: str | None) -> bytes:
    """The complete JSON-RPC response with `error_of` in it."""
    body = msgspec.json.encode(error_of(code, details))
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + body + b"}"
