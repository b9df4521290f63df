"""Settings of the journal and of its audit."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["JournalSettings"]


class JournalSettings(CommonSettings):
    """Where decisions are recorded, and what proves that nobody changed them."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    journal_dir: Path = Path("journal")
    """Private directory (0700) of the decision journal, its anchors, and the shipper's cursor."""

    journal_fsync_s: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    """Longest time that a written record waits to be forced to the disk."""

    journal_rotate_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024
    """A journal file is closed before it grows beyond this."""

    journal_keep_bytes: Annotated[int, Field(ge=4096)] = 1024 * 1024 * 1024
    """Shipped journal files are removed, oldest first, while all files together are larger than this."""

    journal_key_file: Path | None = None
    """File of 32 random bytes or more (0600): records are then sealed with HMAC-SHA256, which only who has the key can
    check or forge. Without it, with SHA-256."""

    anchor_interval_s: Annotated[float, Field(ge=0.1, le=86_400)] = 60.0
    """An anchor, a signed statement of where the journal stands, is written this often while there is something new,
    and at the end."""

    anchor_key_file: Path | None = None
    """Ed25519 private key (PEM, PKCS 8, 0600) that signs anchors; made if missing, the public key beside it as `.pub`.
    Without it, `anchor.key` in `journal_dir`."""
