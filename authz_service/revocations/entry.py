"""One revocation: what it names, how it is written, and which of two versions counts. Pure.

Every change of an entry is a newer version of it (`at_us`), and lifting one is
a version too, so that copies in files, in Redis and in memory can be merged in
any order with the same result, and absence never means anything.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from secure_mcp_grpc import spiffe
from secure_mcp_grpc.errors import UserError

__all__ = ["KINDS", "Damaged", "Entry", "Kind", "canonical", "decode", "decode_all", "encode", "encode_all", "merged"]

Kind = Literal["token", "user", "certificate", "identity"]
KINDS: Final[tuple[Kind, ...]] = ("token", "user", "certificate", "identity")

FINGERPRINT_DIGITS: Final = 64
_MAX_SERIAL_DIGITS: Final = 40
"""RFC 5280, 4.1.2.2: at most 20 octets."""
_MAX_VALUE_CHARS: Final = 2048
_MAX_TEXT_CHARS: Final = 500
_TOMBSTONE_US: Final = 30 * 24 * 3600 * 1_000_000
_GRACE_US: Final = 60 * 1_000_000
_MAX_US: Final = 2**53 - 1
_HEX: Final = re.compile(r"[0-9a-f]+")


class Damaged(ValueError):
    """What was read is not a revocation. Its text is one sentence."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of one revocation or quarantine."""

    kind: Kind
    value: str
    """As `canonical` writes it."""
    issuer: str = ""
    """Of a token: name of the issuer it is for; empty for all."""
    quarantine: bool = False
    lifted: bool = False
    """No longer in force, by somebody's word."""
    at_us: int
    """When this version was made, microseconds since the epoch; the newest counts."""
    until_us: int = 0
    """In force before this, microseconds since the epoch; 0 for ever."""
    reason: str = ""
    """For operators; never shown to the one it concerns."""
    by: str = ""

    @property
    def id(self) -> str:
        """What it is about; two versions with one id are versions of the same."""
        what = f"quarantine:{self.kind}" if self.quarantine else self.kind
        return f"{what}:{quote(self.issuer, safe='')}:{self.value}"

    def in_force(self, now_us: int) -> bool:
        return not self.lifted and (self.until_us == 0 or now_us < self.until_us)

    def over(self, now_us: int) -> bool:
        """Whether it can be forgotten.

        A lifted one is remembered until no copy of what it lifted can still be in force, or for 30 days: a copy that
        comes back after that is in force again.
        """
        if self.until_us:
            return now_us > self.until_us + _GRACE_US
        return self.lifted and now_us > self.at_us + _TOMBSTONE_US

    def newer_than(self, other: "Entry") -> bool:
        """A total order: of two versions of one moment, the one in force counts."""
        return (self.at_us, not self.lifted, encode(self)) > (other.at_us, not other.lifted, encode(other))

    def __str__(self) -> str:
        return f"{self.kind} {self.value}" + (f" of {self.issuer}" if self.issuer else "")


def canonical(kind: Kind, text: str) -> str:
    """The one way to write what is revoked; raises `UserError` for what can never match anything.

    Certificates: fingerprint (SHA-256) or serial number, hex, colons and case as you like, leading zeros without
    meaning. Identities: path in the first trust domain, or a SPIFFE ID. Users: `user:<issuer>:<sub>`. Identities and
    users are found whatever their case: one who changes it must not escape.
    """
    value = text.strip()
    if not value or len(value) > _MAX_VALUE_CHARS or not value.isprintable():
        raise UserError(f"{kind} {text[:50]!r}: expected 1 to {_MAX_VALUE_CHARS} printable characters")
    if kind == "certificate":
        return _certificate(value)
    if kind == "user":
        return _user(value)
    return _identity(value) if kind == "identity" else value


