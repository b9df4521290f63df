"""Where the bearer token of each call comes from: a file, an environment variable, or an issuer (`oauth`)."""

import re
from pathlib import Path
from typing import Protocol

from secure_mcp_grpc.errors import UserError

__all__ = ["FileToken", "FixedToken", "NoToken", "TokenSource", "checked"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class NoToken(Exception):
    """There is no token to send now. Its text is one sentence and fit for the local client."""


class TokenSource(Protocol):
    async def token(self) -> str:
        """The token to send with the next call; raises `NoToken`."""
        ...

    def refused(self) -> None:
        """The sidecar did not take the last one."""

    async def close(self) -> None: ...


def checked(text: str) -> str:
    """A bearer token without the space around it (RFC 6750, 2.1); raises `ValueError` for anything else."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError("not a bearer token")
    return token


class FixedToken:
    """From an environment variable, which nobody changes in a running process. Raises `UserError`."""

    def __init__(self, text: str, variable: str) -> None:
        try:
            self._token = checked(text)
        except ValueError:
            raise UserError(f"${variable} does not hold a token") from None

    async def token(self) -> str:
        return self._token

    def refused(self) -> None:
        return None

    async def close(self) -> None:
        return None


class FileToken:
    """Read again when the file was replaced, as a projected Kubernetes token is. Raises `UserError` at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._token = ""
        try:
            self._read()
        except OSError as error:
            raise UserError(f"token file {path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise UserError(f"token file {path} does not hold a token") from None

    async def token(self) -> str:
        try:
            self._read()
        except (OSError, ValueError):
            raise NoToken(f"the token file {self._path.name} cannot be read or holds no token") from None
        return self._token

    def refused(self) -> None:
        self._version = None

    async def close(self) -> None:
        return None

    def _read(self) -> None:
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_ino)
        if version != self._version:
            self._token = checked(self._path.read_text(encoding="ascii"))
            self._version = version
