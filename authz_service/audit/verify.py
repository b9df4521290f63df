"""The verifier: lines in, findings out, whether they come from journal files or from the store. Pure.

It holds against each line that its content fits its hash; against each chain
that it numbers its records 1, 2, 3, … and that each names the hash of the one
before; against the chains that each start names the last record of the chain
before; and against the anchors that what they name is there and unchanged.

What it cannot see in one source alone: a whole end that was cut off after the
last anchor. Journal and store together, and anchors kept elsewhere, show it.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from authz_service.audit import anchors, chains
from authz_service.audit.anchors import AnchorBook, Pin
from authz_service.audit.chains import Chain
from authz_service.audit.findings import Finding, Kind, Report
from authz_service.audit.seals import HASH_BYTES, PLAIN, Seal, split_line, stated_key

__all__ = ["Keys", "Seen", "Verifier"]

Seen = tuple[str, int, str]
"""Chain, number, and hash as computed."""

_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class Keys(msgspec.Struct, frozen=True):
    """What the auditor holds: HMAC keys as seals, and public keys of anchors."""

    seals: tuple[Seal, ...] = ()
    anchor_keys: tuple[Ed25519PublicKey, ...] = ()


class _Head(msgspec.Struct):
    """What the verifier reads of a record."""

    kind: str
    chain: str
    seq: int
    prev: str
    hash: str
    ts: str = ""
    rule: str = ""


_decode: Final = msgspec.json.Decoder(_Head).decode


class Verifier:
    """Takes the records of one `source` in the order in which it keeps them; `finish` when there are no more.

    Journal files keep the order of writing; the store is read by chain and
    number, and may hold the chains of many nodes. Memory grows with chains,
    findings and anchors, not with records.
    """

    def __init__(
        self,
        source: Literal["journal", "store"],
        report: Report,
        keys: Keys,
        book: AnchorBook,
        *,
        pending: Callable[[str, int, Pin], bool] = lambda _chain, _seq, _pin: False,
    ) -> None:
        """`pending` says of an anchored record that it may not have arrived yet."""
        self._source = source
        self._ordered = source == "journal"
        self._report = report
        self._keys = keys
        self._book = book
        self._pending = pending
        self._chains: dict[str, Chain] = {}
        self._current: Chain | None = None
        self._run: Finding | None = None

    @property
    def chains(self) -> dict[str, Chain]:
        return self._chains

    def feed(
        self,
        lines: Sequence[bytes],
        place: Callable[[int], str],
        names: Sequence[tuple[str, int]] | None = None,
    ) -> list[Seen]:
        """Take `lines` (without newline); returns those that could be read.

        `place` names the line at an index. `names`, for rows of the store, are
        the chain and number under which each is kept.
        """
        seen: list[Seen] = []
        for index, line in enumerate(lines):
            try:
                head = _decode(line)
            except _NOT_JSON:
                self._unread(place(index), names[index] if names else None)
                continue
            if names and names[index] != (head.chain, head.seq):
                name, seq = names[index]
                self._find("changed", name, seq, f"the row holds record {head.seq} of chain {head.chain}", place(index))
                continue
            chain = self._chains.get(head.chain)
            if chain is not None and chain.seal is not None:
                digest = chain.seal.digest(line[:-HASH_BYTES] + b"}")
                if line[-HASH_BYTES:] != b',"hash":"%s"}' % digest.encode():
                    self._changed(head, line, place(index), digest)
                    seen.append((head.chain, head.seq, digest))
                    continue
                seen.append((head.chain, head.seq, digest))
                if chain is self._current and head.seq == chain.next and head.prev == chain.last:
                    chain.next += 1
                    chain.last = digest
                else:
                    self._odd(chain, head, place(index))
            else:
                chain = self._unsealed(chain, head, line, place(index))
                seen.append((head.chain, head.seq, head.hash))
                if chain is None:
                    continue
            if head.kind != "decision" or head.seq in chain.pins:
                self._special(chain, head, place(index))
        self._report.counts[f"{self._source}_records"] += len(lines)
        return seen

    def finish(self) -> None:
        """There are no more records: what is missing at the end, between chains and at the anchors."""
        self._end_run()
        for chain in self._chains.values():
            for first, last, place in chain.missing:
                self._find("missing", chain.name, first, "missing", place, last)
        if not self._ordered:
            self._check_links()
        if self._keys.seals:
            for chain in chains.unprotected(self._chains.values()):
                self._find(
                    "key", chain.name, chain.first, "sealed without a key, and nothing sealed with one covers it"
                )
        self._check_anchors()
        self._report.counts[f"{self._source}_chains"] = len(self._chains)

    def _find(self, kind: Kind, chain: str, seq: int, text: str, place: str = "", last: int | None = None) -> None:
        self._end_run()
        self._report.add(Finding(self._source, kind, chain, seq, seq if last is None else last, text, place))

    def _end_run(self) -> None:
        if self._run is not None:
            self._report.add(self._run)
            self._run = None

    def _find_in_a_row(self, kind: Kind, chain: str, seq: int, text: str, place: str) -> None:
        """Like `_find`, but records in a row are one finding."""
        run = self._run
        if run and (run.kind, run.chain, run.last_seq, run.text) == (kind, chain, seq - 1, text):
            self._run = Finding(run.source, kind, chain, run.seq, seq, text, run.place)
            return
        self._end_run()
        self._run = Finding(self._source, kind, chain, seq, seq, text, place)

    # Lines that are not as they were written

    def _unread(self, place: str, name: tuple[str, int] | None) -> None:
        """A line that is no record stands where a record stood, or between two."""
        chain = self._chains.get(name[0]) if name else self._current
        if chain is None:
            self._find("unreadable", *(name or ("", 0)), "no record can be read here", place)
            return
        self._find("unreadable", chain.name, name[1] if name else chain.next, "no record can be read here", place)
        self._lose(chain)

    def _lose(self, chain: Chain | None) -> None:
        """A record of `chain` may have stood here; None before the first chain."""
        if chain is None:
            return
        chain.unreadable += 1
        if chain.last:
            chain.last, chain.last_too = "", chain.last

    def _changed(self, head: _Head, line: bytes, place: str, digest: str) -> None:
        """The content does not fit the hash: it, or its hash, was changed. Its own word on number and chain may be."""
        self._find_in_a_row("changed", head.chain, head.seq, "the content does not fit its hash", place)
        chain = self._chains.get(head.chain)
        if chain is None or (self._ordered and chain is not self._current):
            self._lose(self._current)
        elif head.seq == chain.next:
            parts = split_line(line)
            chain.next += 1
            chain.last, chain.last_too = digest, parts[1] if parts else ""
        elif head.seq > chain.next:
            chain.claimed.add(head.seq)
            self._lose(chain)
        else:
            self._lose(chain)

    # Lines that are whole, and not where they should be

    def _odd(self, chain: Chain, head: _Head, place: str) -> None:
        if chain is not self._current:
            if self._ordered:
                self._strayed(chain, head, place)
                return
            self._current = chain
        if head.seq < chain.next:
            if chain.find_missing(head.seq):
                self._find_in_a_row(
                    "order", chain.name, head.seq, f"out of order: stands behind record {chain.next - 1}", place
                )
            else:
                self._find_in_a_row("duplicate", chain.name, head.seq, "this number comes a second time", place)
            return
        if head.seq > chain.next:
            chain.leave_out(chain.next, head.seq - 1, place)
        elif not chain.ends_with(head.prev):
            self._find(
                "prev",
                chain.name,
                head.seq,
                f"does not name the hash of record {head.seq - 1}: one of the two was replaced and sealed anew",
                place,
            )
        self._advance(chain, head)

    def _advance(self, chain: Chain, head: _Head) -> None:
        chain.next = head.seq + 1
        chain.last, chain.last_too = head.hash, ""
        chain.unreadable = 0
        chain.claimed.clear()

    def _strayed(self, chain: Chain, head: _Head, place: str) -> None:
        """A record of a chain that had ended: it was moved here, or what stands before it was put in."""
        after = self._current.name if self._current else ""
        known = head.seq < chain.next and not chain.find_missing(head.seq)
        kind: Kind = "duplicate" if known else "order"
        self._find_in_a_row(kind, chain.name, head.seq, f"stands within or behind chain {after}", place)
        if head.seq == chain.next:
            goes_on = chain.ends_with(head.prev)
            self._advance(chain, head)
            if goes_on:
                self._current = chain

    # Chains

    def _unsealed(self, chain: Chain | None, head: _Head, line: bytes, place: str) -> Chain | None:
        """A record of a new chain, or of one that cannot be checked; None if it says nothing that can be relied on."""
        if chain is not None:  # blind
            if chain is not self._current or head.seq != chain.next or head.prev != chain.last:
                self._odd(chain, head, place)
            else:
                self._advance(chain, head)
            return chain
        starts = head.kind == "start" and head.seq == 1
        key = stated_key(head.rule) if starts else ""
        candidates = [
            seal
            for seal in (PLAIN, *self._keys.seals)
            if seal.key_id == key or (not starts and head.prev != "")  # without its start, a chain says nothing of it
        ]
        seal = next((seal for seal in candidates if seal.fits(line)), None)
        blind = starts and not candidates
        if blind:
            self._find("key", head.chain, 1, f"sealed with the HMAC key {key}, which was not given", place)
        elif seal is None:
            hint = "" if starts else " (or it is sealed with an HMAC key that was not given)"
            self._find_in_a_row("changed", head.chain, head.seq, f"the content does not fit its hash{hint}", place)
            self._lose(self._current)
            return None
        return self._begin(head, seal, place, blind=blind)

    def _begin(self, head: _Head, seal: Seal | None, place: str, *, blind: bool) -> Chain:
        starts = head.kind == "start" and head.seq == 1
        chain = Chain(
            name=head.chain,
            first=head.seq,
            first_ts=head.ts,
            place=place,
            follows=head.prev if starts else None,
            pins=self._book.of(head.chain),
            next=head.seq + 1,
            last=head.hash,
            seal=seal,
            blind=blind,
        )
        if head.seq == 1 and not starts:
            self._find("start", head.chain, 1, "the chain does not begin with a start record", place)
        if self._ordered:
            self._check_beginning(chain, place)
        self._chains[head.chain] = self._current = chain
        return chain

    def _check_beginning(self, chain: Chain, place: str) -> None:
        """A chain of the journal against the one before it; the first may be what pruning left."""
        before = self._current
        if before is None:
            if chain.first > 1 or chain.follows:
                self._report.notice(f"the {self._source} begins at chain {chain.name} seq {chain.first}")
            return
        lost = before.unreadable
        if chain.first > 1:
            if chain.first - 1 > lost:
                self._find("missing", chain.name, 1, "missing: the chain has no beginning", place, chain.first - 1)
            return
        if chain.follows is not None and not lost and not before.ends_with(chain.follows):
            self._find(
                "start",
                chain.name,
                1,
                f"does not follow record {before.next - 1} of chain {before.name}: what stood between is gone, "
                "or that record was replaced",
                place,
            )

    def _check_links(self) -> None:
        """The chains of a store, in whatever order: each but the oldest of its node follows one that is there."""
        known = self._chains.values()
        roots = chains.roots_by_node(known)
        ends = {end for chain in known for end in (chain.last, chain.last_too) if end}
        followed: dict[str, str] = {}
        for chain in known:
            oldest = roots[chains.node_of(chain.name)] is chain
            if chain.first > 1:
                if oldest:
                    self._report.notice(f"the store begins at chain {chain.name} seq {chain.first}")
                else:
                    self._find("missing", chain.name, 1, "missing: the chain has no beginning", "", chain.first - 1)
            elif chain.follows:
                if chain.follows not in ends:
                    if oldest:
                        self._report.notice(f"the store begins at chain {chain.name} seq {chain.first}")
                    else:
                        text = "follows a record that is the last of no chain: the chain before, or its end, is gone"
                        self._find("start", chain.name, 1, text)
                elif chain.follows in followed:
                    text = f"follows the same record as chain {followed[chain.follows]}"
                    self._find("start", chain.name, 1, text)
                followed[chain.follows] = chain.name

    # Anchors

    def _special(self, chain: Chain, head: _Head, place: str) -> None:
        pin = chain.pins.get(head.seq)
        if pin is not None:
            self._report.counts[f"{self._source}_anchors_met"] += 1
            if pin.hash != head.hash:
                self._find("anchor", chain.name, head.seq, f"was replaced: {pin.place} anchors another hash", place)
        if head.kind == "anchor":
            self._check_anchor_record(chain, head, place)
        elif head.kind == "start" and head.seq != 1:
            self._find("start", chain.name, head.seq, "a start record within a chain", place)

    def _check_anchor_record(self, chain: Chain, head: _Head, place: str) -> None:
        anchor = anchors.parse(head.rule)
        self._report.counts[f"{self._source}_anchor_records"] += 1
        if anchor is None:
            self._find("anchor", chain.name, head.seq, "its anchor cannot be read", place)
        elif (anchor.chain, anchor.seq, anchor.hash) != (head.chain, head.seq - 1, head.prev):
            self._find("anchor", chain.name, head.seq, "its anchor does not fit the record before it", place)
        elif self._keys.anchor_keys and not anchors.verify(anchor, self._keys.anchor_keys):
            self._find("anchor", chain.name, head.seq, "its anchor is not signed with a given key", place)

    def _check_anchors(self) -> None:
        """Anchors of records that did not come: cut off, unless they are older than the beginning or still to come."""
        roots = chains.roots_by_node(self._chains.values())
        for name, pins in self._book:
            chain = self._chains.get(name)
            root = chain or roots.get(chains.node_of(name))
            if self._ordered and chain is None:
                root = next(iter(self._chains.values()), None)
            cut = [
                (seq, pin)
                for seq, pin in pins.items()
                if (chain is None or seq >= chain.next)
                and not self._is_older(root, chain, pin)
                and not self._pending(name, seq, pin)
            ]
            if cut:
                seq, pin = max(cut)[0], max(cut)[1]
                text = f"ends at {chain.next - 1}" if chain else "has no records"
                self._find("truncated", name, seq, f"the chain {text}, and {pin.place} anchors record {seq}")

    @staticmethod
    def _is_older(root: Chain | None, chain: Chain | None, pin: Pin) -> bool:
        """Whether an anchor of an unknown chain is older than what the source begins with."""
        if chain is not None or root is None:
            return False
        begins_later = root.first > 1 or bool(root.follows)
        return begins_later and pin.ts <= root.first_ts
