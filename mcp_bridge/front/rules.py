"""What streamable HTTP asks of a request's headers, as verdicts. Pure.

2026-07-28, "Streamable HTTP": the headers mirror what the body says, so that
proxies need not read it, and a server MUST refuse a request whose headers and
body disagree.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.front.access import values
from mcp_bridge.front.backend import Headers
from mcp_bridge.front.messages import PARSE_ERROR, Request
from secure_mcp_grpc.calls import PROTOCOL_VERSION_META_KEY
from secure_mcp_grpc.http_calls import decode_mirror

__all__ = [
    "HANDSHAKE_VERSIONS",
    "MODERN_VERSIONS",
    "Refusal",
    "accepts",
    "check_modern",
    "decode_mirror",
    "is_handshake",
    "is_json",
    "status_of",
    "unsupported",
]

MODERN_VERSIONS: Final = ("2026-07-28",)
HANDSHAKE_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
_VERSION: Final = "mcp-protocol-version"
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
_REMOVED: Final = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Methods of the handshake era that 2026-07-28 has no more."""
_MIRRORED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_HEADER_MISMATCH: Final = -32020
_MISSING_CAPABILITY: Final = -32021
_UNSUPPORTED_VERSION: Final = -32022
_STATUS: Final = {
    PARSE_ERROR: 400,
    wire.INVALID_REQUEST: 400,
    wire.INVALID_PARAMS: 400,
    wire.METHOD_NOT_FOUND: 404,
    _HEADER_MISMATCH: 400,
    _MISSING_CAPABILITY: 400,
    _UNSUPPORTED_VERSION: 400,
}
"""HTTP status of a 2026-07-28 answer that is a JSON-RPC error; 200 for other codes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that goes no further: the JSON-RPC error and its HTTP status."""

    status: int
    code: int
    sentence: str
    data: Any = None

    def body(self, id_json: bytes) -> bytes:
        error: dict[str, Any] = {"code": self.code, "message": self.sentence}
        if self.data is not None:
            error["data"] = self.data
        return b'{"jsonrpc":"2.0","id":' + (id_json or b"null") + b',"error":' + msgspec.json.encode(error) + b"}"


def is_handshake(headers: Headers) -> bool:
    """Whether the request's version header is of the handshake era; a missing one is (2025-06-18, "Protocol Version
    Header")."""
    named = values(headers, _VERSION)
    return not named or named[0] in HANDSHAKE_VERSIONS


def is_json(headers: Headers) -> bool:
    kinds = values(headers, "content-type")
    return len(kinds) == 1 and kinds[0].partition(";")[0].strip().lower() == "application/json"


def accepts(headers: Headers, kind: str) -> bool:
    """RFC 9110, 12.5.1: whether the Accept headers admit `kind`, such as `text/event-stream`."""
    family = kind.partition("/")[0] + "/*"
    for value in values(headers, "accept"):
        for one in value.split(","):
            name, *parameters = (part.strip().lower() for part in one.split(";"))
            if name in (kind, family, "*/*") and not any(re.fullmatch(r"q=0(\.0*)?", word) for word in parameters):
                return True
    return False


def check_modern(request: Request, headers: Headers) -> Refusal | None:
    """The rungs of 2026-07-28 in the order of the specification's reference: form, mirrors, version."""
    for name in (_VERSION, "mcp-method", "mcp-name"):
        if len(values(headers, name)) > 1:
            return _mismatch(f"the {name} header stands more than once")
    missing = [key for key in (PROTOCOL_VERSION_META_KEY, _CAPABILITIES) if key not in request.meta]
    if missing:
        return Refusal(400, wire.INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    if _one(headers, _VERSION) != request.declared:
        return _mismatch("the MCP-Protocol-Version header is not the version in params._meta")
    if _one(headers, "mcp-method") != request.method:
        return _mismatch("the Mcp-Method header is not the method")
    key = _MIRRORED.get(request.method)
    named = request.params.get(key) if key else None
    if named is not None and decode_mirror(_one(headers, "mcp-name")) != named:
        return _mismatch(f"the Mcp-Name header is not params.{key}")
    if request.declared not in MODERN_VERSIONS:
        return unsupported(request.declared)
    if request.method in _REMOVED:
        return Refusal(404, wire.METHOD_NOT_FOUND, f"{request.declared} has no {request.method}")
    return None


def unsupported(version: str) -> Refusal:
    data = {"supported": list(MODERN_VERSIONS), "requested": version}
    return Refusal(400, _UNSUPPORTED_VERSION, "this protocol version is not supported", data)


def status_of(response: bytes) -> int:
    """HTTP status of a 2026-07-28 response sent as JSON."""
    try:
        body = bytes(wire.read_envelope(response).error)
        code = msgspec.json.decode(bytes(wire.object_of(body)["code"])) if body else 0
    except (wire.NotJson, KeyError, msgspec.MsgspecError):
        return 200
    return _STATUS.get(code, 200) if isinstance(code, int) else 200


def _one(headers: Headers, name: str) -> str | None:
    return next(iter(values(headers, name)), None)


def _mismatch(sentence: str) -> Refusal:
    return Refusal(400, _HEADER_MISMATCH, sentence)
