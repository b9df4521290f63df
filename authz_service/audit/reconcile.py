"""Journal against store: the same records, on (chain, number), with the same hash. Pure but for a given look-up.

A record before the shipper's cursor was acknowledged, so the store must have
it; behind the cursor it may not have arrived. What only the store has was
taken out of the journal, unless it is older than the journal's beginning.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from authz_service.audit.chains import Chain
from authz_service.audit.findings import Finding, Kind, Report
from authz_service.audit.verify import Seen

__all__ = ["Reconciler"]

_FEWEST: Final = 20_000
"""Records per look-up."""

Fetch = Callable[[str, int, int], Iterable[tuple[int, str]]]


class Reconciler:
    """Takes what was read of the journal, in its order; `finish` with what both verifiers know of the chains."""

    def __init__(self, fetch: Fetch, bounds: Mapping[str, int], report: Report) -> None:
        """`fetch` gives (number, hash) of the store's rows of a chain, from first to last number.

        `bounds`: the last number of each chain in the store, asked before the journal was opened, so that the
        journal must have everything up to there.
        """
        self._fetch = fetch
        self._bounds = bounds
        self._report = report
        self._floor: dict[str, int] = {}
        """Per chain the first number that was not compared."""
        self._only_stored: set[tuple[str, int]] = set()
        self._unshipped: dict[str, int] = {}
        self._waiting: list[Seen] = []
        self._waiting_shipped = True

    def take(self, seen: list[Seen], *, shipped: bool) -> None:
        if self._waiting and (shipped != self._waiting_shipped or len(self._waiting) >= _FEWEST):
            self.compare()
        self._waiting_shipped = shipped
        self._waiting += seen

    def is_unshipped(self, chain: str, seq: int) -> bool:
        """Whether the journal has this record and the store need not have it yet."""
        return chain in self._unshipped and seq >= self._unshipped[chain]

    def finish(self, journal: Mapping[str, Chain], store: Mapping[str, Chain]) -> None:
        """What only the store has: single records, ends of chains, and chains that follow one of the journal's."""
        self.compare()
        self._add("extra", "is in the store and not in the journal", sorted(self._only_stored))
        for name, floor in self._floor.items():
            bound = self._bounds.get(name, 0)
            if bound >= floor:
                text = "is in the store and not in the journal, whose end was cut off"
                self._report.add(Finding("journal", "extra", name, floor, bound, text))
        for chain in _successors(journal, store):
            if chain.name in self._bounds:
                text = "the chain is in the store and not in the journal"
                self._report.add(Finding("journal", "extra", chain.name, chain.first, self._bounds[chain.name], text))

    def compare(self) -> None:
        """Look up what waits; the journal's last records among it."""
        by_chain: dict[str, dict[int, str]] = {}
        for name, seq, digest in self._waiting:
            by_chain.setdefault(name, {})[seq] = digest
        self._waiting = []
        for name, records in by_chain.items():
            self._compare_chain(name, records)

    def _compare_chain(self, name: str, records: dict[int, str]) -> None:
        floor = self._floor.setdefault(name, min(records))
        first, last = min(floor, *records), max(records)
        stored: dict[int, set[str]] = {}
        for seq, digest in self._fetch(name, first, last):
            stored.setdefault(seq, set()).add(digest)
        missing = [seq for seq in records if seq not in stored]
        if self._waiting_shipped:
            self._add("missing", "was acknowledged and is not in the store", [(name, seq) for seq in missing])
        elif missing:
            self._unshipped[name] = min(missing)
            self._report.counts["unshipped"] += len(missing)
        differing = [(name, seq) for seq, digest in records.items() if seq in stored and digest not in stored[seq]]
        self._add("differs", "is another one in the store than in the journal", sorted(differing))
        self._only_stored |= {(name, seq) for seq in stored if seq >= floor and seq not in records}
        self._only_stored -= {(name, seq) for seq in records}
        self._floor[name] = max(floor, last + 1)
        self._report.counts["reconciled"] += len(records) - len(missing)

    def _add(self, kind: Kind, text: str, records: list[tuple[str, int]]) -> None:
        """Records in a row are one finding."""
        run: list[tuple[str, int]] = []
        for record in [*records, ("", -1)]:
            if run and record != (run[-1][0], run[-1][1] + 1):
                source = "journal" if kind == "extra" else "store"
                self._report.add(Finding(source, kind, run[0][0], run[0][1], run[-1][1], text))
                run = []
            run.append(record)


def _successors(journal: Mapping[str, Chain], store: Mapping[str, Chain]) -> list[Chain]:
    """Chains of the store alone that follow, directly or not, one that the journal has."""
    following = {chain.follows: chain for chain in store.values() if chain.follows and chain.name not in journal}
    found: list[Chain] = []
    ends = [end for name in journal for chain in (journal[name], store.get(name)) if chain for end in (chain.last,)]
    while ends:
        chain = following.pop(ends.pop(), None)
        if chain is not None:
            found.append(chain)
            ends.append(chain.last)
    return found
