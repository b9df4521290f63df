"""Key files of the audit: the HMAC key that seals records, the Ed25519 key that signs anchors."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from authz_service.audit.seals import Seal
from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.errors import UserError

__all__ = ["public_path", "public_pem", "read_anchor_key", "read_public_key", "read_seal"]

_LEAST_BYTES: Final = 32
"""As long as the hash (RFC 2104, 3)."""
_MOST_BYTES: Final = 64 * 1024


def read_seal(path: Path) -> Seal:
    """The seal with the key in `path`: 32 bytes or more, as they are. Raises `UserError`."""
    key = _read_secret(path, "HMAC key")
    if len(key) < _LEAST_BYTES:
        raise UserError(f"HMAC key {path} has {len(key)} bytes; expected at least {_LEAST_BYTES}")
    return Seal.keyed(key)


def read_anchor_key(path: Path) -> Ed25519PrivateKey:
    """The private key in `path` (PEM, PKCS 8), made with mode 0600 if missing; `path.pub` is kept beside it.

    Raises `UserError`.
    """
    try:
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            lifecycle.write_by_rename(path, pem, mode=0o600)
    except OSError as error:
        raise UserError(f"anchor key {path} cannot be made: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(_read_secret(path, "anchor key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"anchor key {path} is not an Ed25519 private key (PEM, PKCS 8, without a password)")
    _write_public(path, key.public_key())
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key (PEM). Raises `UserError`."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"anchor public key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is not an Ed25519 public key (PEM)")
    return key


def public_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _write_public(path: Path, key: Ed25519PublicKey) -> None:
    """For people; a mounted secret's directory cannot be written, and need not be."""
    public, content = public_path(path), public_pem(key)
    with suppress(OSError):
        if not public.exists() or public.read_bytes() != content:
            lifecycle.write_by_rename(public, content, mode=0o644)


def _read_secret(path: Path, what: str) -> bytes:
    """The content of a file that nobody else may read.

    One that belongs to another user (a mounted secret belongs to root) may
    be readable by our group; ours has mode 0600.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o027
    if status.st_mode & forbidden:
        raise UserError(f"{what} {path} is open to other users; run: chmod 600 {path}")
    return content
