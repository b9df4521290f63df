"""Key files of the audit: the HMAC key that seals records, the Ed25519 key that signs anchors."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from authz_service.audit.seals import Seal
from secure_mcp_grpc import signing
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.signing import public_path, public_pem

__all__ = ["public_path", "public_pem", "read_anchor_key", "read_public_key", "read_seal"]

_LEAST_BYTES: Final = 32
"""As long as the hash (RFC 2104, 3)."""


def read_seal(path: Path) -> Seal:
    """The seal with the key in `path`: 32 bytes or more, as they are. Raises `UserError`."""
    key = signing.read_secret(path, "HMAC key")
    if len(key) < _LEAST_BYTES:
        raise UserError(f"HMAC key {path} has {len(key)} bytes; expected at least {_LEAST_BYTES}")
    return Seal.keyed(key)


def read_anchor_key(path: Path) -> Ed25519PrivateKey:
    """See `signing.read_private_key`: made if missing."""
    return signing.read_private_key(path, "anchor key")


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key (PEM). Raises `UserError`."""
    return signing.read_public_key(path, "anchor public key")
