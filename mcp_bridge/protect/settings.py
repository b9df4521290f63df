"""Settings of what the bridge holds MCP servers and their callers to."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["ProtectSettings"]


class ProtectSettings(CommonSettings):
    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    tools_lock: Path | None = None
    """Lock file of `secure-mcp-grpc tools lock`. Tools, prompts and resource templates that are not as it says are
    hidden and refused, and instructions of servers that are not as it says are kept from the model; without it nothing
    is pinned. Resources without a template are data, and are not pinned. It is read again when it changes."""
    tools_lock_key: Path | None = None
    """Public key (PEM, Ed25519) that must have signed the lock; without it a signature is not asked for."""
    tools_lock_new: Literal["refuse", "allow"] = "refuse"
    """What becomes of tools, prompts and templates that the lock does not know."""
    definitions_lifetime_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How long what a server said of a tool is relied on; then it is asked again before the next call."""

    validate_arguments: bool = True
    """Check the arguments of a call against the tool's input schema before the MCP server sees them."""
    validate_results: bool = True
    """Check structured results against the tool's output schema before the caller sees them."""
    unusable_schemas: Literal["refuse", "pass"] = "refuse"
    """What becomes of calls to a tool whose schema cannot be used: not JSON Schema, references to elsewhere, patterns
    or nesting beyond the limits."""

    @field_validator("tools_lock_key")
    @classmethod
    def _key_of_a_lock(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tools_lock") is None:
            raise ValueError("a key needs a lock: set tools_lock, too")
        return value
