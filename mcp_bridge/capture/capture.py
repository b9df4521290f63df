"""What the record of one message holds of its content: from the bytes that came and went, within the settings.

Between the recorder, which calls this once the answer is on its way, and the
sink. Everything written here went through the sanitizer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.capture import lineage, rules, tokens, trace
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.prefix import read_prefix
from mcp_bridge.capture.sanitize import MARGIN_CHARS, Sanitizer
from mcp_bridge.errors import HopError
from secure_mcp_grpc.calls import REPLY, McpCall

if TYPE_CHECKING:
    from mcp_bridge.capture.sealing import Sealer

__all__ = ["SEALED", "Capture", "Captured", "Message"]

SEALED: Final = "sealed1"
"""`payload_encoding` of a record whose payloads are envelopes of `mcp_bridge.capture.sealing`."""

_MAX_PARSED_BYTES: Final = 256 * 1024
"""An answer up to this size is read whole; of a longer one the beginning."""
_MAX_URI_CHARS: Final = 512
_SHORT: Final = 4
"""What was so many times longer than the room for it is not looked at as a whole."""
_SAID_ELSEWHERE: Final = frozenset(
    {
        trace.TRACEPARENT,
        trace.TRACESTATE,
        trace.CORRELATION_META,
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
    }
)
"""Members of `_meta` that have columns of their own, or say the same in each request."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message and how it ended. `params` of a reply is the whole response that the client gave."""

    call: McpCall | None
    params: bytes
    server: str
    trace_id: str
    answer: bytes | HopError | None


@dataclass(frozen=True, slots=True)
class Captured:
    """Fields of `secure_mcp_grpc.records.InteractionRecord` of the same names."""

    arguments: str = ""
    request: str = ""
    response: str = ""
    payload_encoding: str = ""
    resources: tuple[str, ...] = ()
    digests_in: tuple[str, ...] = ()
    digests_out: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_source: str = ""


_NOTHING: Final = Captured()


