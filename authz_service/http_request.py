"""What is asked over plain streamable HTTP: the same decision for clients that speak no gRPC.

Between Envoy, which holds the whole request back, and `secure_mcp_grpc.http_calls`,
which mcp_bridge reads it with, too. Envoy's own MCP filter has read the body
before: where it saw another method or name than we do, the request is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Self

from pydantic import StringConstraints

from authz_service.case import Case
from authz_service.verdict import Code, Deny
from secure_mcp_grpc.calls import LISTEN, REPLY, Malformed, McpCall
from secure_mcp_grpc.headers import MCP_FILTER_NAMESPACE
from secure_mcp_grpc.http_calls import PATH, Unfit, id_in, read_http_call
from secure_mcp_grpc.settings import CommonSettings

if TYPE_CHECKING:
    from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext

__all__ = ["PlainHttp", "PlainHttpSettings", "is_plain", "reply_to", "stays_open"]

_STRANGERS_BODY_BYTES: Final = 64 * 1024
"""So much is read for the id of a request whose sender is not known."""
_ONLY_THE_BEGINNING: Final = "mcp_body_too_large"
"""The filter reads the first kilobytes; what it found there counts."""
_METHOD_OF_REPLIES: Final = "__jsonrpc_response"
_NAMED: Final = frozenset({"tools/call", "prompts/get", "resources/read", "resources/subscribe"})
"""Where the filter looks for a name or a URI."""
_FOREIGN: Final = Deny(
    Code.PERMISSION_DENIED, "origin_not_allowed", "requests of web pages (Origin header) are not accepted here"
)


Origin = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://[^/,\s]+$")]


class PlainHttpSettings(CommonSettings):
    """Who may speak plain HTTP."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    allowed_origins: tuple[Origin, ...] = ()
    """Values of the Origin header, such as `https://app.example`, whose requests to `/mcp` (`streamable_http`) are
    judged like others; without any, a request with an Origin header is refused. There are no CORS headers."""


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """Reads requests to the MCP endpoint."""

    allowed_origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: PlainHttpSettings) -> Self | None:
        """None unless plain HTTP is served."""
        return cls(frozenset(settings.allowed_origins)) if settings.streamable_http else None

    def is_asked(self, path: str) -> bool:
        return _is_endpoint(path)

    def read(self, http: "AttributeContext.HttpRequest", max_body_bytes: int) -> McpCall | Deny:
        """The call in `http`, or why it is none."""
        headers, body = http.headers, http.raw_body
        if "origin" in headers and headers["origin"] not in self.allowed_origins:
            return _FOREIGN
        # Envoy marks a body whose last piece crossed its own limit, and hands over only the beginning.
        cut = headers.get("x-envoy-auth-partial-body", "false") != "false"
        if cut or len(body) > max_body_bytes:
            return Deny(Code.RESOURCE_EXHAUSTED, "too_large", f"requests are limited to {max_body_bytes} bytes")
        try:
            _check_envelope(http, headers, len(body))
            call = read_http_call(http.method, headers, body).call
        except Unfit as error:
            return Deny(Code.INVALID_ARGUMENT, "malformed", str(error), json_rpc_code=error.code)
        except Malformed as error:
            return Deny(Code.INVALID_ARGUMENT, "malformed", str(error))
        return call

    def second_opinion(self, case: Case, call: McpCall) -> Deny | None:
        """A refusal where Envoy's filter saw another call in the message, or none."""
        if case.attributes is None or not is_plain(case):
            return None
        known = case.attributes.metadata_context.filter_metadata
        if MCP_FILTER_NAMESPACE not in known or case.attributes.request.http.method != "POST":
            return None
        read = known[MCP_FILTER_NAMESPACE].fields
        method, params = read["method"].string_value, read["params"].struct_value.fields
        named = {params[key].string_value for key in ("name", "uri") if key in params}
        whole = read["passthrough_reason"].string_value in ("", _ONLY_THE_BEGINNING)
        agreed = method in ("", _METHOD_OF_REPLIES if call.method == REPLY else call.method)
        if whole and agreed and (call.method not in _NAMED or named <= {call.name}):
            return None
        return Deny(Code.INVALID_ARGUMENT, "malformed", "the message can be read in two ways")


def is_plain(case: Case) -> bool:
    """Whether it came to the endpoint of plain HTTP."""
    return case.attributes is not None and _is_endpoint(case.attributes.request.http.path)


def reply_to(case: Case) -> bytes | None:
    """The JSON-RPC id (JSON, perhaps `null`) that a refusal of `case` answers; None for a request over gRPC."""
    if case.attributes is None or not is_plain(case):
        return None
    body = case.attributes.request.http.raw_body
    if case.call is None and len(body) > _STRANGERS_BODY_BYTES:
        return b"null"
    return id_in(body)


def stays_open(case: Case) -> str:
    """The RPC of gRPC that this is over plain HTTP, if it can stay open: any request may be answered by a stream."""
    if case.attributes is None or case.call is None or not is_plain(case):
        return ""
    method = case.call.method
    if method == LISTEN:
        return "Listen"
    is_request = case.attributes.request.http.method == "POST" and method != REPLY
    return "Stream" if is_request and not method.startswith("notifications/") else ""


def _is_endpoint(path: str) -> bool:
    return path.partition("?")[0] == PATH


def _check_envelope(http: "AttributeContext.HttpRequest", headers: Mapping[str, str], size: int) -> None:
    """Raises `Malformed` unless Envoy saw the whole body, of `size` bytes, of a request to the endpoint itself."""
    if http.path != PATH or http.query or http.fragment or http.body:
        raise Unfit(f"the MCP endpoint is {PATH}, without a query")
    length = headers.get("content-length")
    if http.size != size or (length is not None and length != str(size)):
        raise Unfit("the request's length contradicts itself")
