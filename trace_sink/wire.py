"""Access log messages from bytes, entry by entry, so that one bad entry costs no other. Pure.

`decode` first lets protobuf parse the whole message; only when that fails is
it taken apart at the wire level ("Protocol Buffers Encoding"), and each entry
parsed by itself. Text that is not UTF-8, which protobuf refuses, is escaped
(`\\xff`) in a copy of the entry.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

__all__ = ["Damaged", "Decoded", "decode"]

Entry: TypeAlias = accesslog_pb2.HTTPAccessLogEntry | accesslog_pb2.TCPAccessLogEntry

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes that are no entry."""

    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """One message of a stream. `log_name` is None where it carries no identifier (only the first need)."""

    log_name: str | None
    node: str
    entries: list[Entry]
    damaged: list[Damaged]


def decode(raw: bytes) -> Decoded:
    """Everything in `raw` that can be understood, and the rest as it came."""
    try:
        message = als_pb2.StreamAccessLogsMessage.FromString(raw)
    except DecodeError:
        return _decode_apart(raw)
    entries = [*message.http_logs.log_entry, *message.tcp_logs.log_entry]
    return Decoded(*_identity(message), entries, [])


def _decode_apart(raw: bytes) -> Decoded:
    identity = als_pb2.StreamAccessLogsMessage()
    entries: list[Entry] = []
    damaged: list[Damaged] = []
    try:
        for number, _, value in _fields(raw):
            if number == 1:
                identity.identifier.MergeFromString(_escaped(identity.identifier.DESCRIPTOR, value, 0))
            elif number in (2, 3):
                _entries(value, number, entries, damaged)
    except (DecodeError, ValueError):
        damaged.append(Damaged(raw, "bad_message"))
    return Decoded(*_identity(identity), entries, damaged)


def _entries(logs: bytes, number: int, entries: list[Entry], damaged: list[Damaged]) -> None:
    kind = accesslog_pb2.HTTPAccessLogEntry if number == 2 else accesslog_pb2.TCPAccessLogEntry
    for inner, _, value in _fields(logs):
        if inner != 1:
            continue
        try:
            entries.append(_entry(kind, value))
        except (DecodeError, ValueError):
            damaged.append(Damaged(value, "bad_entry"))


def _entry(kind: type[Entry], raw: bytes) -> Entry:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return kind.FromString(_escaped(kind.DESCRIPTOR, raw, 0))


def _identity(message: als_pb2.StreamAccessLogsMessage) -> tuple[str | None, str]:
    if not message.HasField("identifier"):
        return None, ""
    return message.identifier.log_name, message.identifier.node.id


def _escaped(descriptor: Descriptor | None, raw: bytes, depth: int) -> bytes:
    """`raw` with all its strings made UTF-8. Raises `ValueError` for what is no message."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    out = bytearray()
    for number, wire_type, value in _fields(raw):
        field = descriptor.fields_by_number.get(number) if descriptor else None
        if wire_type == _LEN and field is not None and field.type == FieldDescriptor.TYPE_STRING:
            value = value.decode(errors="backslashreplace").encode()
        elif wire_type == _LEN and field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
            value = _escaped(field.message_type, value, depth + 1)
        out += _varint_bytes(number << 3 | wire_type)
        if wire_type == _LEN:
            out += _varint_bytes(len(value))
        out += value
    return bytes(out)


def _fields(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Field number, wire type and value (a varint's own bytes) of each field. Raises `ValueError` when malformed."""
    position = 0
    while position < len(raw):
        key, position = _varint(raw, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _LEN:
            length, position = _varint(raw, position)
            end = position + length
        elif wire_type == _VARINT:
            _, end = _varint(raw, position)
        elif wire_type in (_I64, _I32):
            end = position + (8 if wire_type == _I64 else 4)
        else:
            raise ValueError("unknown wire type")
        if end > len(raw) or number == 0:
            raise ValueError("truncated")
        yield number, wire_type, raw[position:end]
        position = end


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(position, min(position + 10, len(raw))):
        byte = raw[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise ValueError("bad varint")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
