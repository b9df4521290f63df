"""The two users of the embedded store and the files with their passwords."""

import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path

from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.errors import UserError
from trace_sink.store.statements import Role

__all__ = ["Users", "read_or_make"]


def read_or_make(path: Path) -> str:
    """The password in `path`; a file that is missing is made, 0600, with 256 random bits."""
    try:
        if not path.exists():
            lifecycle.write_by_rename(path, (secrets.token_urlsafe(32) + "\n").encode(), mode=0o600)
        if path.stat().st_mode & 0o077:
            raise UserError(f"password file {path} is open to other users; run: chmod 600 {path}")
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"password file {path} cannot be used: {getattr(error, 'strerror', 'not UTF-8')}") from None
    if len(password) < 8:
        raise UserError(f"password file {path} holds less than 8 characters; remove it to have one made")
    return password


class Users:
    """Checks names and passwords in constant time."""

    def __init__(self, passwords: Mapping[Role, str]) -> None:
        self._passwords = {role.value: (role, password.encode()) for role, password in passwords.items()}

    def role(self, user: str, password: str) -> Role | None:
        """Whose name and password these are; None for a wrong password and for an unknown user alike."""
        role, expected = self._passwords.get(user, (None, b"\0no such user\0"))
        right = hmac.compare_digest(password.encode(errors="surrogateescape"), expected)
        return role if right else None
