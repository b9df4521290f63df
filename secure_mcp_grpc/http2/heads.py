"""The headers of a request: decoded, checked (RFC 9113, 8) and remembered whole.

We ask the peer for a header table of size 0. Once it complies, the same
octets always mean the same headers, so that a block seen before needs no
decoding: Envoy's blocks for one kind of call are all alike.
"""

import logging
import re
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError

from secure_mcp_grpc.http2 import messages
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.wire import ConnectionFault, ErrorCode

__all__ = ["Head", "HeadReader"]

_REMEMBERED_BLOCKS: Final = 256
_REMEMBERED_BLOCK_BYTES: Final = 2048
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""Field names (RFC 9110, 5.6.2) without capitals (RFC 9113, 8.2.1)."""
_VALUE: Final = re.compile(rb"[^\0\r\n]*", re.DOTALL)
_PSEUDO: Final = (b":method", b":scheme", b":path", b":authority")
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
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
    fields: tuple[tuple[bytes, bytes], ...]
    """All of them, pseudo-header fields included, in order."""
    refusal: RpcError | int | None = None
    """Why the request cannot be answered by any handler: a gRPC status, or an HTTP status for what is not gRPC."""


class HeadReader:
    """Reads the header blocks of one connection, in order."""

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes)
        self._heads: dict[bytes, Head | None] = {}

    def table_size_acknowledged(self) -> None:
        """The peer has taken note of SETTINGS_HEADER_TABLE_SIZE = 0, and must say so in its next block."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> Head | None:
        """The head of a request; None for headers that are malformed (RFC 9113, 8.1.1).

        Raises `ConnectionFault` for a block that cannot be decoded.
        """
        stateless = self._decoder.header_table_size == 0
        if stateless and block in self._heads:
            return self._heads[block]
        head = _check_request(self.decode(block))
        if stateless and len(block) <= _REMEMBERED_BLOCK_BYTES:
            if len(self._heads) >= _REMEMBERED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
        return head

    def decode(self, block: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """All fields of a block; raises `ConnectionFault`. Every block has to pass here: they share a table."""
        try:
            return tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except (HPACKError, UnicodeDecodeError, ValueError, IndexError):  # the latter two: hpack on garbage
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded") from None


def _check_request(fields: tuple[tuple[bytes, bytes], ...]) -> Head | None:
    pseudo = _pseudo_fields(fields)
    if pseudo is None or not all(map(_is_regular, fields[len(pseudo) :])):
        return None
    if not {b":method", b":scheme", b":path"} <= pseudo.keys():
        return None
    path = pseudo[b":path"]
    if not path.startswith(b"/") or _MALFORMED_PATH.search(path):
        return None
    regular = fields[len(pseudo) :]
    lengths = {value for name, value in regular if name == b"content-length"}
    if len(lengths) > 1 or not all(value.isdigit() and len(value) < 16 for value in lengths):
        return None
    timeouts = [messages.timeout_s(value) for name, value in regular if name == b"grpc-timeout"]
    return Head(
        path.decode(),
        timeouts[0] if timeouts else None,
        int(lengths.pop()) if lengths else None,
        fields,
        _refusal(pseudo[b":method"], regular, timeouts),
    )


def _pseudo_fields(fields: tuple[tuple[bytes, bytes], ...]) -> dict[bytes, bytes] | None:
    """Those at the beginning; None for an unknown one, or one given twice (8.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name not in _PSEUDO or name in found or not _VALUE.fullmatch(value):
            return None
        found[name] = value
    return found


def _is_regular(field: tuple[bytes, bytes]) -> bool:
    """Whether a field is allowed after the pseudo-header fields (8.2.1, 8.2.2)."""
    name, value = field
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or value != value.strip(b" \t"):
        return False
    return name not in _CONNECTION_SPECIFIC and (name != b"te" or value == b"trailers")


def _refusal(
    method: bytes, regular: tuple[tuple[bytes, bytes], ...], timeouts: list[float | None]
) -> RpcError | int | None:
    """gRPC over HTTP2, "Requests": POST, a gRPC content type, no encoding that we lack, a timeout that is one."""
    if method != b"POST":
        return 405
    types = [value for name, value in regular if name == b"content-type"]
    if len(types) != 1 or not (types[0] == b"application/grpc" or types[0].startswith((b"application/grpc+",))):
        return 415
    if len(timeouts) > 1 or None in timeouts:
        return RpcError(Status.INTERNAL, "grpc-timeout is not a timeout")
    return None
