"""The lock file: what was approved of each tool, prompt and resource template, signed if a key is given.

Written by `secure-mcp-grpc tools lock` and `approve`, read by the bridge. It is
JSON for people to compare: sorted keys, one member a line. Order and spaces
do not count: the signature is over the canonical form.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcp_bridge.protect.definitions import KEYS, KINDS, Kind, Unreadable, canonical, read_definition
from secure_mcp_grpc import lifecycle, signing
from secure_mcp_grpc.calls import Malformed, parse_json_object
from secure_mcp_grpc.errors import UserError

__all__ = ["MAX_LOCK_BYTES", "Lock", "LockError", "encode", "exclusive", "parse", "read_lock", "write_lock"]

FORMAT: Final = "secure-mcp-grpc tools lock v1"
MAX_LOCK_BYTES: Final = 64 * 1024 * 1024
_SIGNATURE: Final = "signature"
_MEMBERS: Final = frozenset({"format", "servers", *KINDS, _SIGNATURE})

Definitions = Mapping[Kind, Mapping[str, Mapping[str, Any]]]


class LockError(ValueError):
    """A lock that cannot be relied on; the text is a sentence without the file's name."""


@dataclass(frozen=True, slots=True)
class Lock:
    """`definitions` by kind and name; `servers` is what each MCP server said of itself, for people."""

    definitions: Definitions
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    key: str = ""
    """Id of the key that signed it; "" for none."""

    def get(self, kind: Kind, name: str) -> Mapping[str, Any] | None:
        return self.definitions.get(kind, {}).get(name)


def encode(lock: Lock, key: Ed25519PrivateKey | None) -> bytes:
    """Equal locks under the same key give the same bytes."""
    document = _document(lock)
    if key is not None:
        named = signing.key_id(key.public_key())
        document[_SIGNATURE] = {"key": named, "value": signing.sign(key, _statement(document, named))}
    return json.dumps(document, ensure_ascii=True, allow_nan=False, indent=2, sort_keys=True).encode() + b"\n"


def parse(content: bytes, key: Ed25519PublicKey | None) -> Lock:
    """Raises `LockError`; with `key`, also where that key did not sign exactly this."""
    try:
        document = parse_json_object(content)
    except Malformed:
        raise LockError("it is not JSON in which every key stands once") from None
    if document.get("format") != FORMAT:
        raise LockError(f"it is not a file of format {FORMAT!r}")
    if unknown := sorted(set(document) - _MEMBERS):
        raise LockError(f"it has a member that is not known: {unknown[0][:64]!r}")
    signature = document.pop(_SIGNATURE, None)
    named = _check(document, signature, key)
    return Lock(_definitions(document), _servers(document), named)


def read_lock(path: Path, key: Ed25519PublicKey | None) -> Lock:
    """Raises `UserError` naming the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise UserError(f"tools lock {path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_LOCK_BYTES:
        raise UserError(f"tools lock {path} is larger than {MAX_LOCK_BYTES} bytes")
    try:
        return parse(content, key)
    except LockError as error:
        raise UserError(f"tools lock {path}: {error}") from None


def write_lock(path: Path, lock: Lock, key: Ed25519PrivateKey | None) -> None:
    """By rename, so that a reader sees the old or the new one. Raises `UserError`."""
    try:
        lifecycle.write_by_rename(path, encode(lock, key), mode=0o644)
    except OSError as error:
        raise UserError(f"tools lock {path} cannot be written: {error.strerror}") from None


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Two that change one lock at the same time take turns; `path.guard` stays behind, empty."""
    guard = path.with_name(f"{path.name}.guard")
    try:
        descriptor = os.open(guard, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"tools lock {path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _document(lock: Lock) -> dict[str, Any]:
    return {"format": FORMAT, "servers": dict(lock.servers)} | {
        kind: dict(lock.definitions.get(kind, {})) for kind in KINDS
    }


def _statement(document: Mapping[str, Any], named: str) -> bytes:
    return f"{FORMAT}\n{named}\n".encode() + canonical(document)


def _check(document: Mapping[str, Any], signature: Any, key: Ed25519PublicKey | None) -> str:
    """The id of the key that is said to have signed it."""
    if signature is None:
        if key is not None:
            raise LockError("it is not signed")
        return ""
    if not isinstance(signature, dict) or set(signature) != {"key", "value"}:
        raise LockError("its signature is not of its form")
    named, value = signature["key"], signature["value"]
    if not isinstance(named, str) or not isinstance(value, str):
        raise LockError("its signature is not of its form")
    if key is None:
        return named
    if named != signing.key_id(key):
        raise LockError(f"it is signed by another key than {signing.key_id(key)}")
    try:
        statement = _statement(document, named)
    except (ValueError, RecursionError):
        raise LockError("it holds what is not valid Unicode") from None
    if not signing.verifies(value, statement, [key], named):
        raise LockError("its signature does not fit: it was changed after it was signed")
    return named


def _definitions(document: Mapping[str, Any]) -> Definitions:
    found: dict[Kind, dict[str, Mapping[str, Any]]] = {}
    for kind in KINDS:
        named = document.get(kind)
        if not isinstance(named, dict):
            raise LockError(f"its member {kind} is not an object")
        for name, definition in named.items():
            _check_definition(kind, name, definition)
        found[kind] = named
    return found


def _check_definition(kind: Kind, name: str, definition: Any) -> None:
    try:
        fits = isinstance(definition, dict) and read_definition(kind, canonical(definition))[KEYS[kind]] == name
    except (Unreadable, ValueError, RecursionError):
        fits = False
    if not fits:
        raise LockError(f"what it says of {name[:64]!a} in {kind} is not of its form")


def _servers(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    servers = document.get("servers")
    if not isinstance(servers, dict) or not all(isinstance(one, dict) for one in servers.values()):
        raise LockError("its member servers is not an object of objects")
    return servers
