"""Settings of policy: where it is, what is known beside it."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from secure_mcp_grpc.settings import CommonSettings

__all__ = ["PolicySettings"]

_PART = Path(__file__).parent.parent


class PolicySettings(CommonSettings):
    """Of section `authz`."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    policy_file: Path = _PART / "policy.csv"
    """Casbin policy (CSV). The default grants nothing."""

    model_file: Path = _PART / "model.conf"
    """Casbin model. Its matcher may have further conjuncts, but must have those of the default."""

    tools_file: Path | None = None
    """Answer of tools/list, `{"tools": [...]}` (JSON): a policy with a condition on an argument that no such tool has
    is then refused."""

    token_roles: bool = False
    """Tokens may bring roles: a rule for a role that the policy gives to nobody is then no mistake. Taken as true where
    an issuer has a `roles_claim`."""

    extra_methods: tuple[str, ...] = ()
    """Methods of extensions of MCP that rules may name, beside those of its specification."""

    policy_poll_s: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """How often these files are looked at. A change is in force after two looks that agree."""

    decision_cache: Annotated[int, Field(ge=1)] = 4096
    """Answers of the policy remembered, until it changes."""
