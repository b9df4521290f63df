"""What is asked: the MCP call in the body of the gRPC request that Envoy holds back.

The body is read with the same code as mcp_bridge reads it (`calls`,
`typed_calls`), and anything that could make two readers disagree is refused:
query strings, partial or compressed bodies, several frames, contradicting
lengths.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from authz_service.http_request import PlainHttp
from authz_service.verdict import Code, Deny
from secure_mcp_grpc import calls, typed_calls
from secure_mcp_grpc.calls import Malformed, McpCall

if TYPE_CHECKING:
    from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext

__all__ = ["SESSION_PATH", "read_call"]

_READERS: Final[dict[str, Callable[[str, bytes], McpCall]]] = {
    calls.TRANSPORT: calls.read_transport_call,
    typed_calls.TYPED: typed_calls.read_typed_call,
}
SESSION_PATH: Final = f"{calls.TRANSPORT}Session"
_CONTENT_TYPES: Final = ("application/grpc", "application/grpc+proto")


def read_call(
    http: "AttributeContext.HttpRequest", max_body_bytes: int, plain: PlainHttp | None = None
) -> McpCall | Deny:
    """The call in `http`, or why it is none. `plain` reads what comes as plain MCP over HTTP, where that is served."""
    path, body, headers = http.path, http.raw_body, http.headers
    if plain is not None and plain.is_asked(path):
        return plain.read(http, max_body_bytes)
    if path == SESSION_PATH:
        return _session(http)
    service, _, rpc = path.rpartition("/")
    reader = _READERS.get(f"{service}/")
    if reader is None or not rpc.isalpha():
        return _no_such_path(path)
    # Envoy marks a body whose last piece crossed its own limit, and hands over only the beginning.
    cut = headers.get("x-envoy-auth-partial-body", "false") != "false"
    if cut or len(body) > max_body_bytes:
        return Deny(Code.RESOURCE_EXHAUSTED, "too_large", f"requests are limited to {max_body_bytes} bytes")
    try:
        _check_envelope(http, headers, len(body))
        return reader(rpc, calls.read_frame(body))
    except Malformed as error:
        return Deny(Code.INVALID_ARGUMENT, "malformed", str(error))


def _session(http: "AttributeContext.HttpRequest") -> McpCall | Deny:
    """Opening a pipelined session, before its first frame: Envoy holds back nothing of a request without an end."""
    if http.method != "POST" or http.headers.get("content-type") not in _CONTENT_TYPES or http.query or http.fragment:
        return Deny(Code.INVALID_ARGUMENT, "malformed", "this is not a gRPC request")
    return McpCall(calls.SESSION, "", {})


def _no_such_path(path: str) -> Deny:
    if "?" in path or "#" in path or "%" in path:
        return Deny(Code.INVALID_ARGUMENT, "malformed", "the path must be a gRPC method, without query or escapes")
    return Deny(Code.PERMISSION_DENIED, "unknown_path", "this gRPC method is not open here")


def _check_envelope(http: "AttributeContext.HttpRequest", headers: Mapping[str, str], size: int) -> None:
    """Raises `Malformed` unless Envoy saw the whole body, of `size` bytes, of an ordinary unary gRPC request."""
    if http.method != "POST" or headers.get("content-type") not in _CONTENT_TYPES:
        raise Malformed("this is not a gRPC request")
    if http.query or http.fragment or http.body:
        raise Malformed("the request has parts that gRPC does not have")
    length = headers.get("content-length")
    if http.size != size or (length is not None and length != str(size)):
        raise Malformed("the request's length contradicts itself")
