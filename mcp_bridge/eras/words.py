"""What the two protocol eras call things, and the pure functions that turn one's messages into the other's.

Values stay as they were written; only members that must change are spliced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcp_bridge import wire

__all__ = [
    "ASKING",
    "CHANGES",
    "HANDSHAKE_VERSIONS",
    "LEVELS",
    "MODERN",
    "Declared",
    "Refused",
    "declare",
    "decoded",
    "discover_result",
    "encode",
    "error",
    "gone_in_handshake",
    "gone_in_modern",
    "handshake_result",
    "initialize_result",
    "input_required",
    "modern_error",
    "modern_result",
    "plain_params",
    "read_declared",
    "read_error_code",
]

MODERN: Final = "2026-07-28"
HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
_PROTOCOL_KEYS: Final = (VERSION_KEY, INFO_KEY, CAPABILITIES_KEY, LEVEL_KEY)

HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
MODERN_ERRORS: Final = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
RESOURCE_NOT_FOUND: Final = -32002
"""2025-11-25 and before; 2026-07-28 says INVALID_PARAMS."""
URL_ELICITATION_REQUIRED: Final = -32042
"""2025-11-25 only; 2026-07-28 has an `InputRequiredResult` for it."""

ASKING: Final = frozenset({"prompts/get", "resources/read", "tools/call"})
"""2026-07-28, "Supported Requests": the only ones that may be answered with an `InputRequiredResult`."""
_CACHEABLE: Final = frozenset(
    {"prompts/list", "resources/list", "resources/read", "resources/templates/list", "tools/list"}
)
_OF_SESSIONS: Final = frozenset(
    {"initialize", "logging/setLevel", "ping", "resources/subscribe", "resources/unsubscribe"}
)
_STATELESS_ONLY: Final = frozenset({"server/discover", "subscriptions/listen"})

_LATER_BLOCKS: Final = {"2024-11-05": (b"audio", b"resource_link"), "2025-03-26": (b"resource_link",)}
"""Types of content that came after a version, which lists its own and no others."""

CHANGES: Final = {
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
    "notifications/tools/list_changed": "toolsListChanged",
}
"""Notification → the member of a subscription's filter that asks for it."""

CLIENT_INFO: Final = b'{"name":"secure-mcp-grpc","version":"1"}'
"""For clients that do not name themselves, as 2026-07-28 allows and the handshake does not."""


