"""Short hashes under a key: equal values can be followed through records, but not read or guessed without the key."""

import hashlib
import hmac
import logging
import secrets
from pathlib import Path
from typing import Final

from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError

__all__ = ["Keyed", "load_key"]

logger = logging.getLogger(__name__)

_MIN_KEY_BYTES: Final = 16


class Keyed:
    """HMAC-SHA-256 under one key. Values of 32 bits (tags) may collide; digests have 64."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def tag(self, value: bytes) -> str:
        """Eight hex digits."""
        return hmac.digest(self._key, value, "sha256")[:4].hex()

    def digest(self, value: bytes) -> str:
        """Sixteen hex digits, of another family than tags."""
        return hmac.digest(self._key, b"lineage\0" + value, "sha256")[:8].hex()

    def chosen(self, trace_id: str, rate: float) -> bool:
        """Whether a trace is among the `rate` (0 to 1) that are kept: all its hops agree, and no client can tell."""
        if rate >= 1:
            return True
        drawn = hmac.digest(self._key, b"sample\0" + trace_id.encode(), hashlib.sha256)[:4]
        return int.from_bytes(drawn, "big") < rate * 2**32


def load_key(path: Path | None) -> Keyed:
    """The key in `path`, at least 16 bytes; without one a random key, whose hashes nobody else can compare.

    Raises `UserError`.
    """
    if path is None:
        logs.event(
            logger,
            logging.INFO,
            "capture_key_is_random",
            setting="capture_key_file",
            effect="hashes of values cannot be compared with those of other sidecars, or after a restart",
        )
        return Keyed(secrets.token_bytes(32))
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"capture_key_file {path} cannot be read: {error.strerror}") from None
    if len(key) < _MIN_KEY_BYTES:
        raise UserError(f"capture_key_file {path} holds {len(key)} bytes; at least {_MIN_KEY_BYTES} are needed")
    return Keyed(key)
