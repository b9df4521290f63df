"""Where the fields of a header block begin and end (RFC 7541, 6), once the peer has no table. Pure.

Without a table a field's octets always mean the same field, so that each needs decoding only once.
"""

from collections.abc import Iterator

__all__ = ["Truncated", "fields_of"]

_INDEXED = 0x80
_INCREMENTAL = 0x40
_SIZE_UPDATE = 0x20
_LENGTH = 0x7F
_MAX_INTEGER_OCTETS = 4


class Truncated(ValueError):
    """The block ends within a field, or a number in it is too long."""


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


def _end(block: bytes, start: int) -> int:
    first = block[start]
    if first & _INDEXED:
        return _integer(block, start, 0x7F)[1]
    if not first & _INCREMENTAL and first & _SIZE_UPDATE:
        return _integer(block, start, 0x1F)[1]
    mask = 0x3F if first & _INCREMENTAL else 0x0F
    index, at = _integer(block, start, mask)
    if index == 0:
        length, at = _integer(block, at, _LENGTH)
        at += length
    length, at = _integer(block, at, _LENGTH)
    return at + length


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
