"""Names of tools and prompts as callers see them, and as their servers do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.exchange import Exchange

__all__ = ["Names"]

_NAMED: Final = frozenset({"tools/call", "prompts/get"})


@dataclass(frozen=True, slots=True)
class Names:
    """Server → prefix, for those that have one."""

    prefixes: Mapping[str, str]

    def of(self, server: str) -> str:
        return self.prefixes.get(server, "")

    def server_of(self, method: str, name: str, servers: Sequence[str]) -> str | None:
        """The server that the name alone tells; None where it tells nothing, since a server has no prefix."""
        if method not in _NAMED or any(not self.of(server) for server in servers):
            return None
        return next((server for server in servers if name.startswith(self.of(server))), None)

    def tell_all(self, method: str, servers: Sequence[str]) -> bool:
        """Whether a name that `server_of` does not know can be nobody's."""
        return method in _NAMED and all(self.of(server) for server in servers)

    def as_its_own(self, exchange: Exchange, server: str) -> Exchange:
        """The exchange with the name that the server itself gave; raises `wire.NotJson`."""
        prefix, call = self.of(server), exchange.call
        if not prefix or not call.name.startswith(prefix):
            return exchange
        own = msgspec.json.encode(call.name.removeprefix(prefix))
        if call.method in _NAMED:
            params = wire.with_params(exchange.params_json, {"name": own})
        elif call.method == "completion/complete":
            reference = bytes(wire.object_of(exchange.params_json)["ref"])
            if "name" not in wire.object_of(reference):
                return exchange
            params = wire.with_params(exchange.params_json, {"ref": wire.with_params(reference, {"name": own})})
        else:
            return exchange
        return replace(exchange, call=replace(call, name=call.name.removeprefix(prefix)), params_json=params)
