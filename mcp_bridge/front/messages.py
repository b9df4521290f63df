"""JSON-RPC messages from clients, read once and strictly. Pure.

Two parsers may read a message with a key that stands twice in two ways, so it
is refused here, before anything is executed or passed on. Values that only
the MCP server reads stay the bytes that the client wrote.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.patterns import declared_version, expects_notifications, meta_of, name_or_nothing
from secure_mcp_grpc import calls

__all__ = [
    "PARSE_ERROR",
    "Invalid",
    "Message",
    "Notification",
    "Request",
    "Response",
    "agreed_version",
    "error",
    "id_of",
    "read_message",
]

PARSE_ERROR: Final = -32700
_NULL: Final = b"null"
_ID = rb'(-?(?:0|[1-9][0-9]{0,18})|"(?:[^"\\\x00-\x1f]|\\.){0,256}")'
_ID_FIRST = re.compile(
    rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?(?:"method"\s*:\s*"[^"\\]*"\s*,\s*)?"id"\s*:\s*' + _ID + rb"\s*,"
)
_ID_LAST = re.compile(rb'[}"]\s*,\s*"id"\s*:\s*' + _ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


@dataclass(frozen=True, slots=True)
class Request:
    """`params_json` is empty where params are absent; `declared` is the version in `_meta`, None without one."""

    method: str
    name: str
    id_json: bytes
    params_json: bytes
    params: Mapping[str, Any]
    meta: Mapping[str, Any]
    declared: Any

    @property
    def is_modern(self) -> bool:
        """2026-07-28: a request that states its version is stateless. `initialize` exists in earlier versions only."""
        return self.declared is not None and self.method != "initialize"

    @property
    def expects_notifications(self) -> bool:
        return expects_notifications(self.method, self.meta)


@dataclass(frozen=True, slots=True)
class Notification:
    method: str
    params_json: bytes
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """To a request of the server."""

    id_json: bytes
    message: bytes


@dataclass(frozen=True, slots=True)
class Invalid:
    """No message: what to answer, and under which id."""

    code: int
    sentence: str
    id_json: bytes = _NULL


Message = Request | Notification | Response | Invalid


def read_message(text: bytes) -> Message:
    """The one JSON-RPC message in `text`; batches are refused (they left MCP in 2025-06-18)."""
    try:
        members = calls.STRICT_JSON.decode(text.decode())
    except calls.Malformed:
        return Invalid(wire.INVALID_REQUEST, "a key stands twice in the message, or a number is not JSON")
    except (ValueError, RecursionError):
        return Invalid(PARSE_ERROR, "the message is not JSON")
    if not isinstance(members, dict):
        return Invalid(wire.INVALID_REQUEST, "a message must be a single JSON-RPC object")
    try:
        raw = wire.object_of(text)
    except wire.NotJson:
        return Invalid(PARSE_ERROR, "the message is not JSON")
    parts = {key: bytes(value) for key, value in raw.items()}
    id_json = parts.get("id", b"")
    answer_to = id_json if calls.is_request_id(id_json) else _NULL
    if sentence := _flaw(members, id_json, answer_to):
        return Invalid(wire.INVALID_REQUEST, sentence, answer_to)
    if "method" not in members:
        return Response(id_json, text)
    params = members.get("params", {})
    if not isinstance(params, dict):
        return Invalid(wire.INVALID_PARAMS, "params must be an object", answer_to)
    if "id" not in members:
        return Notification(members["method"], parts.get("params", b""), params)
    meta = meta_of(params)
    name = name_or_nothing(members["method"], params)
    name = name if _is_unicode(name) else ""  # which is then not the name in params: authz_service refuses it
    return Request(members["method"], name, id_json, parts.get("params", b""), params, meta, declared_version(meta))


def _flaw(members: Mapping[str, Any], id_json: bytes, answer_to: bytes) -> str:
    """What is wrong with the envelope, in a sentence; "" for nothing."""
    if len({key.casefold() for key in members}) != len(members):
        return "the message has keys that differ in case only"
    if members.get("jsonrpc") != "2.0":
        return 'jsonrpc must be "2.0"'
    if id_json and answer_to == _NULL:
        return "id must be an integer or a string of at most 256 characters"
    if "method" in members:
        method = members["method"]
        return "" if isinstance(method, str) and _is_unicode(method) else "method must be a string"
    if not id_json or ("result" in members) == ("error" in members):
        return "a message must have a method, or an id and either a result or an error"
    return ""


def _is_unicode(text: str) -> bool:
    """JSON can write halves of surrogate pairs (RFC 8259, 8.2), which no UTF-8 can."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def error(id_json: bytes, code: int, sentence: str) -> bytes:
    """A complete JSON-RPC error response."""
    return wire.error(id_json or _NULL, code, sentence)


def id_of(head: bytes, tail: bytes) -> bytes:
    """The id of a message too large to be read, from its first and last bytes; `null` where they do not tell."""
    found = _ID_FIRST.match(head) or _ID_LAST.search(tail)
    return found.group(1) if found and calls.is_request_id(found.group(1)) else _NULL


class _Agreed(msgspec.Struct, frozen=True, gc=False):
    version: str = msgspec.field(name="protocolVersion", default="")


class _Initialized(msgspec.Struct, frozen=True, gc=False):
    result: _Agreed = _Agreed()


_initialized = msgspec.json.Decoder(_Initialized)


def agreed_version(response: bytes) -> str:
    """`result.protocolVersion` of the answer to `initialize`; "" where there is none of its form."""
    try:
        version = _initialized.decode(response).result.version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return version if re.fullmatch(r"[A-Za-z0-9.-]{1,32}", version) else ""
