"""What an MCP call asks for, read from the message itself.

authz_service reads the gRPC body here to decide, and mcp_bridge reads the
message here before it executes: one reading, one protobuf and one JSON
library, so that what is executed is what was authorized. Pure functions.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import quote

from google.protobuf.message import DecodeError

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = [
    "END_SESSION",
    "LISTEN",
    "REPLY",
    "SESSION",
    "STRICT_JSON",
    "TRANSPORT",
    "Malformed",
    "McpCall",
    "call_of_frame",
    "call_of_params",
    "check_keys",
    "check_name",
    "is_request_id",
    "name_of",
    "parse_json_object",
    "read_client_frame",
    "read_frame",
    "read_notification",
    "read_request",
    "read_transport_call",
    "session_call",
    "target",
]

TRANSPORT: Final = "/secure_mcp_grpc.v1.McpTransport/"
"""Path prefix of the full-fidelity service."""

LISTEN: Final = "grpc:listen"
REPLY: Final = "grpc:reply"
END_SESSION: Final = "grpc:end_session"
SESSION: Final = "grpc:session"
"""Methods in policy for the RPCs that carry no MCP method. No JSON-RPC method may contain a colon here."""

PROTOCOL_VERSION_META_KEY: Final = "io.modelcontextprotocol/protocolVersion"

_NAME_KEYS: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
_METHOD = re.compile(r"[A-Za-z0-9$_][A-Za-z0-9$_./-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9.-]{0,32}")
_SESSION = re.compile(r"[\x21-\x7e]{0,128}")
_ID = re.compile(rb'-?(?:0|[1-9][0-9]{0,18})|"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})){0,256}"')
_MAX_NAME_CHARS: Final = 2048
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Malformed(ValueError):
    """A message that no honest client sends. Its text is one sentence and fit for the peer."""


@dataclass(frozen=True, slots=True)
class McpCall:
    """One MCP request or notification, as policy sees it.

    `name` is params.name or params.uri ("" where the method has neither);
    `arguments` is params.arguments ({} where there are none).
    """

    method: str
    name: str
    arguments: Mapping[str, Any]
    protocol_version: str = ""
    session_id: str = ""

    @property
    def target(self) -> str:
        """See `target`."""
        return target(self.method, self.name)


def target(method: str, name: str) -> str:
    """Method and name as one printable ASCII header value: percent-encoded, separated by one space.

    Without a name it is the method alone, since no value may end in a space (RFC 9113, 8.2.1).
    """
    quoted = quote(method, safe="/$")
    return f"{quoted} {quote(name, safe='/:')}" if name else quoted


def read_frame(body: bytes) -> bytes:
    """The message of a body that is exactly one uncompressed gRPC frame.

    gRPC over HTTP/2, "Length-Prefixed-Message": one flag byte, four bytes of
    length, the message. Raises `Malformed` for anything else: a compressed,
    truncated or second frame could hide what the bridge would execute.
    """
    if len(body) < 5:
        raise Malformed("the body is not a complete gRPC message")
    if body[0] != 0:
        raise Malformed("compressed gRPC messages are not accepted")
    if int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise Malformed("the body must be exactly one gRPC message")
    return body[5:]


def read_transport_call(rpc: str, message: bytes) -> McpCall:
    """The call in `message` for an RPC of the full-fidelity service (`rpc` without the path's prefix).

    Raises `Malformed`, also for an RPC that does not exist.
    """
    try:
        match rpc:
            case "Call" | "Stream":
                return read_request(pb.Request.FromString(message))
            case "Notify":
                return read_notification(pb.Notification.FromString(message))
            case "Listen":
                return session_call(LISTEN, pb.ListenRequest.FromString(message).session_id)
            case "Reply":
                return session_call(REPLY, pb.ReplyRequest.FromString(message).session_id)
            case "EndSession":
                return session_call(END_SESSION, pb.EndSessionRequest.FromString(message).session_id)
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None
    raise Malformed("no such RPC")


def read_client_frame(message: bytes) -> McpCall:
    """The call in a `ClientFrame`; raises `Malformed`."""
    try:
        return call_of_frame(pb.ClientFrame.FromString(message))
    except DecodeError:
        raise Malformed("the gRPC message does not parse") from None


def call_of_frame(frame: pb.ClientFrame) -> McpCall:
    """The call in a frame of a pipelined session; raises `Malformed`, also for a frame that holds nothing."""
    match frame.WhichOneof("frame"):
        case "request":
            return read_request(frame.request)
        case "notification":
            return read_notification(frame.notification)
        case "reply":
            return session_call(REPLY, frame.reply.session_id)
    raise Malformed("a frame must hold a request, a notification or a reply")


def read_request(request: pb.Request) -> McpCall:
    """The call in a `Request`; raises `Malformed` for one that contradicts itself or is out of bounds."""
    if not is_request_id(request.id_json):
        raise Malformed("id_json must be a JSON string or integer")
    call = _read(request.method, request.protocol_version, request.session_id, request.params_json)
    if call.name != request.name:
        raise Malformed("name must mirror params.name, or params.uri for resources")
    return call


def is_request_id(id_json: bytes) -> bool:
    """Whether it is a JSON string or integer, and so an id that a response can be given under."""
    return _ID.fullmatch(id_json) is not None and _is_text(id_json)


def read_notification(notification: pb.Notification) -> McpCall:
    """The call in a `Notification`; raises `Malformed` as `read_request` does."""
    if not notification.method.startswith("notifications/"):
        raise Malformed("a notification's method must start with notifications/")
    return _read(notification.method, notification.protocol_version, notification.session_id, notification.params_json)


def name_of(method: str, params: Mapping[str, Any]) -> str:
    """What `params` names under `method`: a tool, a prompt or a resource URI; "" where it names nothing."""
    if method == "completion/complete":
        value = _completed(params.get("ref"))
    elif key := _NAME_KEYS.get(method):
        value = params.get(key)
    else:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"params of {method} must name what is asked for, as a string")
    return value


def _completed(reference: Any) -> Any:
    """What a completion's `ref` names: a prompt by `name` or a resource template by `uri`, never both."""
    if not isinstance(reference, dict):
        return ""
    if "name" in reference and "uri" in reference:
        raise Malformed("params.ref must have a name or a uri, not both")
    return reference.get("name", reference.get("uri", ""))


def parse_json_object(text: bytes) -> dict[str, Any]:
    """A JSON object in which no key appears twice, and no two keys differ in case only at its top or in its `_meta`.

    Two parsers may disagree on which of two equal keys counts, so a message
    with both is refused. Raises `Malformed`.
    """
    try:
        value = STRICT_JSON.decode(text.decode())
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed("params_json is not valid JSON") from None
    if not isinstance(value, dict):
        raise Malformed("params_json must be a JSON object")
    check_keys(value)
    return value


def check_keys(params: Mapping[str, Any]) -> None:
    """Raises `Malformed` where two keys at the top of `params`, or in its `_meta`, differ in case only."""
    for one in (params, params.get("_meta")):
        if isinstance(one, dict) and len({key.casefold() for key in one}) != len(one):
            raise Malformed("params_json has keys that differ in case only")


def _is_text(id_json: bytes) -> bool:
    """Whether it is UTF-8, also once its escapes are read: one half of a surrogate pair is not."""
    try:
        text = id_json.decode()
        if "\\u" in text:
            json.loads(text).encode()
    except ValueError:
        return False
    return True


def session_call(method: str, session_id: str) -> McpCall:
    """What concerns a session and is no MCP method, such as `grpc:listen`; raises `Malformed` without a session."""
    if not session_id or not _SESSION.fullmatch(session_id):
        raise Malformed("session_id must be visible ASCII")
    return McpCall(method, "", {}, session_id=session_id)


def _read(method: str, version: str, session_id: str, params_json: bytes) -> McpCall:
    params = parse_json_object(params_json) if params_json else {}
    return call_of_params(method, version, session_id, params)


def call_of_params(method: str, version: str, session_id: str, params: Mapping[str, Any]) -> McpCall:
    """The call of a request or notification; raises `Malformed`. `params` were parsed by `STRICT_JSON`."""
    if not _METHOD.fullmatch(method):
        raise Malformed("method must be a short name of letters, digits and / . _ - $")
    if not _VERSION.fullmatch(version):
        raise Malformed("protocol_version must be a short version name")
    if not _SESSION.fullmatch(session_id):
        raise Malformed("session_id must be visible ASCII")
    _check_version(version, params)
    name = name_of(method, params)
    check_name(name)
    arguments = params.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Malformed("params.arguments must be a JSON object")
    return McpCall(method, name, arguments, version, session_id)


def _check_version(version: str, params: Mapping[str, Any]) -> None:
    """2026-07-28: the version a request declares in `_meta` is the one its transport mirrors."""
    meta = params.get("_meta")
    declared = meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
    if declared is not None and declared != version:
        raise Malformed("protocol_version must mirror the version in params._meta")


def check_name(name: str) -> None:
    if len(name) > _MAX_NAME_CHARS:
        raise Malformed(f"names are limited to {_MAX_NAME_CHARS} characters")
    if name.isascii() and name.isprintable():
        return
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI:
            raise Malformed("names must not contain control, surrogate or bidirectional characters")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Malformed("params_json has a key twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON")


STRICT_JSON: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""Refuses, with `ValueError`, what two parsers may read differently: a key that stands twice, NaN, infinities."""
