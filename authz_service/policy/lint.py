"""Finds rules that can never match, which nobody writes on purpose. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from authz_service.policy.file import Rules
from authz_service.policy.problems import Problem

__all__ = ["Checks", "lint"]


@dataclass(frozen=True, slots=True)
class Checks:
    """What is known beside the policy."""

    token_roles: bool = False
    """Tokens bring roles, so a role that no `g` line gives may exist."""
    methods: frozenset[str] = frozenset()
    """Methods of extensions of MCP, beside those of its specification."""


def lint(
    rules: Rules, file: str, checks: Checks, *, overriding: bool = True, pause: Callable[[], None] = lambda: None
) -> list[Problem]:
    """Everything that is wrong or odd, in the order of the file."""
    return []
