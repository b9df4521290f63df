"""Our reading of HPACK's Huffman code and literals against the hpack library, and against RFC 7541's own examples."""

import pytest
from hpack import Decoder, Encoder, HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hypothesis import example, given
from hypothesis import strategies as st

from secure_mcp_grpc.http2.heads import HeadReader
from secure_mcp_grpc.http2.huffman import NotHuffman, decoded
from secure_mcp_grpc.http2.wire import ConnectionFault

_START = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/a/b"), (b"content-type", b"application/grpc")]
_names = st.from_regex(rb"[a-z][a-z0-9-]{0,150}(?<!-bin)", fullmatch=True).filter(
    lambda name: name not in {b"te", b"connection", b"upgrade", b"content-length"} and not name.startswith(b"grpc-")
)
_values = st.from_regex(rb"[!-~]{0,200}", fullmatch=True)


def _reader() -> HeadReader:
    """Of a connection whose peer has no table any more."""
    reader = HeadReader(64 * 1024)
    reader.table_size_acknowledged()
    reader.read(b"\x20" + _block(_START, huffman=True))
    return reader


def _block(fields: list[tuple[bytes, bytes]], *, huffman: bool) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields, huffman=huffman)).removeprefix(b"\x20")


def test_rfc_example_is_read() -> None:
    """RFC 7541, C.4.1."""
    assert decoded(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"


@given(st.binary(max_size=40), st.integers(0, 8))
@example(b"\xff\xff\xff\xff", 0)
@example(b"\x07", 0)
@example(b"\xf8\xff", 0)
def test_any_octets_mean_what_they_mean_to_hpack(octets: bytes, ones: int) -> None:
    """RFC 7541, 5.2: the end-of-string code, and padding that is not its beginning, are errors."""
    octets += b"\xff" * (ones - 6)
    try:
        expected = decode_huffman(octets)
    except HPACKDecodingError:
        with pytest.raises(NotHuffman):
            decoded(octets)
    else:
        assert decoded(octets) == expected


@given(st.lists(st.tuples(_names, _values), max_size=6), st.booleans(), st.binary(min_size=1, max_size=3))
def test_fields_mean_what_they_mean_to_hpack(
    fields: list[tuple[bytes, bytes]], huffman: bool, representation: bytes
) -> None:
    """RFC 7541, 6.2: with, without and never with indexing; a name that came before is no shortcut to its value."""
    reader = _reader()
    for _ in range(2):
        block = _block(_START, huffman=huffman)
        for (name, value), kind in zip(fields, representation * 6, strict=False):
            literal = _block([(name, value)], huffman=huffman)
            if literal[:1] == b"\x00":
                literal = bytes([(0x00, 0x10, 0x40)[kind % 3]]) + literal[1:]
            block += literal
        expected = [(bytes(k), bytes(v)) for k, v in Decoder().decode(block, raw=True)]

        head = reader.read(block)

        assert head is not None
        assert [(k.encode(), str(v).encode()) for k, v in head.metadata] == expected[3:]
        fields = [(name, value[::-1] + b"x") for name, value in fields]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\x7f\x00\x01a", id="name of an entry beyond the static table"),
        pytest.param(b"\x0f\x2f\x01a", id="the same without indexing"),
        pytest.param(b"\x00\x01a\x84\xff\xff\xff\xff", id="end of string in a value"),
        pytest.param(b"\x00\x84\xff\xff\xff\xff\x01a", id="end of string in a name"),
        pytest.param(b"\x00\x01a\x05ab", id="value that is cut"),
        pytest.param(b"\x00\x05a", id="name that is cut"),
        pytest.param(b"\x00", id="nothing after the first octet"),
        pytest.param(b"\xbe", id="entry of a table that is empty"),
        pytest.param(b"\x00\x01a\xff\xff\xff\xff\xff\xff\x01", id="length without an end"),
    ],
)
def test_field_that_is_none_ends_the_connection(octets: bytes) -> None:
    """RFC 7541, 2.3.3 and 5: what cannot be decoded is an error, of the whole connection (RFC 9113, 4.3)."""
    with pytest.raises(ConnectionFault):
        _reader().read(_block(_START, huffman=True) + octets)
