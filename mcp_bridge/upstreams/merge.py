"""Answers of several MCP servers as the answer of one. Pure functions on JSON; list items stay as their bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcp_bridge import wire

__all__ = [
    "LISTS",
    "MISSING",
    "Collision",
    "Listing",
    "merge_discover",
    "merge_initialize",
    "merge_listing",
    "names_in",
]

LISTS: Final = {
    "tools/list": ("tools", "name"),
    "prompts/list": ("prompts", "name"),
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate"),
}
"""List method → member of its result, and the key that names an item."""

MISSING: Final = "secure-mcp-grpc/missing"
"""Key in a result's `_meta`: the names of servers that did not answer and are left out."""
_SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
_IDENTITY: Final = {"name": "secure-mcp-grpc", "version": "0.1.0"}


class Collision(ValueError):
    """Two servers offer the same name; the text is a sentence for the peer."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All pages of one server's list."""

    server: str
    pages: Sequence[Mapping[str, Raw]]
    prefix: str = ""
    """What its names of tools and prompts begin with here; URIs are never changed."""


def names_in(listing: Listing, method: str) -> list[tuple[str, Raw]]:
    """Name and JSON of each item; raises `wire.NotJson` for a list that is none."""
    member, key = LISTS[method]
    found: list[tuple[str, Raw]] = []
    try:
        for page in listing.pages:
            items = msgspec.json.decode(bytes(page[member]), type=list[Raw])
            found += [(msgspec.json.decode(bytes(wire.object_of(bytes(item))[key]), type=str), item) for item in items]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        raise wire.NotJson from None
    if not listing.prefix or key != "name":
        return found
    shown = ((listing.prefix + name, item) for name, item in found)
    return [(name, Raw(wire.with_params(bytes(item), {key: msgspec.json.encode(name)}))) for name, item in shown]


def merge_listing(method: str, listings: Sequence[Listing], *, modern: bool, missing: Sequence[str] = ()) -> bytes:
    """One result with the items of all; it says which servers are `missing`. Raises `Collision`."""
    owners: dict[str, str] = {}
    items: list[Raw] = []
    for listing in listings:
        for name, item in names_in(listing, method):
            if (other := owners.setdefault(name, listing.server)) != listing.server:
                raise Collision(f"{name!r} is offered by both {other} and {listing.server}; rename it in one of them")
            items.append(item)
    merged: dict[str, Any] = {LISTS[method][0]: items}
    if modern:
        merged |= {"resultType": "complete", "_meta": {_SERVER_INFO: _IDENTITY}}
        merged |= _freshness([msgspec.json.decode(msgspec.json.encode(page)) for one in listings for page in one.pages])
    if missing:
        merged["_meta"] = merged.get("_meta", {}) | {MISSING: list(missing)}
        merged |= {"ttlMs": 0} if modern else {}
    return msgspec.json.encode(merged)


def merge_discover(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Versions that all speak, capabilities that any has."""
    first, *others = (result.get("supportedVersions", []) for result in results.values())
    capabilities = _union([result.get("capabilities", {}) for result in results.values()])
    return {
        "resultType": "complete",
        "supportedVersions": [version for version in first if all(version in other for other in others)],
        "capabilities": capabilities,
        **_instructions(results),
        **_freshness(list(results.values())),
        "_meta": {_SERVER_INFO: _IDENTITY},
    }


def merge_initialize(results: Mapping[str, Mapping[str, Any]], version: str) -> dict[str, Any]:
    return {
        "protocolVersion": version,
        "capabilities": _union([result.get("capabilities", {}) for result in results.values()]),
        "serverInfo": _IDENTITY,
        **_instructions(results),
    }


def _union(values: Sequence[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for value in values:
        for key, item in value.items():
            if isinstance(item, dict) and isinstance(merged.get(key), dict):
                merged[key] = _union([merged[key], item])
            elif key not in merged or item is True:
                merged[key] = dict(item) if isinstance(item, dict) else item
    return merged


def _instructions(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    said = [f"{name}: {text}" for name, one in results.items() if isinstance(text := one.get("instructions"), str)]
    return {"instructions": "\n\n".join(said)} if said else {}


def _freshness(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As short-lived and as private as the strictest of them."""
    ttls = [ttl for one in results if isinstance(ttl := one.get("ttlMs"), int | float)]
    private = any(one.get("cacheScope") != "public" for one in results)
    ttl_ms = min(ttls) if len(ttls) == len(results) and ttls else 0
    return {"ttlMs": ttl_ms, "cacheScope": "private" if private else "public"}
