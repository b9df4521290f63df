"""Where one sidecar keeps its things on this machine."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import private_directory, write_by_rename

__all__ = ["Home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of a sidecar's directory; nothing is made until it is asked for."""

    root: Path

    @classmethod
    def locate(cls, root: Path | None) -> Self:
        """The directory named, or `~/.secure-mcp-grpc`."""
        return cls((root or Path.home() / ".secure-mcp-grpc").expanduser().absolute())

    def prepare(self) -> None:
        """Make the private directories."""
        for directory in (self.root, self.run_dir, self.certs, self.secrets):
            private_directory(directory)

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def certs(self) -> Path:
        return self.root / "certs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def ca(self) -> Path:
        return self.certs / "ca"

    @property
    def policy(self) -> Path:
        return self.root / "policy.csv"

    def identity(self, name: str) -> Path:
        """Directory with tls.crt, tls.key and ca.crt of an identity: a name under `certs`, or a path."""
        directory = Path(name) if "/" in name else self.certs / name
        if not (directory / "tls.crt").exists():
            raise UserError(
                f"certificate {directory / 'tls.crt'} does not exist; make one with: secure-mcp-grpc certs issue {name}"
            )
        return directory

    def secret(self, name: str) -> str:
        """The secret `name`, made on first use (32 random bytes, mode 0600)."""
        path = self.secrets / name
        if not path.exists():
            write_by_rename(path, secrets.token_urlsafe(32).encode(), mode=0o600)
        return path.read_text(encoding="ascii").strip()
