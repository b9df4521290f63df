"""Tokens verified lately, by the SHA-256 of the header that brought them: tokens themselves are not kept."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from authz_service.tokens.claims import Bearer
from authz_service.tokens.metrics import TokenMetrics

__all__ = ["LONGEST_S", "TokenCache"]

LONGEST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Entry:
    bearer: Bearer
    issuer: str
    version: int
    until_s: float


class TokenCache:
    """The last `size` verified tokens, each for at most a minute, and never beyond its end or a change of keys."""

    def __init__(self, size: int, metrics: TokenMetrics) -> None:
        self._size = size
        self._count = metrics.cache
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def get(self, authorization: str, now_s: float) -> tuple[str, int, Bearer] | None:
        """Issuer's name, version of its keys, and bearer. Whether the version is still in force is for the caller."""
        digest = sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        entry = self._entries.get(digest)
        if entry is None or now_s >= entry.until_s:
            self._count.misses += 1
            return None
        self._entries.move_to_end(digest)
        self._count.hits += 1
        return entry.issuer, entry.version, entry.bearer

    def put(self, authorization: str, issuer: str, version: int, bearer: Bearer, now_s: float) -> None:
        until_s = min(bearer.principal.expires_s, now_s + LONGEST_S)
        digest = sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        self._entries[digest] = _Entry(bearer, issuer, version, until_s)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
