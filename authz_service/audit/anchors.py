"""Anchors: signed statements that a chain had a certain hash at a certain number. Pure.

Who can write the journal can seal a forged one, or cut off its end. An anchor
pins what it names and, through the hashes, everything before: what an anchor
names cannot be changed or cut off without the private key. What follows the
last anchor can be cut off without a trace in the journal alone; the store and
anchors that were shipped elsewhere close that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secure_mcp_grpc import signing
from secure_mcp_grpc.signing import key_id

__all__ = ["Anchor", "AnchorBook", "Pin", "encode", "key_id", "parse", "sign", "verify"]

_CONTEXT: Final = "secure-mcp-grpc anchor v1"


class Anchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of `anchors.jsonl`, and the `rule` of a journal record of kind `anchor`."""

    chain: str
    seq: int
    hash: str
    """Of record `seq`, hex."""
    ts: str
    """When it was signed; as `DecisionRecord.ts`."""
    key: str
    """Id of the public key."""
    signature: str = ""
    """Ed25519 over `statement`, base64."""

    def statement(self) -> bytes:
        """What is signed: the fields, a line each; `parse` lets no newline into one."""
        return "\n".join((_CONTEXT, self.chain, str(self.seq), self.hash, self.ts, self.key)).encode()


_DECODER: Final = msgspec.json.Decoder(Anchor)


def sign(key: Ed25519PrivateKey, chain: str, seq: int, digest: str, ts: str) -> Anchor:
    unsigned = Anchor(chain=chain, seq=seq, hash=digest, ts=ts, key=key_id(key.public_key()))
    return msgspec.structs.replace(unsigned, signature=signing.sign(key, unsigned.statement()))


def encode(anchor: Anchor) -> bytes:
    return msgspec.json.encode(anchor)


def parse(line: bytes | str) -> Anchor | None:
    """The anchor in a line; None for what is none."""
    try:
        anchor = _DECODER.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if "\n" in anchor.chain + anchor.hash + anchor.ts + anchor.key else anchor


def verify(anchor: Anchor, keys: Iterable[Ed25519PublicKey]) -> bool:
    """Whether one of `keys` signed it."""
    return signing.verifies(anchor.signature, anchor.statement(), keys, anchor.key)


@dataclass(frozen=True, slots=True)
class Pin:
    """What an anchor says of one record, and where the anchor stands."""

    hash: str
    ts: str
    place: str


class AnchorBook:
    """Anchors by chain and number: about 300 bytes of memory each."""

    def __init__(self) -> None:
        self._pins: dict[str, dict[int, Pin]] = {}

    def add(self, anchor: Anchor, place: str) -> bool:
        """Take an anchor; False where another one says something else of the same record."""
        pins = self._pins.setdefault(anchor.chain, {})
        known = pins.setdefault(anchor.seq, Pin(anchor.hash, anchor.ts, place))
        return known.hash == anchor.hash

    def of(self, chain: str) -> dict[int, Pin]:
        return self._pins.get(chain, {})

    def __iter__(self) -> Iterator[tuple[str, dict[int, Pin]]]:
        return iter(self._pins.items())

    def __len__(self) -> int:
        return sum(map(len, self._pins.values()))
