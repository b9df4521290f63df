"""Statements taken apart as ClickHouse would, without an engine."""

import gzip
import zlib

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_sink.store import compression
from trace_sink.store.errors import StoreError
from trace_sink.store.statements import NeedMore, first_word, output_format, split_insert

INSERTS = [
    # text, statement, format, data
    (b"INSERT INTO t FORMAT CSV\n1,2", "INSERT INTO t", "CSV", b"1,2"),
    (b"INSERT INTO t FORMAT CSV\n\n1", "INSERT INTO t", "CSV", b"\n1"),
    (b"INSERT INTO t FORMAT CSV \r\n1", "INSERT INTO t", "CSV", b"1"),
    (b"insert into `t x` (\"b)\") format Native\n\x01\x02;", 'insert into `t x` ("b)")', "Native", b"\x01\x02;"),
    (b"INSERT INTO db.values VALUES (1)", "INSERT INTO db.values", "Values", b" (1)"),
    (b"INSERT INTO format FORMAT TSV\nx", "INSERT INTO format", "TSV", b"x"),
    (b"INSERT INTO TABLE t (a) VALUES (1); DROP TABLE t", "INSERT INTO TABLE t (a)", "Values", b" (1); DROP TABLE t"),
    (b"INSERT INTO t SETTINGS a = 'FORMAT X' FORMAT TSV\nx", "INSERT INTO t SETTINGS a = 'FORMAT X'", "TSV", b"x"),
    (b"--FORMAT X\nINSERT /* VALUES */ INTO t VALUES (2)", "--FORMAT X\nINSERT /* VALUES */ INTO t", "Values", b" (2)"),
    (b"INSERT INTO t SELECT 'FORMAT CSV'", "INSERT INTO t SELECT 'FORMAT CSV'", None, b""),
    (b"INSERT INTO t WITH 1 AS x SELECT x FORMAT CSV", "INSERT INTO t WITH 1 AS x SELECT x FORMAT CSV", None, b""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "statement", "format_name", "data"), INSERTS)
def test_insert_is_split_where_its_data_begins(text: bytes, statement: str, format_name: str, data: bytes) -> None:
    """ClickHouse: data follows VALUES, or FORMAT name and one line end."""
    head = split_insert(text, complete=True)

    assert (head.statement, head.format, text[head.data_start :]) == (statement, format_name, data)


@pytest.mark.parametrize(("text", "statement", "format_name", "data"), INSERTS)
def test_insert_that_arrives_in_pieces_is_split_the_same(
    text: bytes, statement: str, format_name: str, data: bytes
) -> None:
    """Ours: no prefix is split differently from the whole."""
    whole = split_insert(text, complete=True)
    for end in range(len(text)):
        try:
            head = split_insert(text[:end], complete=False)
        except NeedMore:
            continue
        assert head == whole


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "SELECT"),
        (" (( SELECT 1 ))", "SELECT"),
        ("/* INSERT */ -- x\n#!y\nWITH 1 AS x SELECT x", "WITH"),
        ("", ""),
        ("/* unfinished", ""),
        ("'x'", ""),
    ],
)
def test_first_word(sql: str, word: str) -> None:
    """Ours: behind comments and brackets."""
    assert first_word(sql) == word


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1\n format  CSV ; -- done\n", "CSV"),
        ("SELECT 1 FORMAT Native SETTINGS a = 1", "Native"),
        ("SELECT 'FORMAT JSON'", None),
        ("SELECT 1", None),
    ],
)
def test_output_format(sql: str, name: str | None) -> None:
    """ClickHouse: the final FORMAT clause."""
    assert output_format(sql) == name


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4), st.integers(1, 700))
@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("lz4", lz4.frame.compress)]
)
def test_frames_unpack_however_they_are_cut(coding: str, pack: object, parts: list[bytes], cut: int) -> None:
    """ClickHouse: a compressed body may be several frames; HTTP may cut it anywhere."""
    packed = b"".join(pack(part) for part in parts)  # type: ignore[operator]
    unpacker = compression.decompressor(coding)
    out = b"".join(piece for i in range(0, len(packed), cut) for piece in unpacker.feed(packed[i : i + cut]))
    unpacker.finish()

    assert out == b"".join(parts)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "lz4", "zstd"])
def test_what_is_packed_unpacks(coding: str) -> None:
    """Ours: both directions are the same coding; several feeds make one frame."""
    packer = compression.compressor(coding)
    packed = b"".join(packer.feed(b"x" * 100_000) for _ in range(3)) + packer.finish()
    unpacker = compression.decompressor(coding)

    assert b"".join(unpacker.feed(packed)) == b"x" * 300_000
    unpacker.finish()


def test_a_bomb_unfolds_in_steps() -> None:
    """Ours: no piece is larger than a few megabytes."""
    pieces = compression.decompressor("gzip").feed(gzip.compress(b"\0" * (64 << 20)))

    assert max(map(len, pieces)) <= 4 << 20
    assert sum(map(len, pieces)) == 64 << 20


@pytest.mark.parametrize("coding", ["gzip", "lz4"])
def test_body_that_ends_too_early_is_an_error(coding: str) -> None:
    """Ours: half a batch must not pass for a whole one."""
    packed = gzip.compress(b"x" * 1000) if coding == "gzip" else lz4.frame.compress(b"x" * 1000)
    unpacker = compression.decompressor(coding)
    unpacker.feed(packed[:-6])
    with pytest.raises(StoreError):
        unpacker.finish()
