"""The guard of pinned tools: what is not as it was approved is neither listed nor called.

It compares what the MCP server says now, in this caller's view, with the lock.
Cosmetic and compatible changes pass; the rest waits for
`secure-mcp-grpc tools approve`.
"""

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Caller, Exchange
from mcp_bridge.guards import Ask
from mcp_bridge.listing import read_page
from mcp_bridge.protect.catalog import Catalog, Offer
from mcp_bridge.protect.definitions import LABELS, LIST_METHODS, Kind, digest
from mcp_bridge.protect.drift import classify
from mcp_bridge.protect.findings import Finding, Severity, safe
from mcp_bridge.protect.instructions import SAYS_THEM, is_approved, told_in, without_instructions
from mcp_bridge.protect.lockfile import Lock
from mcp_bridge.upstreams.routes import best_fitting
from secure_mcp_grpc import logs

__all__ = ["UNAPPROVED", "Pins"]

logger = logging.getLogger(__name__)

UNAPPROVED: Final = "secure-mcp-grpc/unapproved"
"""Key in a list result's `_meta`: how many items of this page the lock hides."""
DRIFT: Final = "tool_drift"
UNKNOWN: Final = "tool_unknown"
INSTRUCTIONS: Final = "instructions_drift"

_CALLS: Final[dict[str, Kind]] = {"tools/call": "tools", "prompts/get": "prompts"}
_READS: Final = frozenset({"resources/read", "resources/subscribe"})
_MAX_LOGGED: Final = 10_000
_NOT_A_LIST: Final = HopError(grpc.StatusCode.INTERNAL, "the MCP server's list is not of MCP's form")


@dataclass(frozen=True, slots=True)
class _Verdict:
    """`finding` is empty where the offer is as approved, or nearly."""

    finding: str
    worst: Finding | None = None


_FINE: Final = _Verdict("")
_UNREADABLE: Final = Finding(Severity.SUSPICIOUS, "unreadable", "", "its definition can be read in more than one way")
_DOUBLE: Final = Finding(Severity.SUSPICIOUS, "double", "", "the server offers two that differ under this name")
_REMOVED: Final = Finding(Severity.BREAKING, "removed", "", "the server no longer lists it")
_OURS: Final = (_UNREADABLE, _DOUBLE, _REMOVED)
"""Whose texts hold nothing of what the server says."""


