"""The fields of a header block (RFC 7541, 6), once the peer has no table: where each is, what it says. Pure.

Without a table a field's octets always mean the same field, so that each needs decoding only once.
"""

from collections.abc import Iterator
from typing import Final

from hpack.table import HeaderTable

from secure_mcp_grpc.http2.huffman import NotHuffman, decoded

__all__ = ["Truncated", "fields_of", "is_literal", "name_in", "text_at", "value_place"]

_INDEXED = 0x80
_INCREMENTAL = 0x40
_SIZE_UPDATE = 0x20
_LENGTH = 0x7F
_HUFFMAN = 0x80
_MAX_INTEGER_OCTETS = 4
_STATIC_NAMES: Final = tuple(name for name, _ in HeaderTable.STATIC_TABLE)


class Truncated(ValueError):
    """The block ends within a field, a number in it is too long, or a text or name is none."""


def fields_of(block: bytes) -> Iterator[bytes]:
    """The octets of each field, or update of the table's size, in order; raises `Truncated`."""
    start, size = 0, len(block)
    while start < size:
        try:
            end = _end(block, start)
        except IndexError:
            raise Truncated from None
        if end > size:
            raise Truncated
        yield block[start:end]
        start = end


def is_literal(field: bytes) -> bool:
    """Whether a field of `fields_of` brings its value along (6.2)."""
    first = field[0]
    return not first & _INDEXED and (first & (_INCREMENTAL | _SIZE_UPDATE)) != _SIZE_UPDATE


def value_place(field: bytes) -> int:
    """Where the value of a literal field begins; what stands before it is the name's."""
    index, at = _integer(field, 0, 0x3F if field[0] & _INCREMENTAL else 0x0F)
    if index == 0:
        length, at = _integer(field, at, _LENGTH)
        at += length
    return at


def name_in(field: bytes) -> bytes:
    """The name of a literal field; raises `Truncated`."""
    index, at = _integer(field, 0, 0x3F if field[0] & _INCREMENTAL else 0x0F)
    if index == 0:
        return text_at(field, at)
    if index > len(_STATIC_NAMES):
        raise Truncated
    return _STATIC_NAMES[index - 1]


def text_at(field: bytes, at: int) -> bytes:
    """The string that begins there (5.2); raises `Truncated`."""
    is_coded = field[at] & _HUFFMAN
    length, at = _integer(field, at, _LENGTH)
    text = field[at : at + length]
    try:
        return decoded(text) if is_coded else text
    except NotHuffman:
        raise Truncated from None


def _end(block: bytes, start: int) -> int:
    first = block[start]
    if first & _INDEXED:
        return _integer(block, start, 0x7F)[1]
    if not first & _INCREMENTAL and first & _SIZE_UPDATE:
        return _integer(block, start, 0x1F)[1]
    mask = 0x3F if first & _INCREMENTAL else 0x0F
    at = start + 1
    if not first & mask:
        length = block[at] & _LENGTH
        at = at + 1 + length if length < _LENGTH else sum(_integer(block, at, _LENGTH))
    elif first & mask == mask:
        at = _integer(block, start, mask)[1]
    length = block[at] & _LENGTH
    return at + 1 + length if length < _LENGTH else sum(_integer(block, at, _LENGTH))


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The number whose first octet, under `mask`, is at `at`, and where it ends (5.1)."""
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for octets in range(_MAX_INTEGER_OCTETS):
        octet = block[at]
        at += 1
        number += (octet & 0x7F) << 7 * octets
        if octet < 0x80:
            return number, at
    raise Truncated
