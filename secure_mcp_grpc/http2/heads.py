"""The headers of a request: decoded, checked (RFC 9113, 8) and remembered, whole or field by field.

We ask the peer for a header table of size 0. Once it complies, the same
octets always mean the same headers, so that a block seen before needs no
decoding: Envoy's blocks for one kind of check are all alike. Where each
request has headers of its own, the fields that it shares with others are
remembered.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError

from secure_mcp_grpc.http2 import messages
from secure_mcp_grpc.http2.header_fields import Truncated, fields_of, is_literal, name_in, text_at, value_place
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.wire import ConnectionFault, ErrorCode

__all__ = ["Head", "HeadReader"]

_REMEMBERED_BLOCKS: Final = 256
_REMEMBERED_BLOCK_BYTES: Final = 2048
_REMEMBERED_FIELDS: Final = 2048
_REMEMBERED_FIELD_BYTES: Final = 256
_REMEMBERED_NAMES: Final = 512
_FIELD_COST: Final = 32
"""Of each field in a list, beside its octets (RFC 7541, 4.1)."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""Field names (RFC 9110, 5.6.2) without capitals (RFC 9113, 8.2.1)."""
_VALUE: Final = re.compile(rb"[^\0\r\n]*", re.DOTALL)
_PSEUDO: Final = (b":method", b":scheme", b":path", b":authority")
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NOTABLE: Final = frozenset((b"content-type", b"content-length", b"grpc-timeout"))
_MALFORMED_PATH: Final = re.compile(rb"[^!-~]")

logging.getLogger("hpack").setLevel(logging.INFO)  # it formats a debug line for every header otherwise


@dataclass(frozen=True, slots=True)
class Head:
    """Headers that were checked."""

    path: str
    """`/package.Service/Method`."""
    timeout_s: float | None
    """`grpc-timeout`."""
    length: int | None
    """`content-length`."""
    metadata: Sequence[tuple[str, str | bytes]]
    """All but the pseudo-header fields, in order; octets where a name ends in `-bin`."""
    refusal: RpcError | int | None = None
    """Why the request cannot be answered by any handler: a gRPC status, or an HTTP status for what is not gRPC."""


class _Name:
    """What the name of a field says, whatever its value."""

    __slots__ = ("name", "notable", "regular", "text")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.regular = _NAME.fullmatch(name) is not None and name not in _CONNECTION_SPECIFIC
        self.notable = name in _NOTABLE
        self.text = name.decode("ascii") if self.regular else ""


class _Field:
    """One field, judged."""

    __slots__ = ("cost", "name", "notable", "pair", "regular", "value")

    def __init__(self, name: _Name, value: bytes) -> None:
        self.name = name.name
        self.value = value
        self.cost = len(name.name) + len(value) + _FIELD_COST
        self.regular = name.regular and _is_regular_value(name.name, value)
        """Allowed after the pseudo-header fields."""
        self.notable = name.notable
        self.pair = (name.text, messages.metadata_value(name.name, value)) if self.regular else ("", "")


