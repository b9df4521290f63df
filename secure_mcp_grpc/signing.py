"""Ed25519 keys in PEM files, and their ids: for what services and people sign and check."""

import base64
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.errors import UserError

__all__ = [
    "key_id",
    "public_path",
    "public_pem",
    "read_private_key",
    "read_public_key",
    "read_secret",
    "sign",
    "verifies",
]

_MOST_BYTES: Final = 64 * 1024


def key_id(key: Ed25519PublicKey) -> str:
    """The beginning of the hash of the raw public key, hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, statement: bytes) -> str:
    """The signature, base64."""
    return base64.b64encode(key.sign(statement)).decode()


def verifies(signature: str, statement: bytes, keys: Iterable[Ed25519PublicKey], named: str) -> bool:
    """Whether the key of `keys` that has the id `named` made `signature` (base64)."""
    for key in keys:
        if key_id(key) != named:
            continue
        try:
            key.verify(base64.b64decode(signature, validate=True), statement)
        except (InvalidSignature, ValueError):
            return False
        return True
    return False


def read_private_key(path: Path, what: str) -> Ed25519PrivateKey:
    """The private key in `path` (PEM, PKCS 8), made with mode 0600 if missing; `path.pub` is kept beside it.

    `what` names it in the `UserError` that is raised for any other file.
    """
    try:
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            lifecycle.write_by_rename(path, pem, mode=0o600)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be made: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(read_secret(path, what), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{what} {path} is not an Ed25519 private key (PEM, PKCS 8, without a password)")
    _write_public(path, key.public_key())
    return key


def read_public_key(path: Path, what: str) -> Ed25519PublicKey:
    """An Ed25519 public key (PEM). Raises `UserError`."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is not an Ed25519 public key (PEM)")
    return key


def public_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_secret(path: Path, what: str) -> bytes:
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


def _write_public(path: Path, key: Ed25519PublicKey) -> None:
    """For people; a mounted secret's directory cannot be written, and need not be."""
    public, content = public_path(path), public_pem(key)
    with suppress(OSError):
        if not public.exists() or public.read_bytes() != content:
            lifecycle.write_by_rename(public, content, mode=0o644)
