"""What `build` makes of the settings."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from secure_mcp_grpc.authenticators import Authenticator

__all__ = ["Tokens"]


@dataclass(slots=True)
class Tokens:
    """Authenticators, and what has to run and end beside them."""

    authenticators: list[Authenticator] = field(default_factory=list)
    jobs: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    """Run until cancelled."""
    components: dict[str, Callable[[], bool]] = field(default_factory=dict)
    """Name in grpc.health.v1 → whether the issuer's keys are to be had."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """End what is under way, after the jobs have ended; last made, first closed."""
        for close in reversed(self.closers):
            await close()
