"""gRPC's part of the wire: status, trailers, timeouts and the length prefix of a message. Pure.

Clauses are those of "gRPC over HTTP2" (grpc/doc/PROTOCOL-HTTP2.md) and of
grpc/doc/statuscodes.md.
"""

import binascii
import re
from enum import IntEnum
from typing import Final

from hpack.hpack import encode_integer

__all__ = ["HEADERS_OK", "PREFIX_BYTES", "TRAILERS_OK", "RpcError", "Status", "header", "http_refusal", "message_in"]
__all__ += ["metadata_value", "prefix", "prefix_fault", "prefixed", "timeout_s", "trailers", "trailers_only"]

PREFIX_BYTES: Final = 5
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_NAME: Final = re.compile(r"[0-9a-z_.\-]+")
_VALUE: Final = re.compile(r"[ -~]*")
"""Of gRPC's own metadata, which is narrower than HTTP/2's ("Custom-Metadata")."""
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Status(IntEnum):
    """gRPC status codes (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """The answer to a call is `status` and `sentence`, which goes to the peer. Handlers may raise it.

    `details` is a serialized `google.rpc.Status` that says more.
    """

    def __init__(self, status: Status, sentence: str, details: bytes = b"") -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.details = details


def _literal(name: bytes, value: bytes) -> bytes:
    """A header as HPACK's literal without indexing, new name, no Huffman code (RFC 7541, 6.2.2): no state at all."""
    return b"\0" + bytes(encode_integer(len(name), 7)) + name + bytes(encode_integer(len(value), 7)) + value


_STATUS_200: Final = b"\x88"
"""`:status: 200`, static table (RFC 7541, A)."""
HEADERS_OK: Final = _STATUS_200 + _literal(b"content-type", b"application/grpc")
TRAILERS_OK: Final = _literal(b"grpc-status", b"0")


def header(name: str, value: str) -> bytes:
    """One field of a response as a header block; raises `ValueError` for what HTTP/2 does not carry."""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or value != value.strip():
        raise ValueError("not a header field")
    return _literal(name.encode(), value.encode())


def trailers(status: Status, sentence: str, details: bytes = b"") -> bytes:
    """The header block that ends a response; `sentence` in gRPC's percent encoding."""
    encoded = bytes(sentence, "utf-8", "replace")
    escaped = b"".join(bytes((b,)) if 0x20 <= b <= 0x7E and b != 0x25 else b"%%%02X" % b for b in encoded)
    block = _literal(b"grpc-status", b"%d" % status) + _literal(b"grpc-message", escaped)
    if status is Status.UNIMPLEMENTED:
        block += _literal(b"grpc-accept-encoding", b"identity")
    if details:
        block += _literal(b"grpc-status-details-bin", binascii.b2a_base64(details, newline=False).rstrip(b"="))
    return block


def trailers_only(status: Status, sentence: str, details: bytes = b"") -> bytes:
    """The header block of a response that is nothing but its status ("Trailers-Only")."""
    return HEADERS_OK + trailers(status, sentence, details)


def http_refusal(code: int) -> bytes:
    """The header block for what is no gRPC request at all."""
    return _literal(b":status", b"%d" % code)


def timeout_s(value: bytes) -> float | None:
    """Seconds in a `grpc-timeout`; None for a value that is none ("Timeout")."""
    found = _TIMEOUT.fullmatch(value)
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def metadata_value(name: bytes, value: bytes) -> str | bytes:
    """A header's value as handlers see it: text, or octets where the name ends in `-bin` ("Custom-Metadata")."""
    if not name.endswith(b"-bin"):
        return value.decode("utf-8", "surrogateescape")
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


def prefix(size: int) -> bytes:
    """What stands before an uncompressed message of `size` octets ("Length-Prefixed-Message")."""
    return b"\0" + size.to_bytes(4, "big")


def prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def prefix_fault(body: bytes | bytearray, max_bytes: int) -> RpcError | None:
    """What the beginning of a body already tells: compressed, or longer than `max_bytes`. None: nothing bad yet."""
    if body and body[0]:
        if body[0] == 1:
            return RpcError(Status.UNIMPLEMENTED, "compressed messages are not accepted")
        return RpcError(Status.INTERNAL, "the message's flags are invalid")
    if len(body) >= PREFIX_BYTES and int.from_bytes(body[1:5], "big") > max_bytes:
        return RpcError(Status.RESOURCE_EXHAUSTED, f"messages are limited to {max_bytes} bytes")
    return None


def message_in(body: bytes | bytearray, max_bytes: int) -> bytes | RpcError:
    """The message in a whole request body: exactly one, uncompressed, of the length that it claims."""
    size = len(body) - PREFIX_BYTES
    if size >= 0 and not body[0] and int.from_bytes(body[1:5], "big") == size <= max_bytes:
        return bytes(body[5:])
    if fault := prefix_fault(body, max_bytes):
        return fault
    if not body:
        return RpcError(Status.UNIMPLEMENTED, "a unary call has exactly one message")
    if size < 0 or int.from_bytes(body[1:5], "big") > size:
        return RpcError(Status.INTERNAL, "the message is shorter than it claims")
    return RpcError(Status.UNIMPLEMENTED, "a unary call has exactly one message")
