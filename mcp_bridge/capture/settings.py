"""Settings of capture, lineage and traces: part of the bridge's."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from mcp_bridge.capture.patterns import BUILT_IN, compile_patterns
from mcp_bridge.capture.rules import Rules, compile_fields, compile_paths
from secure_mcp_grpc.settings import CommonSettings

__all__ = ["CaptureSettings"]

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class CaptureSettings(CommonSettings):
    """What records hold of messages."""

    section: ClassVar[str] = "bridge"
    env_prefix: ClassVar[str] = "MCP_BRIDGE_"

    capture: Annotated[Literal["off", "arguments", "full"], BeforeValidator(_off)] = "full"
    """What records keep of messages, sanitized. `full`: arguments, the rest of requests, and responses. `arguments`:
    arguments only. `off`: neither, and no digests; who called what, when, and sizes are recorded all the same."""
    max_argument_bytes: Annotated[int, Field(ge=0, le=262_144)] = 2048
    """How much of a call's arguments a record keeps, sanitized."""
    capture_max_bytes: Annotated[int, Field(ge=0, le=262_144)] = 4096
    """How much of a response, and of a request beside its arguments, a record keeps, sanitized."""
    capture_sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Part of the traces of which messages are kept, 0 to 1; all hops of a trace agree where they share
    `capture_key_file`. Records without them are written for all."""
    capture_off: list[_Name] = Field(default=[])
    """Tools, prompts and resources whose messages are not kept: `tool` or `server/tool`, with `*` and `?`."""
    capture_key_file: Path | None = None
    """Key (at least 16 bytes) of the hashes that stand for what is redacted, and of lineage digests. Sidecars that
    share it can be followed as one; without one, each start makes a key of its own."""
    capture_public_key_file: Path | None = None
    """X25519 public key (PEM): arguments, requests and responses are stored sealed, for the owner of its private key
    only. `openssl genpkey -algorithm X25519` makes one, `openssl pkey -pubout` writes the public half."""
    redact_fields: list[_Name] = Field(default=[])
    """Names of members whose value is redacted, in any case, with `*`; beside those that speak of passwords, tokens,
    secrets, keys, cookies, credentials or authorization, which always are."""
    redact_paths: list[_Name] = Field(default=[])
    """Values that are redacted, as JSON paths: `$.params.arguments.user.ssn`, `$.result.structuredContent.rows[*]`."""
    redact_patterns: list[_Name] = Field(default=[])
    """Regular expressions (RE2) of text that is redacted, its first group where it has one; beside keys, tokens,
    passwords, cookies, e-mail addresses and card numbers, which always are. With a comma: in the file only."""
    trace_upstream: bool = True
    """Requests to MCP servers carry the trace in `_meta` (`traceparent`, `tracestate`) and in HTTP headers."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s/@]+/?)?$")] = ""
    """OTLP gRPC endpoint (`http://collector:4317`) that gets one span for each MCP request, without its content; empty
    means OTEL_EXPORTER_OTLP_ENDPOINT, and without that no spans."""

    @field_validator("redact_paths")
    @classmethod
    def _are_paths(cls, value: list[str]) -> list[str]:
        compile_paths(value)
        return value

    @field_validator("redact_patterns")
    @classmethod
    def _are_patterns(cls, value: list[str]) -> list[str]:
        compile_patterns(value)
        return value

    def rules(self) -> Rules:
        return Rules(
            (*BUILT_IN, *compile_patterns(self.redact_patterns)),
            compile_fields(tuple(self.redact_fields)),
            compile_paths(self.redact_paths),
        )