def _certificate(text: str) -> str:
    digits = text.lower().removeprefix("sha256:").removeprefix("0x").replace(":", "").replace(" ", "")
    if _HEX.fullmatch(digits):
        if len(digits) == FINGERPRINT_DIGITS:
            return digits
        serial = digits.lstrip("0")
        if serial and len(serial) <= _MAX_SERIAL_DIGITS:
            return serial
    raise UserError(
        f"certificate {text!r}: expected a SHA-256 fingerprint ({FINGERPRINT_DIGITS} hex digits) "
        f"or a serial number (up to {_MAX_SERIAL_DIGITS} hex digits)"
    )


def _user(text: str) -> str:
    """An actor of an issuer that is not configured is written `<iss>#<sub>`, as records have it."""
    prefix, _, rest = text.partition(":")
    issuer, _, sub = rest.partition(":")
    if prefix.lower() == "user" and issuer and sub:
        return f"user:{rest}".casefold()
    iss, _, sub = text.partition("#")
    if "://" in iss and sub:
        return text.casefold()
    raise UserError(f"user {text!r}: expected user:<issuer>:<sub>, as records write it")


def _identity(text: str) -> str:
    if "://" in text:
        if spiffe.parse(text.casefold()) is None:
            raise UserError(f"identity {text!r}: expected spiffe://<trust domain>/<path>")
    elif not all(map(spiffe.is_segment, text.split("/"))):
        raise UserError(f"identity {text!r}: expected the path of a SPIFFE ID, such as model-a, or a whole SPIFFE ID")
    return text.casefold()


def encode(entry: Entry) -> bytes:
    """One entry as JSON, always the same bytes."""
    return _encoder.encode(entry)


def decode(text: bytes, where: str) -> Entry:
    """Raises `Damaged`, which begins with `where`, for anything but an entry as `encode` writes it."""
    try:
        entry = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Damaged(f"{where} is not a revocation") from None
    return _checked(entry, where)


def encode_all(entries: Iterable[Entry]) -> bytes:
    """The file: one entry a line, sorted, so that versions of it can be compared."""
    lines = sorted(encode(entry).decode() for entry in entries)
    return ('{"format":1,"entries":[\n' + ",\n".join(lines) + "\n]}\n").encode()


def decode_all(text: bytes, where: str) -> list[Entry]:
    """Raises `Damaged` unless every entry can be read: half a list would revive the rest."""
    try:
        document = _file_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise Damaged(f"{where} is not a list of revocations: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Damaged(f"{where} is not valid JSON") from None
    return [_checked(entry, f"{where}, entry {number}") for number, entry in enumerate(document.entries, 1)]


def merged(known: Mapping[str, Entry], arriving: Iterable[Entry]) -> dict[str, Entry]:
    """Those of `arriving` that are new, or newer than what is `known`, by id."""
    news: dict[str, Entry] = {}
    for entry in arriving:
        current = news.get(entry.id) or known.get(entry.id)
        if current is None or entry.newer_than(current):
            news[entry.id] = entry
    return news


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    entries: list[Entry]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)
_file_decoder = msgspec.json.Decoder(_File)


def _checked(entry: Entry, where: str) -> Entry:
    try:
        fits = canonical(entry.kind, entry.value) == entry.value
    except UserError as error:
        raise Damaged(f"{where}: {error}") from None
    if not fits:
        raise Damaged(f"{where}: {entry.kind} {entry.value!r} must be written {canonical(entry.kind, entry.value)!r}")
    if not 0 < entry.at_us <= _MAX_US or not 0 <= entry.until_us <= _MAX_US:
        raise Damaged(f"{where}: times are microseconds since the epoch")
    if max(len(entry.reason), len(entry.by), len(entry.issuer)) > _MAX_TEXT_CHARS:
        raise Damaged(f"{where}: texts are limited to {_MAX_TEXT_CHARS} characters")
    if entry.issuer and entry.kind != "token":
        raise Damaged(f"{where}: only a token has an issuer")
    if entry.quarantine and entry.kind not in ("identity", "user"):
        raise Damaged(f"{where}: only identities and users are quarantined")
    return entry
