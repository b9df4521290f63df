"""What stands between the executor and an upstream: each guard may change, answer or refuse a request, or its answer.

They nest, the first outermost; each passes on what it lets through by calling
`ask`. What a guard asks the upstream on its own account goes through `ask`
too, under the caller's own session or metadata.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from mcp_bridge.exchange import Caller, Exchange

__all__ = ["Ask", "Guard", "chained"]

Ask = Callable[[Exchange], Awaitable[bytes]]


class Guard(Protocol):
    async def request(self, exchange: Exchange, caller: Caller, ask: Ask) -> bytes:
        """The JSON-RPC response under the exchange's id; raises `HopError` to refuse."""
        ...


def chained(guards: Sequence[Guard], caller: Caller, ask: Ask) -> Ask:
    """`ask` behind all `guards`, for one request of `caller`."""
    for guard in reversed(guards):
        ask = _behind(guard, caller, ask)
    return ask


def _behind(guard: Guard, caller: Caller, ask: Ask) -> Ask:
    def guarded(exchange: Exchange) -> Awaitable[bytes]:
        return guard.request(exchange, caller, ask)

    return guarded
