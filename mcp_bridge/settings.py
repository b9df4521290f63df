"""Settings of mcp_bridge: which MCP servers it serves, and its limits."""

import itertools
import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.eras.settings import Era, EraSettings
from mcp_bridge.frame_settings import FrameSettings
from mcp_bridge.protect.settings import ProtectSettings
from mcp_bridge.reflection import ReflectionSettings
from mcp_bridge.upstreams.limits import ChildLimits
from mcp_bridge.upstreams.secrets import RESERVED, SOURCE

__all__ = ["BridgeSettings", "UpstreamSettings"]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")

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
    limits: ChildLimits = ChildLimits()
    """What one child process may use: `memory_mib` (private memory in MiB; 256 is enough for most Python servers, 512
    for most Node servers), `cpu_s` (CPU seconds over its life), `files` (open files), `processes` (of this operating
    system user in all; does not bind root). Each process that a child starts has them for itself again."""
    url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Endpoint of a streamable HTTP server, such as `http://127.0.0.1:8000/mcp`. Redirects are not followed."""
    ca: str | None = None
    """PEM file of the authorities that an https server's certificate must come from; the system's unless given."""
    headers: dict[str, str] = {}
    """Headers for a server that wants an API key: name → `env:VARIABLE` or `file:PATH`, which holds the whole value
    (`Bearer …`). Read at start, files again after the server refused them (401, 403). Callers' own never get here."""
    target: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    """`package.module:server`: an MCPServer, a low-level Server, or a function without arguments that returns one."""
    era: Era = "auto"
    """Protocol era of the server: `modern` (2026-07-28, no handshake), `handshake` (2025-11-25 and before), or `auto`:
    found out. A server in this process speaks both. Callers of the other era are translated for."""
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,32}$")] = ""
    """What the names of its tools and prompts begin with here, such as `git_`. Policy sees the names so."""

    @field_validator("url")
    @classmethod
    def _without_secret(cls, value: str | None) -> str | None:
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError("an url holds no user and password; put them into headers")
        return value

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in RESERVED or name.lower().startswith("mcp-"):
                raise ValueError(f"{name} cannot be set: it is no header name, or the protocol's own")
            if not SOURCE.fullmatch(source):
                raise ValueError(f"{name} must be env:VARIABLE or file:PATH, so that no secret stands in settings")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("command", "url", "target") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError("an upstream has exactly one of command, url and target")
        if self.command is None and (self.env or self.cwd or self.limits != ChildLimits()):
            raise ValueError("env, cwd and limits belong to an upstream with a command")
        if self.url is None and (self.ca or self.headers):
            raise ValueError("ca and headers belong to an upstream with a url")
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


class BridgeSettings(CaptureSettings, EraSettings, FrameSettings, ProtectSettings, ReflectionSettings):
    """Section `bridge`, variables `MCP_BRIDGE_…`; `MCP_BRIDGE_UPSTREAMS` holds the same mapping as JSON."""

    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], BeforeValidator(_from_json)] = Field(default={})
    """Name → MCP server."""
    names: Literal["plain", "prefixed"] = "plain"
    """Names of tools and prompts where there are several MCP servers. `plain`: as the servers name them; a name that
    two of them offer is refused. `prefixed`: each server without a `prefix` gets `<name>_`."""
    when_down: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of a list when one of several MCP servers does not answer. `refuse`: UNAVAILABLE, naming the server,
    so that no list looks complete that is not. `leave_out`: the others' items, and the absent servers' names in
    `_meta["secure-mcp-grpc/missing"]`; a tool that the absent one would have contested then runs at the other."""

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
    """How long a child process may take to start and agree on a protocol version (to answer `initialize` or
    `server/discover`); then it is ended."""
    idle_s: Annotated[float, Field(gt=0)] = 600.0
    """A child process or session that was not used this long is ended."""
    max_children: Annotated[int, Field(ge=1)] = 64
    """Child processes of one upstream, over all identities and sessions."""
    max_sessions: Annotated[int, Field(ge=1)] = 1000
    """Sessions of the handshake era, over all identities."""

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

    @model_validator(mode="after")
    def _prefixes_apart(self) -> Self:
        """A prefix that begins another would let one server offer names of the other."""
        prefixes = sorted((self.prefix_of(name), name) for name in self.upstreams if self.prefix_of(name))
        for (shorter, one), (longer, other) in itertools.pairwise(prefixes):
            if longer.startswith(shorter):
                raise ValueError(f"upstreams {one} and {other}: prefix {shorter} also begins {longer}; change one")
        return self

    def prefix_of(self, upstream: str) -> str:
        """What the upstream's names begin with here."""
        return self.upstreams[upstream].prefix or (f"{upstream}_" if self.names == "prefixed" else "")
