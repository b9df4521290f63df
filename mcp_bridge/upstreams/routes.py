"""Which of several MCP servers offers a name, as one identity or session sees it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mcp_bridge import wire
from mcp_bridge.errors import unavailable
from mcp_bridge.upstreams import merge

__all__ = ["Index", "Indexes", "best_fitting"]

_FRESH_S: Final = 30.0
_MAX_INDEXES: Final = 1000


@dataclass(slots=True)
class Index:
    """Server → the names on its list. A name with two servers belongs to none."""

    names: dict[str, list[str]]
    made: float = field(default_factory=time.monotonic)
    _owners: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for server, names in self.names.items():
            for name in names:
                self._owners.setdefault(name, []).append(server)

    def owners(self, name: str) -> Sequence[str]:
        return self._owners.get(name, ())

    def is_good_for(self, name: str) -> bool:
        return name in self._owners and time.monotonic() - self.made < _FRESH_S

    def template_owners(self, uri: str) -> Sequence[str]:
        """The servers whose templates start most like `uri`: more than one where that does not tell them apart."""
        best = best_fitting((template for template in self._owners if "{" in template), uri)
        return sorted({owner for template in best for owner in self._owners[template]})


class Indexes:
    """By viewer (identity or session) and list method; the oldest go first."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], Index] = {}

    def of(self, viewer: str, method: str) -> Index | None:
        return self._indexes.get((viewer, method))

    def remember(self, viewer: str, method: str, listings: Iterable[merge.Listing]) -> Index:
        """Names of servers that are not listed now stay as they were: a server that is down keeps its names."""
        before = self._indexes.pop((viewer, method), None)
        names = dict(before.names) if before is not None else {}
        for listing in listings:
            try:
                names[listing.server] = [name for name, _ in merge.names_in(listing, method)]
            except wire.NotJson:
                raise unavailable(f"the MCP server {listing.server} sent a list that is not of MCP's form") from None
        if len(self._indexes) >= _MAX_INDEXES:
            del self._indexes[next(iter(self._indexes))]
        index = self._indexes[viewer, method] = Index(names)
        return index

    def forget(self, viewer: str) -> None:
        for key in [key for key in self._indexes if key[0] == viewer]:
            del self._indexes[key]


def best_fitting(templates: Iterable[str], uri: str) -> list[str]:
    """Those of the URI templates that `uri` fits which say most before their first variable."""
    fitting = [(len(template.partition("{")[0]), template) for template in templates if _fits(template, uri)]
    most = max((length for length, _ in fitting), default=0)
    return [template for length, template in fitting if length == most]


def _fits(template: str, uri: str) -> bool:
    """Whether `uri` could come from a template: its literal parts are in it, in order, the first at the start.

    More generous than RFC 6570, for servers are.
    """
    first, *rest = template.split("{")
    if not uri.startswith(first):
        return False
    if not rest:
        return uri == first
    at = len(first)
    for index, part in enumerate(rest):
        literal = part.partition("}")[2]
        if index == len(rest) - 1:
            return len(uri) - len(literal) >= at and uri.endswith(literal)
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return True
