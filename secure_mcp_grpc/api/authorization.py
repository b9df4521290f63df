"""Who may use what, as a mapping from models to tools: written out as the policy that authz_service enforces."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from secure_mcp_grpc.errors import UserError

__all__ = ["RBACAuthorization"]

_ROLE = "role:api-client"
_SESSION = (
    "initialize",
    "server/discover",
    "ping",
    "notifications/*",
    "grpc:*",
    "logging/setLevel",
    "subscriptions/listen",
    "*/list",
)
"""What every client that may use anything needs for it; lists show what it may use."""


@dataclass(frozen=True, slots=True)
class RBACAuthorization:
    """Nothing is allowed that `access_control` does not name.

    It maps a model to the tools that it may call (`*` stands for any
    characters); an entry with a blank names another method, such as
    `resources/read file://reports/*`. `roles` maps a model to roles, and
    `access_control` may name roles (`role:analyst`) instead of models. There is
    no other `default_policy` than deny.
    """

    access_control: Mapping[str, Sequence[str]]
    default_policy: Literal["deny"] = "deny"
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.default_policy != "deny":
            raise UserError(f"default_policy {self.default_policy!r}: only deny is possible; allow tools by name")
        for model, tools in (*self.access_control.items(), *self.roles.items()):
            if isinstance(tools, str):
                raise UserError(f"access_control of {model}: expected a list of names, not the text {tools!r}")

    def policy(self, subject: Callable[[str], str]) -> str:
        """The policy's CSV; `subject` gives what policy calls a model."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")

        def named(model: str) -> str:
            return model if model.startswith("role:") else subject(model)

        models = list(dict.fromkeys((*self.access_control, *self.roles)))
        if models:
            rows.writerows(("p", _ROLE, method, "*", "allow") for method in _SESSION)
        for model in models:
            rows.writerow(("g", named(model), _ROLE))
        for model, roles in self.roles.items():
            rows.writerows(("g", named(model), role if role.startswith("role:") else f"role:{role}") for role in roles)
        for model, tools in self.access_control.items():
            for tool in tools:
                method, blank, name = tool.partition(" ")
                rows.writerow(("p", named(model), *((method, name) if blank else ("tools/call", tool)), "allow"))
        return text.getvalue()