class Refused(Exception):
    """The caller's answer is this JSON-RPC error. `data` is JSON, or empty; `of_server`: it comes from the server."""

    def __init__(self, code: int, sentence: str, data: bytes = b"", *, of_server: bool = False) -> None:
        super().__init__(sentence)
        self.of_server = of_server
        self.code = code
        self.sentence = sentence
        self.data = data

    def answer(self, id_json: bytes) -> bytes:
        return error(id_json, self.code, self.sentence, self.data)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a 2026-07-28 request says of its sender; `client_info` and `capabilities` are JSON with sorted keys."""

    client_info: bytes
    capabilities: bytes
    level: str


def gone_in_modern(method: str) -> bool:
    """2026-07-28, "Key Changes": methods it removed. Tasks left the core protocol."""
    return method in _OF_SESSIONS or method.startswith("tasks/")


def gone_in_handshake(method: str) -> bool:
    return method in _STATELESS_ONLY or method.startswith("tasks/")


def read_declared(members: Mapping[str, Raw], supported: list[str]) -> Declared:
    """The protocol members of `params._meta`; raises `Refused` where 2026-07-28 says so."""
    try:
        meta = wire.object_of(bytes(members["_meta"]))
    except (wire.NotJson, KeyError):
        raise Refused(wire.INVALID_PARAMS, "params._meta must be an object") from None
    version = decoded(meta.get(VERSION_KEY))
    if not isinstance(version, str):
        raise Refused(wire.INVALID_PARAMS, f"params._meta must state {VERSION_KEY}")
    if version != MODERN:
        data = encode({"supported": supported, "requested": version})
        raise Refused(UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    capabilities = decoded(meta.get(CAPABILITIES_KEY))
    if not isinstance(capabilities, dict):
        raise Refused(wire.INVALID_PARAMS, f"params._meta must state {CAPABILITIES_KEY}")
    level = decoded(meta.get(LEVEL_KEY))
    if level is not None and level not in LEVELS:
        raise Refused(wire.INVALID_PARAMS, f"{LEVEL_KEY} is none of {', '.join(LEVELS)}")
    info = decoded(meta.get(INFO_KEY))
    return Declared(
        _sorted(info) if isinstance(info, dict) else CLIENT_INFO, _sorted(capabilities), level if level else ""
    )


def plain_params(members: Mapping[str, Raw]) -> bytes:
    """Params without what only 2026-07-28 puts there; empty where nothing is left."""
    kept = {key: value for key, value in members.items() if key not in ("_meta", "inputResponses", "requestState")}
    if "_meta" in members:
        meta = wire.object_of(bytes(members["_meta"]))
        rest = {key: value for key, value in meta.items() if key not in _PROTOCOL_KEYS}
        if rest:
            kept["_meta"] = Raw(encode(rest))
    return encode(kept) if kept else b""


def declare(params: bytes, info: bytes, capabilities: bytes, level: str) -> bytes:
    """Params with the protocol members of 2026-07-28 in their `_meta`, replacing any that were there."""
    members = wire.object_of(params) if params else {}
    try:
        meta = wire.object_of(bytes(members["_meta"])) if "_meta" in members else {}
    except wire.NotJson:
        raise Refused(wire.INVALID_PARAMS, "params._meta must be an object") from None
    meta |= {VERSION_KEY: Raw(encode(MODERN)), INFO_KEY: Raw(info), CAPABILITIES_KEY: Raw(capabilities)}
    if level:
        meta[LEVEL_KEY] = Raw(encode(level))
    members["_meta"] = Raw(encode(meta))
    return encode(members)


def modern_result(method: str, body: bytes, server_info: bytes) -> bytes:
    """A handshake server's result with the members that 2026-07-28 requires. Nothing says that it may be cached."""
    members = wire.object_of(body)
    members["resultType"] = Raw(b'"complete"')
    if method in _CACHEABLE:
        members.setdefault("ttlMs", Raw(b"0"))
        members.setdefault("cacheScope", Raw(b'"private"'))
    if server_info:
        try:
            meta = wire.object_of(bytes(members["_meta"])) if "_meta" in members else {}
            members["_meta"] = Raw(encode({SERVER_KEY: Raw(server_info)} | meta))
        except wire.NotJson:
            pass  # null, or nothing that a stamp fits into: the server's to answer for
    return encode(members)


def modern_error(method: str, body: bytes) -> bytes:
    """A handshake server's error; a resource that is not there has another code in 2026-07-28."""
    if method == "resources/read" and read_error_code(body) == RESOURCE_NOT_FOUND:
        return wire.with_params(body, {"code": b"%d" % wire.INVALID_PARAMS})
    return body


def handshake_result(method: str, members: dict[str, Raw], version: str) -> bytes:
    """A modern result without what the handshake `version`'s schema forbids.

    Its results are open, so caching hints and unknown members stay. Structured content, and what an
    output schema describes, had to be an object; content that the version has no type for becomes text.
    """
    members.pop("resultType", None)
    if version in _LATER_BLOCKS:
        if method == "tools/call" and "content" in members:
            members["content"] = _older_blocks(members["content"], version)
        elif method == "prompts/get" and "messages" in members:
            members["messages"] = _older_messages(members["messages"], version)
    if method == "tools/call" and "structuredContent" in members and not _is_object(members["structuredContent"]):
        del members["structuredContent"]
    elif method == "tools/list" and b'"outputSchema"' in bytes(members.get("tools", b"")):
        tools = msgspec.json.decode(bytes(members["tools"]), type=list[dict[str, Raw]])
        for tool in tools:
            if "outputSchema" in tool and not _describes_object(bytes(tool["outputSchema"])):
                del tool["outputSchema"]
        members["tools"] = Raw(encode(tools))
    return encode(members)


