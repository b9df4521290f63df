"""How a journal line is sealed: its last field is a hash over everything before it. Pure.

The hash is SHA-256, or HMAC-SHA256 where a key is set, in hex, over the line
as it would be without its `hash` field. With SHA-256 anybody can check a line,
and anybody who can write the journal can also seal a forged one; with a key
only who has it can do either.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["HASH_BYTES", "PLAIN", "Seal", "split_line", "stated_key"]

HASH_BYTES: Final = 75
"""Length of `,"hash":"<64 hex digits>"}`, with which every line ends."""

_OPEN: Final = b',"hash":"'
_CLOSE: Final = b'"}'
_KEYED: Final = "hmac-sha256:"


@dataclass(frozen=True, slots=True)
class Seal:
    """A way to seal. `key_id` is empty for plain SHA-256."""

    digest: Callable[[bytes], str]
    """Hash in hex of a line without its `hash` field."""
    key_id: str = ""

    @classmethod
    def keyed(cls, key: bytes) -> "Seal":
        """HMAC-SHA256 with `key`; the id is the beginning of a hash of the key."""
        return cls(lambda body: hmac.digest(key, body, "sha256").hex(), hashlib.sha256(b"id:" + key).hexdigest()[:16])

    @property
    def statement(self) -> str:
        """What a chain's `start` record says of its seal, in `rule`."""
        return f"{_KEYED}{self.key_id}" if self.key_id else ""

    def fits(self, line: bytes) -> bool:
        """Whether the content of a line (without newline) fits its hash."""
        return line[-HASH_BYTES:] == b"%s%s%s" % (_OPEN, self.digest(line[:-HASH_BYTES] + b"}").encode(), _CLOSE)


PLAIN: Final = Seal(lambda body: hashlib.sha256(body).hexdigest())


def stated_key(rule: str) -> str:
    """The key id in a `start` record's `rule`; empty for plain SHA-256."""
    return rule.removeprefix(_KEYED) if rule.startswith(_KEYED) else ""


def split_line(line: bytes) -> tuple[bytes, str] | None:
    """A line as what is hashed and the hash that it states; None for what is not of the form."""
    tail = line[-HASH_BYTES:]
    stated = tail[len(_OPEN) : -len(_CLOSE)]
    if not (tail.startswith(_OPEN) and tail.endswith(_CLOSE) and len(stated) == 64):
        return None
    try:
        return line[:-HASH_BYTES] + b"}", stated.decode("ascii")
    except UnicodeDecodeError:
        return None
