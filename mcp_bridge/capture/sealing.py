"""Payloads that only the owner of a private key can read: the bridge seals them, the store never has that key.

An envelope is ASCII text: `sealed1.<key id>.<base64url>` of ephemeral public
key (32 bytes), nonce (12) and ciphertext. X25519 between the ephemeral and
the recipient's key, HKDF-SHA-256, ChaCha20-Poly1305; the head is
authenticated too. One ephemeral key serves up to 4,096 payloads, each under
its own nonce, since a key agreement costs fifty times a sealing.
"""

import base64
import binascii
import contextlib
import hashlib
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from secure_mcp_grpc.errors import UserError

__all__ = ["ENCODING", "Sealer", "load_private_key", "load_public_key", "open_payload"]

ENCODING: Final = "sealed1"
"""`payload_encoding` of a record whose payloads are sealed."""
_PAYLOADS_PER_KEY: Final = 4096
_PUBLIC_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealer:
    """Seals for one recipient. For one thread."""

    def __init__(self, recipient: X25519PublicKey) -> None:
        self._recipient = recipient
        self._head = f"{ENCODING}.{_key_id(recipient)}."
        self._count = _PAYLOADS_PER_KEY
        self._public = b""
        self._cipher: ChaCha20Poly1305

    def seal(self, text: str) -> str:
        """The envelope of `text`; "" stays "", so that an absent payload is seen to be absent."""
        if not text:
            return ""
        if self._count >= _PAYLOADS_PER_KEY:
            self._renew()
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        self._count += 1
        box = self._cipher.encrypt(nonce, text.encode("utf-8", "backslashreplace"), self._head.encode())
        return self._head + base64.urlsafe_b64encode(self._public + nonce + box).decode()

    def _renew(self) -> None:
        ephemeral = X25519PrivateKey.generate()
        self._public = ephemeral.public_key().public_bytes_raw()
        self._cipher = _cipher(ephemeral.exchange(self._recipient), self._public, self._recipient)
        self._count = 0


def open_payload(private_key: X25519PrivateKey, text: str) -> str:
    """What was sealed in `text`; text that is no envelope is given back as it is.

    Raises `UserError` for an envelope that is sealed for another key, or damaged.
    """
    if not text.startswith(f"{ENCODING}."):
        return text
    head, _, body = text.rpartition(".")
    recipient = private_key.public_key()
    if head != f"{ENCODING}.{_key_id(recipient)}":
        raise UserError("this payload is sealed for another key; its second part is the id of that key")
    try:
        raw = base64.b64decode(body, altchars=b"-_", validate=True)
        public, nonce = raw[:_PUBLIC_BYTES], raw[_PUBLIC_BYTES : _PUBLIC_BYTES + _NONCE_BYTES]
        shared = private_key.exchange(X25519PublicKey.from_public_bytes(public))
        cipher = _cipher(shared, public, recipient)
        return cipher.decrypt(nonce, raw[_PUBLIC_BYTES + _NONCE_BYTES :], f"{head}.".encode()).decode()
    except (binascii.Error, ValueError, InvalidTag):
        raise UserError("this payload is damaged: it does not open under its key") from None


def load_public_key(path: Path) -> X25519PublicKey:
    """A PEM public key, as `openssl pkey -pubout` writes it. Raises `UserError`."""
    key: object = None
    try:
        with contextlib.suppress(ValueError):
            key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"capture_public_key_file {path} cannot be read: {error.strerror}") from None
    if not isinstance(key, X25519PublicKey):
        raise UserError(f"capture_public_key_file {path} is not an X25519 public key in PEM; a private one is refused")
    return key


def load_private_key(path: Path) -> X25519PrivateKey:
    """A PEM private key, as `openssl genpkey -algorithm X25519` writes it. Raises `UserError`."""
    key: object = None
    try:
        with contextlib.suppress(ValueError, TypeError):
            key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UserError(f"private key {path} cannot be read: {error.strerror}") from None
    if not isinstance(key, X25519PrivateKey):
        raise UserError(f"{path} is not an X25519 private key in PEM without a password")
    return key


def _key_id(public: X25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:8]


def _cipher(shared: bytes, ephemeral: bytes, recipient: X25519PublicKey) -> ChaCha20Poly1305:
    info = b"secure-mcp-grpc capture 1" + ephemeral + recipient.public_bytes_raw()
    return ChaCha20Poly1305(HKDF(hashes.SHA256(), 32, None, info).derive(shared))
