"""Whether a question is one that a client could ask, and how it names roles. Pure."""

from typing import Final

from authz_service.policy.methods import METHODS, WITH_NAME, nobody_sends
from authz_service.workbench.book import ROLE

__all__ = ["MUST_NAME", "oddity", "role_name"]

MUST_NAME: Final = WITH_NAME - {"completion/complete"}
"""Methods that always name something."""


def role_name(text: str) -> str:
    """`reader` and `role:reader` as policy has it: `role:reader`. Raises `ValueError` where there is no name."""
    name = text.strip()
    name = name if name.startswith(ROLE) else f"{ROLE}{name}"
    if name == ROLE:
        raise ValueError("a role without a name")
    return name


def oddity(method: str, name: str, extra: frozenset[str]) -> str:
    """Why no client asks this; "" where one could. `extra` are methods of extensions of MCP.

    The answer is then without worth: a deny that holds under every policy.
    """
    if method not in METHODS and method not in extra:
        return nobody_sends(method, extra)
    if name and method not in WITH_NAME:
        return f"{method} names nothing that could be {name}; leave the name out"
    return ""
