"""JSON-RPC messages as bytes: read what has to be read, splice what has to change, leave the rest as it was written.

Between the gRPC services and the upstreams. Values are never decoded and
encoded again, so big integers, key order inside values and escapes survive.
Pure functions.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcp_bridge.capture.trace import CORRELATION_META
from mcp_bridge.raw_json import NotJson, check_utf8, members

__all__ = [
    "EXPLAIN",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "Envelope",
    "Meta",
    "NotJson",
    "Summary",
    "error",
    "is_response",
    "notification",
    "object_of",
    "object_text",
    "outcome_of",
    "read_answer",
    "read_envelope",
    "read_meta",
    "replace_meta",
    "request",
    "response_with_id",
    "result",
    "with_params",
]

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
"""Codes of JSON-RPC 2.0, section 5.1."""

PROGRESS_TOKEN: Final = "progressToken"  # noqa: S105 - a key of the protocol
SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
EXPLAIN: Final = "secure-mcp-grpc/explain"
"""Key in `params._meta` of a list request: `true` asks why what is hidden is hidden."""
_ABSENT = Raw(b"")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One JSON-RPC message, its values unread. An absent member is empty bytes."""

    method: str = ""
    id: Raw = _ABSENT
    params: Raw = _ABSENT
    result: Raw = _ABSENT
    error: Raw = _ABSENT


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What the bridge reads of `params._meta`; empty bytes where absent."""

    progress_token: Raw = msgspec.field(name=PROGRESS_TOKEN, default=_ABSENT)
    subscription_id: Raw = msgspec.field(name=SUBSCRIPTION_ID, default=_ABSENT)
    protocol_version: Raw = msgspec.field(name="io.modelcontextprotocol/protocolVersion", default=_ABSENT)
    explain: Raw = msgspec.field(name=EXPLAIN, default=_ABSENT)
    log_level: Raw = msgspec.field(name="io.modelcontextprotocol/logLevel", default=_ABSENT)
    traceparent: Any = None
    tracestate: Any = None
    correlation_id: Any = msgspec.field(name=CORRELATION_META, default=None)

    @property
    def is_modern(self) -> bool:
        """2026-07-28, "Per-request protocol fields": the version in `_meta` is what makes a request stateless."""
        return bool(bytes(self.protocol_version))

    @property
    def wants_explanation(self) -> bool:
        return bytes(self.explain) == b"true"


class _Params(msgspec.Struct, frozen=True, gc=False):
    meta: Meta | None = msgspec.field(name="_meta", default=None)


class _ErrorCode(msgspec.Struct, frozen=True, gc=False):
    code: int = 0


class _Result(msgspec.Struct, frozen=True, gc=False):
    is_error: bool = msgspec.field(name="isError", default=False)


class Summary(msgspec.Struct, frozen=True, gc=False):
    """How a JSON-RPC response ended: `ok`, `tool_error` (isError) or `mcp_error`, with the error's code."""

    outcome: str
    error_code: int = 0


_envelope = msgspec.json.Decoder(Envelope)
_params = msgspec.json.Decoder(_Params)
_error_code = msgspec.json.Decoder(_ErrorCode)
_result_flags = msgspec.json.Decoder(_Result)
_raw_object = msgspec.json.Decoder(dict[str, Raw])
_NO_META = Meta()
_META_FIELDS = msgspec.structs.fields(Meta)


def read_envelope(message: bytes) -> Envelope:
    """Raises `NotJson` for anything but one JSON object of JSON-RPC's shape."""
    try:
        return _envelope.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _envelope_of(members(message))


def read_answer(message: bytes) -> Envelope:
    """What an MCP server sent, read strictly: `read_envelope`, and `NotJson` also for what parsers read differently.

    That is: bytes that are not UTF-8, and keys that stand twice or differ in
    case only, in the message itself, in its result or params, and in their `_meta`.
    """
    check_utf8(message)
    envelope = _envelope_of(members(message))
    for body in (envelope.result, envelope.params):
        if (found := _members_if_object(body)) and "_meta" in found:
            _members_if_object(found["_meta"])
    return envelope