class Capture:
    """`mode`: `off` (sizes and token counts only), `arguments`, or `full` (requests and responses, too)."""

    def __init__(
        self,
        sanitizer: Sanitizer,
        *,
        mode: str = "full",
        max_argument_bytes: int = 2048,
        max_bytes: int = 4096,
        sample: float = 1.0,
        off: Sequence[str] = (),
        sealer: "Sealer | None" = None,
    ) -> None:
        self._sanitizer = sanitizer
        self._mode = mode
        self._max_argument_bytes = max_argument_bytes
        self._max_bytes = max_bytes
        self._sample = sample
        self._off = tuple(off)
        self._sealer = sealer

    @property
    def _keyed(self) -> Keyed:
        return self._sanitizer.keyed

    def name(self, name: str) -> str:
        """A tool's name, a URI or an id as it may be written: URIs hold passwords and tokens now and then."""
        return self._sanitizer.plain(name)

    def of(self, message: Message) -> Captured:
        call = message.call
        if call is None:
            return _NOTHING
        answer = message.answer if isinstance(message.answer, bytes) else b""
        content, is_prefix = _content(answer, self._max_bytes)
        replied = _reply(message.params) if call.method == REPLY else None
        result = content.get("result") if content is not None else None
        members = _members(message.params)
        used = tokens.count(
            _arguments_size(call, message.params, members),
            _text_size(answer, result),
            replied if replied is not None else result,
        )
        if not self._is_kept(call, message):
            return Captured(tokens_in=used.tokens_in, tokens_out=used.tokens_out, tokens_source=used.source)
        arguments, plain_in = self._arguments(call, message.params)
        response, plain_out = self._response(message.answer, content, is_prefix=is_prefix)
        request = ""
        if self._mode == "full":
            request = self._reply(replied) if replied is not None else self._request(call, members)
        has_data_out = call.method in lineage.CARRIES_DATA and not is_prefix and lineage.may_hold_data(plain_out)
        captured = Captured(
            arguments=arguments,
            request=request,
            response=response,
            resources=self._resources(call, result, plain_out),
            digests_in=tuple(lineage.digests(call.arguments, self._keyed)) if lineage.may_hold_data(plain_in) else (),
            digests_out=tuple(lineage.digests(result, self._keyed)) if has_data_out else (),
            tokens_in=used.tokens_in,
            tokens_out=used.tokens_out,
            tokens_source=used.source,
        )
        return captured if self._sealer is None else self._sealed(captured, self._sealer)

    def _is_kept(self, call: McpCall, message: Message) -> bool:
        if self._mode == "off" or rules.matches_any(self._off, call.name, message.server):
            return False
        return self._keyed.chosen(message.trace_id, self._sample)

    def _nodes(self, *steps: str) -> list[rules.Node]:
        return rules.start(self._sanitizer.rules.paths, *steps)

    def _resources(self, call: McpCall, result: Any, plain: str | None) -> tuple[str, ...]:
        uris = lineage.resource_uris(call.method, call.name, result if plain is None or '"uri"' in plain else None)
        return tuple(self._sanitizer.plain(uri[: _MAX_URI_CHARS + MARGIN_CHARS])[:_MAX_URI_CHARS] for uri in uris)

    def _text(
        self, value: Any, max_bytes: int, nodes: Sequence[rules.Node], size: int, *, is_prefix: bool = False
    ) -> tuple[str, str | None]:
        """`value`, whose JSON has `size` bytes, as it is written; the same again where that is all of it."""
        if size <= _SHORT * max_bytes and not nodes and not is_prefix:
            plain = self._sanitizer.harmless(value, max_bytes)
            if plain is not None:
                return plain, plain
        return self._sanitizer.text(value, max_bytes, nodes, is_prefix=is_prefix), None

    def _arguments(self, call: McpCall, params: bytes) -> tuple[str, str | None]:
        if not call.arguments:
            return "", ""
        return self._text(call.arguments, self._max_argument_bytes, self._nodes("params", "arguments"), len(params))

    def _request(self, call: McpCall, params: Mapping[str, Raw] | None) -> str:
        """The params beside `arguments`; "" where they say no more than the record's other fields."""
        if params is None:
            return ""
        size = 0
        members: dict[str, Any] = {}
        try:
            for key, value in params.items():
                if key != "arguments":
                    text = bytes(value)
                    members[key] = _decode(text)
                    size += len(text)
        except ValueError:
            return ""
        meta = members.pop("_meta", None)
        if isinstance(meta, dict):
            kept = {key: value for key, value in meta.items() if key not in _SAID_ELSEWHERE}
            if kept:
                members["_meta"] = kept
        if call.name and members in ({"name": call.name}, {"uri": call.name}):
            return ""
        return self._text(members, self._max_bytes, self._nodes("params"), size)[0]

    def _reply(self, result: Mapping[str, Any]) -> str:
        return self._sanitizer.text(result, self._max_bytes, self._nodes("result"))

    def _response(
        self, answer: bytes | HopError | None, content: Mapping[str, Any] | None, *, is_prefix: bool
    ) -> tuple[str, str | None]:
        if self._mode != "full":
            return "", None
        if isinstance(answer, HopError):
            refusal = {"grpcStatus": answer.code.name, "message": answer.sentence}
            return self._sanitizer.text(refusal, self._max_bytes), None
        if not answer:
            return "", None
        if content is None:
            text = answer[: self._max_bytes + 4 * MARGIN_CHARS].decode("utf-8", "replace")
            return self._sanitizer.beginning(text, self._max_bytes // 4), None
        member = "error" if "error" in content else "result"
        value, nodes = content.get(member), self._nodes(member)
        written, plain = self._text(value, self._max_bytes, nodes, len(answer), is_prefix=is_prefix)
        return written, plain if member == "result" else None

    def _sealed(self, captured: Captured, sealer: "Sealer") -> Captured:
        seal = sealer.seal
        return replace(
            captured,
            arguments=seal(captured.arguments),
            request=seal(captured.request),
            response=seal(captured.response),
            payload_encoding=SEALED,
        )


def _content(answer: bytes, max_bytes: int) -> tuple[Mapping[str, Any] | None, bool]:
    """The members of a response, and whether they are only its beginning; None for what is no JSON object."""
    if not answer:
        return None, False
    if len(answer) <= _MAX_PARSED_BYTES:
        try:
            value = _decode(answer)
        except ValueError:
            return None, False
        return (value, False) if isinstance(value, dict) else (None, False)
    value = read_prefix(answer, max_bytes + 4 * MARGIN_CHARS)
    return (value, True) if isinstance(value, dict) else (None, True)


def _decode(text: bytes) -> Any:
    """Raises `ValueError`."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(text)  # takes lone surrogates, which msgspec refuses
    except RecursionError:
        raise ValueError("too deep") from None


def _reply(message: bytes) -> Mapping[str, Any] | None:
    content, _ = _content(message, 0)
    result = content.get("result") if content is not None else None
    return result if isinstance(result, Mapping) else None


def _members(params: bytes) -> Mapping[str, Raw] | None:
    """None for what is no object."""
    try:
        return wire.object_of(params) if params else {}
    except wire.NotJson:
        return None


def _arguments_size(call: McpCall, params: bytes, members: Mapping[str, Raw] | None) -> int:
    """Bytes of JSON that the caller's model wrote: without the `_meta` of its client."""
    if not call.arguments:
        return len(call.name)
    written = members.get("arguments") if members is not None else None
    return memoryview(written).nbytes if written is not None else len(params)


def _text_size(answer: bytes, result: Any) -> int:
    """Bytes of an answer that a model reads as text: without images, sound and files."""
    size = max(0, len(answer) - len(b'{"jsonrpc":"2.0","id":1,"result":}')) if answer else 0
    if not isinstance(result, dict):
        return size
    for key in ("content", "contents"):
        items = result.get(key)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                resource = item.get("resource")
                inner = resource if isinstance(resource, dict) else item
                size -= sum(len(value) for name in ("data", "blob") if isinstance(value := inner.get(name), str))
    return max(0, size)