def _older_blocks(raw: Raw, version: str) -> Raw:
    if not any(b'"%b"' % kind in bytes(raw) for kind in _LATER_BLOCKS[version]):
        return raw
    blocks = msgspec.json.decode(bytes(raw), type=list[Raw])
    return Raw(encode([_older_block(block, version) for block in blocks]))


def _older_messages(raw: Raw, version: str) -> Raw:
    if not any(b'"%b"' % kind in bytes(raw) for kind in _LATER_BLOCKS[version]):
        return raw
    messages = msgspec.json.decode(bytes(raw), type=list[dict[str, Raw]])
    for message in messages:
        if "content" in message:
            message["content"] = _older_block(message["content"], version)
    return Raw(encode(messages))


def _older_block(raw: Raw, version: str) -> Raw:
    block = wire.object_of(bytes(raw))
    kind = decoded(block.get("type"))
    if not isinstance(kind, str) or kind.encode() not in _LATER_BLOCKS[version]:
        return raw
    what = decoded(block.get("uri" if kind == "resource_link" else "mimeType"))
    return Raw(encode({"type": "text", "text": what if kind == "resource_link" else f"[{kind}: {what}]"}))


def initialize_result(discovered: Mapping[str, Raw], version: str, name: str) -> bytes:
    """The answer to `initialize` that a `DiscoverResult` amounts to."""
    meta = decoded(discovered.get("_meta"))
    info = meta.get(SERVER_KEY) if isinstance(meta, dict) else None
    members = {
        "protocolVersion": Raw(encode(version)),
        "capabilities": discovered.get("capabilities", Raw(b"{}")),
        "serverInfo": Raw(encode(info if isinstance(info, dict) else {"name": name, "version": "0"})),
    }
    if "instructions" in discovered:
        members["instructions"] = discovered["instructions"]
    return encode(members)


def discover_result(initialized: Mapping[str, Raw], version: str, server_info: bytes) -> bytes:
    """The answer to `server/discover` that an `InitializeResult` amounts to."""
    try:
        capabilities = wire.object_of(bytes(initialized.get("capabilities", b"{}")))
    except wire.NotJson:
        capabilities = {}
    capabilities.pop("tasks", None)
    members = {
        "supportedVersions": Raw(encode([MODERN, version])),
        "capabilities": Raw(encode(capabilities)),
        "ttlMs": Raw(b"0"),
        "cacheScope": Raw(b'"private"'),
        "resultType": Raw(b'"complete"'),
        "_meta": Raw(encode({SERVER_KEY: Raw(server_info)})),
    }
    if "instructions" in initialized:
        members["instructions"] = initialized["instructions"]
    return encode(members)


def input_required(requests: Mapping[str, tuple[str, bytes]], state: str, server_info: bytes) -> bytes:
    """`requests` is key → method and params."""
    asked = {
        key: {"method": method} | ({"params": Raw(params)} if params else {})
        for key, (method, params) in requests.items()
    }
    return encode(
        {
            "resultType": "input_required",
            "inputRequests": asked,
            "requestState": state,
            "_meta": {SERVER_KEY: Raw(server_info)},
        }
    )


def error(id_json: bytes, code: int, sentence: str, data: bytes = b"") -> bytes:
    body = encode({"code": code, "message": sentence} | ({"data": Raw(data)} if data else {}))
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + body + b"}"


def read_error_code(body: bytes) -> int:
    """`code` of a JSON-RPC error object; 0 where there is none."""
    try:
        code = decoded(wire.object_of(body).get("code"))
    except wire.NotJson:
        return 0
    return code if isinstance(code, int) else 0


def decoded(raw: Raw | None) -> Any:
    """The value of a small member; None where it is absent or cannot be read."""
    try:
        return msgspec.json.decode(bytes(raw)) if raw is not None else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _sorted(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _is_object(raw: Raw) -> bool:
    return bytes(raw).lstrip()[:1] == b"{"


def _describes_object(schema: bytes) -> bool:
    try:
        return bool(decoded(wire.object_of(schema).get("type")) == "object")
    except wire.NotJson:
        return False
