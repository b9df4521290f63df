"""What an MCP client asks for over plain streamable HTTP, read from the request itself.

authz_service reads the request here to decide, and mcp_bridge compares what it
is about to execute with that decision: as `calls` for gRPC. Pure functions.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from secure_mcp_grpc import calls
from secure_mcp_grpc.calls import Malformed, McpCall

__all__ = [
    "HEADER_MISMATCH",
    "INVALID_REQUEST",
    "JSON_RPC_CODES",
    "OTHER_CODE",
    "PATH",
    "HttpCall",
    "Unfit",
    "decode_mirror",
    "id_in",
    "read_http_call",
    "refusal_body",
]

PATH: Final = "/mcp"
"""The one endpoint of the MCP specification's "Streamable HTTP"."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020
"""2026-07-28: a header that mirrors the body says something else."""

JSON_RPC_CODES: Final[Mapping[str, int]] = {
    "UNAUTHENTICATED": -32010,
    "PERMISSION_DENIED": -32011,
    "RESOURCE_EXHAUSTED": -32012,
    "UNAVAILABLE": -32013,
    "DEADLINE_EXCEEDED": -32014,
    "NOT_FOUND": -32015,
    "INVALID_ARGUMENT": -32016,
    "UNIMPLEMENTED": -32017,
    "INTERNAL": -32018,
}
"""Name of a gRPC status → JSON-RPC error code of a hop that refuses or fails, wherever one is told to an MCP client.
In the band that JSON-RPC leaves to implementations and MCP to nobody (-32010 to -32019)."""
OTHER_CODE: Final = -32019
"""For every other gRPC status."""

_JSON = re.compile(r"application/json(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")
_VERSION: Final = "mcp-protocol-version"
_SESSION_ID: Final = "mcp-session-id"
_ONCE: Final = (_VERSION, _SESSION_ID, "mcp-method", "content-type")


class Unfit(Malformed):
    """No MCP message; `code` is the JSON-RPC error that says so."""

    def __init__(self, sentence: str, code: int = INVALID_REQUEST) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class HttpCall:
    """`is_request`: the client waits for a response, which may be a stream."""

    call: McpCall
    is_request: bool = False


def read_http_call(method: str, headers: Mapping[str, str], body: bytes) -> HttpCall:
    """The call in an HTTP request; header names are in lower case, values that stood twice joined by a comma.

    POST brings a request, a notification or a reply; GET listens to a session
    and DELETE ends it. Raises `Malformed`, `Unfit` where MCP has a code for it.
    """
    for name in _ONCE:
        if "," in headers.get(name, ""):
            raise Unfit(f"the {name} header stands more than once")
    if "content-encoding" in headers:
        raise Unfit("compressed requests are not accepted")
    session_id = headers.get(_SESSION_ID, "")
    if method == "POST":
        if not _JSON.fullmatch(headers.get("content-type", "")):
            raise Unfit("Content-Type must be application/json")
        return _posted(_members(body), headers, session_id)
    if body:
        raise Unfit(f"{method} has no body here")
    if not session_id:
        raise Unfit("the Mcp-Session-Id header must name the session: send initialize first")
    match method:
        case "GET":
            return HttpCall(calls.session_call(calls.LISTEN, session_id))
        case "DELETE":
            return HttpCall(calls.session_call(calls.END_SESSION, session_id))
    raise Unfit("this HTTP method is not served here")


def decode_mirror(value: str | None) -> str | None:
    """A header's text out of its `=?base64?…?=` form; None for one that is not well-formed.

    2026-07-28, "Streamable HTTP", "Value Encoding".
    """
    if value is None or not (found := _ENCODED.fullmatch(value)):
        return value
    try:
        decoded = base64.b64decode(found.group(1), validate=True)
        return decoded.decode() if base64.b64encode(decoded).decode() == found.group(1) else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def id_in(body: bytes) -> bytes:
    """The id of the request in `body`, as JSON; `null` where there is none that an error could be given under."""
    try:
        members = calls.STRICT_JSON.decode(body.decode())
    except (ValueError, RecursionError):
        return b"null"
    if not isinstance(members, dict) or "method" not in members:
        return b"null"
    return _id_json(members.get("id")) or b"null"


def refusal_body(id_json: bytes, sentence: str, grpc_status: str, code: int = 0) -> bytes:
    """A JSON-RPC error: `data.grpcStatus` names the status; `code` is that status's unless MCP has one."""
    error = {
        "code": code or JSON_RPC_CODES.get(grpc_status, OTHER_CODE),
        "message": sentence,
        "data": {"grpcStatus": grpc_status},
    }
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + json.dumps(error, separators=(",", ":")).encode() + b"}"


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = calls.STRICT_JSON.decode(body.decode())
    except Malformed:
        raise Unfit("a key stands twice in the message, or a number is not JSON") from None
    except (ValueError, RecursionError):
        raise Unfit("the message is not JSON", PARSE_ERROR) from None
    if not isinstance(members, dict):
        raise Unfit("a message must be a single JSON-RPC object")
    if len({key.casefold() for key in members}) != len(members):
        raise Unfit("the message has keys that differ in case only")
    if members.get("jsonrpc") != "2.0":
        raise Unfit('jsonrpc must be "2.0"')
    if "id" in members and not _id_json(members["id"]):
        raise Unfit("id must be an integer or a string of at most 256 characters")
    return members


def _posted(members: Mapping[str, Any], headers: Mapping[str, str], session_id: str) -> HttpCall:
    if "method" not in members:
        if "id" not in members or ("result" in members) == ("error" in members):
            raise Unfit("a message must have a method, or an id and either a result or an error")
        _check_mirror(headers, "mcp-method", "")
        return HttpCall(calls.session_call(calls.REPLY, session_id))
    if "result" in members or "error" in members:
        raise Unfit("a message with a method has neither a result nor an error")
    method, params = members["method"], members.get("params", {})
    if not isinstance(method, str):
        raise Unfit("method must be a string")
    if not isinstance(params, dict):
        raise Unfit("params must be an object", INVALID_PARAMS)
    is_request = "id" in members
    if method.startswith("notifications/") == is_request:
        raise Unfit("a method that starts with notifications/ is a notification's, and has no id; others have one")
    meta = params.get("_meta")
    declared = meta.get(calls.PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
    version = headers.get(_VERSION, "")
    if declared is not None and declared != version:
        raise Unfit("the MCP-Protocol-Version header is not the version in params._meta", HEADER_MISMATCH)
    try:
        calls.check_keys(params)
        call = calls.call_of_params(method, version, session_id, params)
    except Malformed as error:
        raise Unfit(str(error).replace("params_json", "params"), INVALID_PARAMS) from None
    _check_mirror(headers, "mcp-method", method)
    _check_mirror(headers, "mcp-name", call.name)
    return HttpCall(call, is_request)


def _check_mirror(headers: Mapping[str, str], name: str, said: str) -> None:
    """Mirrors are asked for by mcp_bridge, which knows the era; one that is there must not lie."""
    if name in headers and decode_mirror(headers[name]) != said:
        raise Unfit(f"the {name} header is not what the body says", HEADER_MISMATCH)


def _id_json(value: Any) -> bytes:
    """A JSON-RPC id as JSON; empty for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return b""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return text if calls.is_request_id(text) else b""