class Pins:
    """A `Guard`. `lock` gives the lock in force; `count` takes a finding's code and severity for a metric."""

    def __init__(
        self,
        lock: Callable[[], Lock],
        catalog: Catalog,
        *,
        new: Literal["refuse", "allow"],
        count: Callable[[str, str], None],
    ) -> None:
        self._lock = lock
        self._catalog = catalog
        self._allow_new = new == "allow"
        self._count = count
        self._logged: dict[tuple[str, ...], None] = {}

    async def request(self, exchange: Exchange, caller: Caller, ask: Ask) -> bytes:
        method = exchange.call.method
        kind = _CALLS.get(method)
        if kind is not None:
            await self._check(exchange, kind, exchange.call.name, ask)
        elif method in _READS:
            await self._check_read(exchange, ask)
        elif method == "completion/complete":
            await self._check_completion(exchange, ask)
        answer = await ask(exchange)
        if method in SAYS_THEM:
            return self._instructions(exchange, answer)
        listed = LIST_METHODS.get(method)
        return answer if listed is None else self._filter(exchange, listed, answer)

    async def _check(self, exchange: Exchange, kind: Kind, name: str, ask: Ask) -> None:
        lock = self._lock()
        offers = await self._catalog.current(exchange, kind, name, ask)
        if not offers and lock.get(kind, name) is not None and self._catalog.is_partial(exchange, kind):
            raise unavailable(f"the MCP server of {LABELS[kind]} {safe(name)} may be one that does not answer now")
        verdict = self._judge_name(lock, kind, name, offers)
        if verdict.finding:
            self._refuse(exchange, kind, name, verdict)

    async def _check_read(self, exchange: Exchange, ask: Ask) -> None:
        """A resource may be read unless the templates that it fits best are all unapproved; by itself it is data.

        Best as the router sees it, so that no template of another server vouches for the one that would be used.
        """
        uri = exchange.call.name
        lock = self._lock()
        offers = {offer.name: offer for offer in await self._catalog.all(exchange, "resourceTemplates", ask)}
        fitting = [offers[template] for template in best_fitting(offers, uri)]
        verdicts = [(offer.name, self._judge(lock, offer)) for offer in fitting]
        if verdicts and all(verdict.finding for _, verdict in verdicts):
            exchange.server = self._catalog.owner(exchange, "resourceTemplates", verdicts[0][0])
            self._refuse(exchange, "resourceTemplates", *verdicts[0])

    async def _check_completion(self, exchange: Exchange, ask: Ask) -> None:
        kind = _completed_kind(exchange.params_json)
        if kind is not None:
            await self._check(exchange, kind, exchange.call.name, ask)

    def _instructions(self, exchange: Exchange, answer: bytes) -> bytes:
        """What the server says of itself, without instructions that nobody approved."""
        servers = self._lock().servers
        try:
            told = told_in(answer)
            if told is None or is_approved(told, servers):
                return answer
            if self._allow_new and not any("instructions" in one for one in servers.values()):
                return answer
            kept = without_instructions(exchange.id_json, answer)
        except wire.NotJson:
            raise unavailable("the MCP server said of itself what is not of MCP's form") from None
        exchange.finding = INSTRUCTIONS
        self._count(INSTRUCTIONS, Severity.SUSPICIOUS.word)
        change = ("", "", INSTRUCTIONS, "", digest(told))
        if change not in self._logged:
            self._remember(change)
            logs.event(
                logger,
                logging.WARNING,
                INSTRUCTIONS,
                server=exchange.server,
                severity=Severity.SUSPICIOUS.word,
                effect="they are kept from the model",
                approve="secure-mcp-grpc tools diff, then tools approve with the server's name",
            )
        return kept

    def _remember(self, change: tuple[str, ...]) -> None:
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.pop(next(iter(self._logged)))
        self._logged[change] = None

    def _filter(self, exchange: Exchange, kind: Kind, answer: bytes) -> bytes:
        lock = self._lock()
        try:
            envelope = wire.read_envelope(answer)
            if bytes(envelope.error):
                return answer
            page = read_page(exchange.call.method, bytes(envelope.result))
        except wire.NotJson:
            raise _NOT_A_LIST from None
        offers = [
            self._catalog.offer(kind, name, bytes(item)) for name, item in zip(page.names, page.items, strict=True)
        ]
        together: dict[str, list[Offer]] = {}
        for offer in offers:
            together.setdefault(offer.name, []).append(offer)
        verdicts = {name: self._judge_name(lock, kind, name, same) for name, same in together.items()}
        hidden = [name for name, verdict in verdicts.items() if verdict.finding]
        if not hidden and not page.unusable:
            return answer
        for name in hidden:
            self._tell(exchange, kind, name, verdicts[name])
        if hidden:
            exchange.finding = exchange.finding or verdicts[hidden[0]].finding
        members = dict(page.members)
        kept = [item for name, item in zip(page.names, page.items, strict=True) if not verdicts[name].finding]
        members[page.member] = Raw(msgspec.json.encode(kept))
        members["_meta"] = _with_count(members.get("_meta"), len(page.items) - len(kept))
        return wire.result(exchange.id_json, msgspec.json.encode(members))

    def _judge_name(self, lock: Lock, kind: Kind, name: str, offers: Sequence[Offer]) -> _Verdict:
        if len(offers) == 1:
            return self._judge(lock, offers[0])
        if offers:
            same = all(offer.text == offers[0].text for offer in offers)
            return self._judge(lock, offers[0]) if same else _Verdict(DRIFT, _DOUBLE)
        if lock.get(kind, name) is not None:
            return _Verdict(DRIFT, _REMOVED)
        return _FINE if self._allow_new else _Verdict(UNKNOWN)

    def _judge(self, lock: Lock, offer: Offer) -> _Verdict:
        if offer.judged_by is lock:
            return offer.judgement  # type: ignore[no-any-return]  # only set here
        verdict = self._compare(lock, offer)
        offer.judged_by, offer.judgement = lock, verdict
        return verdict

    def _compare(self, lock: Lock, offer: Offer) -> _Verdict:
        approved = lock.get(offer.kind, offer.name)
        if offer.definition is None:
            return _Verdict(DRIFT, _UNREADABLE)
        if approved is None:
            return _FINE if self._allow_new else _Verdict(UNKNOWN)
        try:
            findings = classify(offer.kind, approved, offer.definition)
        except RecursionError:
            return _Verdict(DRIFT, _UNREADABLE)
        if findings and not findings[0].severity.passes:
            return _Verdict(DRIFT, findings[0])
        return _FINE

    def _refuse(self, exchange: Exchange, kind: Kind, name: str, verdict: _Verdict) -> None:
        exchange.finding = verdict.finding
        self._tell(exchange, kind, name, verdict)
        raise HopError(grpc.StatusCode.PERMISSION_DENIED, _sentence(kind, name, verdict))

    def _tell(self, exchange: Exchange, kind: Kind, name: str, verdict: _Verdict) -> None:
        found = verdict.worst
        self._count(verdict.finding, found.severity.word if found else Severity.ADDED.word)
        change = (kind, name, verdict.finding, found.code if found else "", found.path if found else "")
        if change in self._logged:
            return
        self._remember(change)
        logs.event(
            logger,
            logging.WARNING,
            verdict.finding,
            kind=LABELS[kind],
            item=safe(name),
            server=self._catalog.owner(exchange, kind, name),
            severity=found.severity.word if found else Severity.ADDED.word,
            change=found.code if found else "added",
            path=found.path if found else "",
            what=found.text if found else "is not in the lock",
            approve=_command(kind, name),
        )


def _sentence(kind: Kind, name: str, verdict: _Verdict) -> str:
    """For the peer, who may be a model: how to approve it is told to the operator alone, in the log."""
    label, found = LABELS[kind], verdict.worst
    if found is None:
        return f"{label} {safe(name)} is not in the tools lock; an operator must approve it"
    where = f" at {found.path}" if found.path else ""
    what = f": {found.text}" if found in _OURS else ""
    return (
        f"{label} {safe(name)} is not as it was approved: {found.severity.word} change{where} ({found.code}){what}; "
        "an operator must approve it"
    )


def _command(kind: Kind, name: str) -> str:
    return f"secure-mcp-grpc tools approve {shlex.quote(safe(name))}"


def _completed_kind(params: bytes) -> Kind | None:
    try:
        reference = wire.object_of(bytes(wire.object_of(params)["ref"]))
    except (wire.NotJson, KeyError):
        return None
    if "uri" in reference:
        return "resourceTemplates"
    return "prompts" if "name" in reference else None


def _with_count(meta: Raw | None, hidden: int) -> Raw:
    try:
        members = wire.object_of(bytes(meta)) if meta is not None else {}
    except wire.NotJson:
        members = {}
    return Raw(msgspec.json.encode(members | {UNAPPROVED: Raw(b"%d" % hidden)}))
