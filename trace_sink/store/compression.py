"""HTTP content codings of the store, incremental in both directions.

gzip and deflate come with Python, lz4 (frame format, several frames in a row)
with the extra `store`; zstd where the machine has it.
"""

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from trace_sink.store import errors
from trace_sink.store.errors import StoreError

__all__ = ["Compressor", "Decompressor", "choose", "compressor", "decompressor"]

_MAX_STEP_BYTES = 4 << 20
"""Most that one step may unfold to, so that a small bomb does not become a large allocation."""


class Compressor(Protocol):
    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Decompressor(Protocol):
    def feed(self, data: bytes) -> list[bytes]:
        """What `data` unfolds to, in pieces."""
        ...

    def finish(self) -> None:
        """Raises `StoreError` if the data ended within a frame."""
        ...


def choose(accept_encoding: str) -> str:
    """The coding to answer in: the first acceptable of ours, "" for none."""
    offered = {part.partition(";")[0].strip().lower() for part in accept_encoding.split(",") if ";q=0" not in part}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in offered and _available(name)), "")


def compressor(coding: str) -> Compressor:
    if coding == "lz4":
        return _Lz4Compressor()
    if coding == "zstd":
        native = _zstd().ZstdCompressor(level=1)
        return _FlushingCompressor(native.compress, native.flush)
    zlib_native = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    return _FlushingCompressor(zlib_native.compress, zlib_native.flush)


def decompressor(coding: str) -> Decompressor:
    """Raises `StoreError` for a coding that is not known here."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return _Plain()
    if coding in ("gzip", "x-gzip"):
        return _Frames(lambda: _Zlib(31))
    if coding == "deflate":
        return _Frames(lambda: _Zlib(15))
    if coding == "lz4":
        return _Frames(importlib.import_module("lz4.frame").LZ4FrameDecompressor)
    if coding == "zstd" and _available("zstd"):
        return _Frames(_zstd().ZstdDecompressor)
    raise StoreError.of(errors.NOT_IMPLEMENTED, f"Content-Encoding {coding[:20]!r} is not supported")


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _available(coding: str) -> bool:
    return coding != "zstd" or _zstd() is not None


class _FlushingCompressor:
    def __init__(self, feed: Callable[[bytes], bytes], finish: Callable[[], bytes]) -> None:
        self.feed = feed
        self.finish = finish


class _Lz4Compressor:
    def __init__(self) -> None:
        self._native = importlib.import_module("lz4.frame").LZ4FrameCompressor()
        self._started = False

    def feed(self, data: bytes) -> bytes:
        head: bytes = b"" if self._started else self._native.begin()
        self._started = True
        return head + bytes(self._native.compress(data))

    def finish(self) -> bytes:
        return self.feed(b"") + bytes(self._native.flush())


class _Plain:
    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def finish(self) -> None:
        return


class _Zlib:
    """zlib's object with the interface of the others (`decompress(data, max_length)`, `needs_input`, `eof`)."""

    def __init__(self, window_bits: int) -> None:
        self._native = zlib.decompressobj(window_bits)
        self._full = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._native.decompress(self._native.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._native.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._native.eof

    @property
    def unused_data(self) -> bytes:
        return self._native.unused_data


class _Frames:
    """Any number of compressed frames, one after the other."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._frame: Any = None

    def feed(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        while data or (self._frame is not None and not self._frame.needs_input):
            if self._frame is None:
                self._frame = self._make()
            try:
                pieces.append(self._frame.decompress(data, _MAX_STEP_BYTES))
            except _damage():
                raise StoreError.of(errors.INCORRECT_DATA, "The compressed body is damaged") from None
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data or b""
                self._frame = None
        return [piece for piece in pieces if piece]

    def finish(self) -> None:
        if self._frame is not None:
            raise StoreError.of(errors.INCORRECT_DATA, "The compressed body ends too early")


def _damage() -> tuple[type[Exception], ...]:
    """What the libraries raise for data that is not of their format."""
    module = _zstd()
    return (RuntimeError, zlib.error, ValueError, *((module.ZstdError,) if module else ()))