def _members_if_object(value: Raw) -> Mapping[str, Raw]:
    text = bytes(value)
    return members(text) if text.startswith(b"{") else {}


def _envelope_of(found: Mapping[str, Raw]) -> Envelope:
    try:
        method = msgspec.json.decode(found["method"], type=str) if "method" in found else ""
    except msgspec.MsgspecError:
        raise NotJson from None
    values = {key: found[key] for key in ("id", "params", "result", "error") if key in found}
    return Envelope(method, **values)


def is_response(envelope: Envelope) -> bool:
    return not envelope.method and bool(bytes(envelope.result) or bytes(envelope.error))


def read_meta(params: bytes) -> Meta:
    """`params._meta`, all absent where there is none or it is not of its form (the upstream will say so)."""
    if not params:
        return _NO_META
    try:
        return _params.decode(params).meta or _NO_META
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _meta_of(params)


def _meta_of(params: bytes) -> Meta:
    try:
        found = members(bytes(members(params)["_meta"]))
    except (NotJson, KeyError):
        return _NO_META
    return Meta(**{one.name: found[one.encode_name] for one in _META_FIELDS if one.encode_name in found})


def object_of(text: bytes) -> dict[str, Raw]:
    """The members of a JSON object, values unread; raises `NotJson`."""
    try:
        return _raw_object.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return members(text)


def replace_meta(params: bytes, changes: Mapping[str, bytes]) -> bytes:
    """`params` with members of its `_meta` replaced (never added); every other value byte for byte as it was."""
    members = object_of(params)
    meta = object_of(bytes(members["_meta"]))
    members["_meta"] = Raw(_encode(meta | {key: Raw(value) for key, value in changes.items() if key in meta}))
    return _encode(members)


def with_params(params: bytes, changes: Mapping[str, bytes]) -> bytes:
    """`params` with top-level members set; every other value byte for byte as it was."""
    return _encode((object_of(params) if params else {}) | {key: Raw(value) for key, value in changes.items()})


def object_text(found: Mapping[str, Raw]) -> bytes:
    """The object of `found`, values byte for byte."""
    return _encode(found)


def request(method: str, id_json: bytes, params: bytes) -> bytes:
    head = b'{"jsonrpc":"2.0","id":' + id_json + b',"method":' + msgspec.json.encode(method)
    return head + b',"params":' + params + b"}" if params else head + b"}"


def notification(method: str, params: bytes) -> bytes:
    head = b'{"jsonrpc":"2.0","method":' + msgspec.json.encode(method)
    return head + b',"params":' + params + b"}" if params else head + b"}"


def response_with_id(envelope: Envelope, id_json: bytes) -> bytes:
    """The response in `envelope` under another id."""
    if body := bytes(envelope.error):
        return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + body + b"}"
    return result(id_json, bytes(envelope.result))


def result(id_json: bytes, body: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"result":' + body + b"}"


def error(id_json: bytes, code: int, message: str) -> bytes:
    body = msgspec.json.encode({"code": code, "message": message})
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + body + b"}"


def outcome_of(method: str, response: bytes) -> Summary:
    """Read a response for the access log; anything that is not one counts as an error without a code."""
    try:
        envelope = read_envelope(response)
        if body := bytes(envelope.error):
            return Summary("mcp_error", _error_code.decode(body).code)
        if method == "tools/call" and _result_flags.decode(bytes(envelope.result)).is_error:
            return Summary("tool_error")
    except (NotJson, msgspec.MsgspecError, UnicodeDecodeError):
        return Summary("mcp_error")
    return Summary("ok")


def _encode(members: Mapping[str, Raw]) -> bytes:
    return msgspec.json.encode(members)
