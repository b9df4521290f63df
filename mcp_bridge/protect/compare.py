"""A lock against what is offered now: findings by name, and what an approval changes. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_bridge.protect.definitions import KINDS, LABELS, Kind, canonical
from mcp_bridge.protect.drift import classify
from mcp_bridge.protect.findings import Finding, Severity, worst
from mcp_bridge.protect.lockfile import Lock

__all__ = ["Drift", "approve", "compare", "document", "server_changes"]


@dataclass(frozen=True, slots=True)
class Drift:
    """What is found of one name; `findings` is never empty, the worst first."""

    kind: Kind
    name: str
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """`ADDED` for what the lock does not know, whatever else is found in it."""
        if self.findings[0].code == "added":
            return Severity.ADDED
        return worst(list(self.findings)) or Severity.COSMETIC


def compare(lock: Lock, live: Lock) -> list[Drift]:
    """Everything that differs, by kind and name."""
    drifts: list[Drift] = []
    for kind in KINDS:
        old, new = lock.definitions.get(kind, {}), live.definitions.get(kind, {})
        drifts += [
            Drift(kind, name, tuple(findings))
            for name in sorted({*old, *new})
            if (findings := classify(kind, old.get(name), new.get(name)))
        ]
    return drifts


def server_changes(lock: Lock, live: Lock) -> Iterator[tuple[str, str]]:
    """Server name and sentence where a server says something else of itself; guards hold it to its instructions."""
    for name in sorted({*lock.servers, *live.servers}):
        old, new = lock.servers.get(name), live.servers.get(name)
        if old is None or new is None:
            yield name, "was added" if old is None else "is gone"
        elif canonical(old) != canonical(new):
            if old.get("instructions") != new.get("instructions"):
                yield name, "gives the model other instructions now, which are kept from it until they are approved"
            if _version(old) != _version(new):
                yield name, f"was {_version(old)} and is {_version(new)} now"


def approve(lock: Lock, live: Lock, names: Collection[str] | None) -> tuple[Lock, list[Drift]]:
    """`lock` with what is offered now of `names` (None: of everything), and what that approved. Raises `KeyError`.

    A name stands for all kinds that have it, and for the server of that name; `KeyError` is for one that nothing
    differs for. What servers tell models is never approved by the way.
    """
    drifts = compare(lock, live)
    chosen = [one for one in drifts if names is None or one.name in names]
    changed = {name for name, _ in server_changes(lock, live)}
    if names is not None and (missing := set(names) - {one.name for one in chosen} - changed):
        raise KeyError(min(missing))
    definitions = {kind: dict(lock.definitions.get(kind, {})) for kind in KINDS}
    for drift in chosen:
        offered = live.get(drift.kind, drift.name)
        if offered is None:
            del definitions[drift.kind][drift.name]
        else:
            definitions[drift.kind][drift.name] = offered
    if names is None:
        return Lock(definitions, live.servers, lock.key), chosen
    named = {name for name in changed if name in names}
    others = _told_before(lock, live) if len(chosen) == len(drifts) else lock.servers
    servers = {name: one for name, one in others.items() if name not in named}
    servers |= {name: live.servers[name] for name in named if name in live.servers}
    return Lock(definitions, servers, lock.key), chosen


def _told_before(lock: Lock, live: Lock) -> dict[str, Mapping[str, Any]]:
    """Names and versions of now, with the instructions that were approved."""
    servers: dict[str, Mapping[str, Any]] = {}
    for name, said in live.servers.items():
        approved = lock.servers.get(name, {})
        kept = {"instructions": approved["instructions"]} if "instructions" in approved else {}
        servers[name] = {key: value for key, value in said.items() if key != "instructions"} | kept
    return servers


def document(drifts: Iterable[Drift]) -> list[dict[str, Any]]:
    """For `--json`."""
    return [
        {
            "kind": LABELS[one.kind],
            "name": one.name,
            "severity": one.severity.word,
            "findings": [
                {"severity": found.severity.word, "code": found.code, "path": found.path, "text": found.text}
                for found in one.findings
            ],
        }
        for one in drifts
    ]


def _version(server: Any) -> str:
    return f"{server.get('name', '?')!a} {server.get('version', '?')!a}"
