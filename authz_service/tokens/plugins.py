"""Authenticators of other packages, found by entry point."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from secure_mcp_grpc.authenticators import GROUP, Authenticator
from secure_mcp_grpc.errors import UserError

__all__ = ["load_authenticator"]


def load_authenticator(name: str, settings: Mapping[str, Any]) -> Authenticator:
    """The authenticator called `name`, made with `settings`; raises `UserError` naming the package at fault."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise UserError(f"authenticators: no installed package provides {name!r} (entry point group {GROUP})")
    packages = ", ".join(sorted({point.dist.name if point.dist else "an unnamed one" for point in found}))
    if len(found) > 1:
        raise UserError(f"authenticators: several packages provide {name!r}: {packages}")
    try:
        made: Authenticator = found[0].load()(settings)
    except Exception as error:  # another package's own code: whatever it raises, the service must not start without it
        raise UserError(
            f"authenticators: {name!r} of the package {packages} cannot be made: {type(error).__name__}; "
            f"check authenticator_settings.{name}"
        ) from error
    if not callable(getattr(made, "authenticate", None)):
        raise UserError(f"authenticators: {name!r} of the package {packages} made something without authenticate()")
    return made
