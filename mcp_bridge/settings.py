"""Settings of mcp_bridge: which MCP servers it serves, and its limits."""

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["BridgeSettings", "UpstreamSettings"]

UpstreamName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class UpstreamSettings(BaseModel):
    """One MCP server: exactly one of `command` (stdio), `url` (streamable HTTP) and `target` (in this process)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    command: Annotated[list[str], Field(min_length=1)] | None = None
    """Program and arguments. It gets a small environment (PATH, HOME, locale, …) and what `env` adds."""
    env: dict[str, str] = {}
    """Further environment variables for `command`."""
    cwd: str | None = None
    """Its working directory."""
    url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Endpoint of a streamable HTTP server, such as `http://127.0.0.1:8000/mcp`."""
    target: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    """`package.module:server`: an MCPServer, a low-level Server, or a function without arguments that returns one."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("command", "url", "target") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError("an upstream has exactly one of command, url and target")
        if self.command is None and (self.env or self.cwd):
            raise ValueError("env and cwd belong to an upstream with a command")
        return self


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('expected JSON like {"time": {"command": ["mcp-server-time"]}}') from None


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class BridgeSettings(CommonSettings):
    """Section `bridge`, variables `MCP_BRIDGE_…`; `MCP_BRIDGE_UPSTREAMS` holds the same mapping as JSON."""

    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], BeforeValidator(_from_json)] = Field(default={})
    """Name → MCP server."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9091
    """Their port; 0 lets the system choose, the announcement states it."""

    max_request_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    """Largest message from a client."""
    max_answer_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Largest message from an upstream, and all that is held for one slow reader."""

    list_filter: Annotated[Literal["policy", "off"], BeforeValidator(_off)] = "policy"
    """`policy`: lists of tools, prompts and resources show what their caller may use. `off`: they show all that the
    MCP servers offer; calls are refused all the same."""
    authz_address: str = ""
    """gRPC address of authz_service, which judges lists; empty means `unix:<run_dir>/authz.sock`."""
    authz_timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How long it may take to judge a list, or 500 items of a longer one; then the list is refused."""

    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """How long an upstream may take to answer; `subscriptions/listen` may take for ever."""
    child_start_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """How long a child process may take to start and agree on a protocol version."""
    idle_s: Annotated[float, Field(gt=0)] = 600.0
    """A child process or session that was not used this long is ended."""
    max_children: Annotated[int, Field(ge=1)] = 64
    """Child processes of one upstream, over all identities and sessions."""
    max_sessions: Annotated[int, Field(ge=1)] = 1000
    """Sessions of the handshake era, over all identities."""

    max_argument_bytes: Annotated[int, Field(ge=0)] = 2048
    """How much of a call's arguments a record keeps, sanitized."""
    max_pending_records: Annotated[int, Field(ge=1)] = 100_000
    """Records held while the sink is away; further ones are lost and counted."""

    @field_validator("upstreams")
    @classmethod
    def _at_least_one(cls, value: dict[str, UpstreamSettings]) -> dict[str, UpstreamSettings]:
        if not value:
            raise ValueError(
                "name at least one MCP server: {name: {command: […]}}, {url: …} or {target: module:server}"
            )
        return value