class HeadReader:
    """Reads the header blocks of one connection, in order."""

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes)
        self._max_list_bytes = max_list_bytes
        self._heads: dict[bytes, Head | None] = {}
        self._fields: dict[bytes, _Field] = {}
        self._names: dict[bytes, _Name] = {}

    def table_size_acknowledged(self) -> None:
        """The peer has taken note of SETTINGS_HEADER_TABLE_SIZE = 0, and must say so in its next block."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> Head | None:
        """The head of a request; None for headers that are malformed (RFC 9113, 8.1.1).

        Raises `ConnectionFault` for a block that cannot be decoded.
        """
        if self._decoder.header_table_size:
            return _check_request([_Field(_Name(name), value) for name, value in self.decode(block)])
        if block in self._heads:
            return self._heads[block]
        fields, all_known = self._known_fields(block)
        head = _check_request(fields)
        if all_known and len(block) <= _REMEMBERED_BLOCK_BYTES:
            if len(self._heads) >= _REMEMBERED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
        return head

    def decode(self, block: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """All fields of a block; raises `ConnectionFault`. Every block has to pass here while there is a table."""
        try:
            return tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except (HPACKError, UnicodeDecodeError, ValueError, IndexError):  # the latter two: hpack on garbage
            raise _undecodable() from None

    def _known_fields(self, block: bytes) -> tuple[list[_Field], bool]:
        """Fields of a block without a table, and whether all of them were known: a block like it may come again."""
        known = self._fields
        fields: list[_Field] = []
        all_known, cost = True, 0
        try:
            for octets in fields_of(block):
                field = known.get(octets)
                if field is None:
                    field = self._new_field(octets, first=not fields)
                    if field is None:
                        continue
                    all_known = False
                fields.append(field)
                cost += field.cost
        except Truncated:
            raise _undecodable() from None
        if cost > self._max_list_bytes:
            raise _undecodable()
        return fields, all_known

    def _new_field(self, octets: bytes, *, first: bool) -> _Field | None:
        """Decode one field; None for an update of the table's size, which may only come first (RFC 7541, 4.2)."""
        if is_literal(octets):
            at = value_place(octets)
            field = _Field(self._name(octets[:at]), text_at(octets, at))
        else:
            decoded = self.decode(octets)
            if not decoded:
                if not first:
                    raise _undecodable()
                return None
            field = _Field(_Name(decoded[0][0]), decoded[0][1])
        if len(octets) <= _REMEMBERED_FIELD_BYTES:
            if len(self._fields) >= _REMEMBERED_FIELDS:
                self._fields.clear()
            self._fields[octets] = field
        return field

    def _name(self, octets: bytes) -> _Name:
        name = self._names.get(octets)
        if name is None:
            name = _Name(name_in(octets))
            if len(octets) <= _REMEMBERED_FIELD_BYTES:
                if len(self._names) >= _REMEMBERED_NAMES:
                    self._names.clear()
                self._names[octets] = name
        return name


def _undecodable() -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded")


def _check_request(fields: list[_Field]) -> Head | None:
    pseudo = _pseudo_fields(fields)
    if pseudo is None or b":method" not in pseudo or b":scheme" not in pseudo or b":path" not in pseudo:
        return None
    path = pseudo[b":path"]
    if not path.startswith(b"/") or _MALFORMED_PATH.search(path):
        return None
    metadata: list[tuple[str, str | bytes]] = []
    notable: list[_Field] = []
    for field in fields[len(pseudo) :]:
        if not field.regular:
            return None
        metadata.append(field.pair)
        if field.notable:
            notable.append(field)
    lengths = {field.value for field in notable if field.name == b"content-length"}
    if len(lengths) > 1 or not all(value.isdigit() and len(value) < 16 for value in lengths):
        return None
    timeouts = [messages.timeout_s(field.value) for field in notable if field.name == b"grpc-timeout"]
    return Head(
        path.decode(),
        timeouts[0] if timeouts else None,
        int(lengths.pop()) if lengths else None,
        tuple(metadata),
        _refusal(pseudo[b":method"], notable, timeouts),
    )


def _pseudo_fields(fields: list[_Field]) -> dict[bytes, bytes] | None:
    """Those at the beginning; None for an unknown one, or one given twice (8.3)."""
    found: dict[bytes, bytes] = {}
    for field in fields:
        name = field.name
        if not name.startswith(b":"):
            break
        if name not in _PSEUDO or name in found or not _VALUE.fullmatch(field.value):
            return None
        found[name] = field.value
    return found


def _is_regular_value(name: bytes, value: bytes) -> bool:
    """Whether a field of a good name is allowed after the pseudo-header fields (8.2.1, 8.2.2)."""
    if not _VALUE.fullmatch(value) or value != value.strip(b" \t"):
        return False
    return name != b"te" or value == b"trailers"


def _refusal(method: bytes, notable: list[_Field], timeouts: list[float | None]) -> RpcError | int | None:
    """gRPC over HTTP2, "Requests": POST, a gRPC content type, no encoding that we lack, a timeout that is one."""
    if method != b"POST":
        return 405
    types = [field.value for field in notable if field.name == b"content-type"]
    if len(types) != 1 or not (types[0] == b"application/grpc" or types[0].startswith((b"application/grpc+",))):
        return 415
    if len(timeouts) > 1 or None in timeouts:
        return RpcError(Status.INTERNAL, "grpc-timeout is not a timeout")
    return None
