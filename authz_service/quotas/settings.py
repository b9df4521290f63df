"""Settings of quotas; section `authz` of the configuration file."""

import re
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from authz_service.quotas.quota import By, Quota
from secure_mcp_grpc.settings import CommonSettings

__all__ = ["QuotaSettings", "QuotaSpec"]

_SHORT: Final = re.compile(r"(\S+)\s+(\S+)\s+(\d+)/(\d+(?:\.\d+)?)(?:\s+(\S+))?")
_FORM: Final = "NAME BY LIMIT/SECONDS [TOOL], for example: commits identity_tool 100/60 git_*"


class QuotaSpec(BaseModel):
    """One quota, as written: a mapping, or the text `NAME BY LIMIT/SECONDS [TOOL]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    """Named in refusals and records; each its own."""
    by: By
    """What shares a counter: `identity`, `identity_tool`, `token` or `user`."""
    limit: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Calls in a window."""
    window_s: Annotated[float, Field(ge=0.1, le=31 * 24 * 3600)]
    """Length of the sliding window, seconds."""
    methods: Annotated[list[str], Field(min_length=1)] = ["tools/call"]
    """MCP methods that count; `*` stands for any characters."""
    tools: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Names of tools, resources or prompts that count."""
    who: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Identities (or users, where `by` is `user` or `token`) that it is for."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = _SHORT.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"expected {_FORM}")
        name, by, limit, window_s, tool = found.groups()
        return {"name": name, "by": by, "limit": int(limit), "window_s": float(window_s), "tools": [tool or "*"]}

    def quota(self) -> Quota:
        return Quota(
            self.name,
            self.by,
            self.limit,
            round(self.window_s * 1e6),
            tuple(self.methods),
            tuple(self.tools),
            tuple(self.who),
        )


class QuotaSettings(CommonSettings):
    """Which quotas there are."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    quotas: list[QuotaSpec] = Field([])
    """Quotas, each `{name, by, limit, window_s, methods, tools, who}` or the text `NAME BY LIMIT/SECONDS [TOOL]`; none
    by default. `by` is `identity`, `identity_tool`, `user` or `token`. All that apply to a call must have room."""

    quota_max_keys: Annotated[int, Field(ge=100)] = 100_000
    """Most counters of one quota in this process's memory; further callers share one."""

    @field_validator("quotas")
    @classmethod
    def _names_once(cls, value: list[QuotaSpec]) -> list[QuotaSpec]:
        names = [spec.name for spec in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two quotas are called {twice[0]}")
        return value
