"""What a verifier remembers of one chain, and how chains hang together. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from authz_service.audit.anchors import Pin
from authz_service.audit.seals import Seal

__all__ = ["Chain", "node_of", "roots_by_node", "unprotected"]


@dataclass(slots=True)
class Chain:
    """One chain as far as it was read."""

    name: str
    first: int
    """Number of the first record seen."""
    first_ts: str
    place: str
    """Of that record."""
    follows: str | None
    """What the start record names as the last record of the chain before; None where the start was not readable."""
    pins: dict[int, Pin]
    next: int
    """Number of the record to come."""
    last: str = ""
    """Hash that it should name; empty where that is not known."""
    last_too: str = ""
    """Another hash that it may name: where a changed record's content and stated hash disagree."""
    seal: Seal | None = None
    """None until a record shows which one it is."""
    blind: bool = False
    """Sealed with a key that is not at hand: only the order can be checked."""
    unreadable: int = 0
    """Lines since the last good record that were no records."""
    claimed: set[int] = field(default_factory=set)
    """Numbers that changed records gave themselves."""
    missing: list[tuple[int, int, str]] = field(default_factory=list)
    """First, last, and where that was noticed."""

    def ends_with(self, digest: str) -> bool:
        """Whether `digest` is the hash of the last record."""
        return digest != "" and digest in (self.last, self.last_too)

    def find_missing(self, seq: int) -> bool:
        """Whether `seq` was missing; it no longer is."""
        for index, (first, last, place) in enumerate(self.missing):
            if first <= seq <= last:
                rest = [(first, seq - 1, place), (seq + 1, last, place)]
                self.missing[index : index + 1] = [part for part in rest if part[0] <= part[1]]
                return True
        return False

    def leave_out(self, first: int, last: int, place: str) -> None:
        """Numbers `first` to `last` were passed over; what stood there as an unreadable line is reported already."""
        if last - first + 1 <= self.unreadable:
            return
        for seq in sorted(self.claimed):
            if first <= seq <= last:
                if first < seq:
                    self.missing.append((first, seq - 1, place))
                first = seq + 1
        if first <= last:
            self.missing.append((first, last, place))


def node_of(chain: str) -> str:
    """The node in a chain's name, `<node>-<time>-<random>`."""
    return chain.rsplit("-", 2)[0]


def roots_by_node(chains: Iterable[Chain]) -> dict[str, Chain]:
    """The oldest chain of each node: the only one whose predecessor may be gone, since the oldest is removed first."""
    oldest: dict[str, Chain] = {}
    for chain in chains:
        known = oldest.get(node_of(chain.name))
        if known is None or chain.first_ts < known.first_ts:
            oldest[node_of(chain.name)] = chain
    return oldest


def unprotected(chains: Iterable[Chain]) -> list[Chain]:
    """Chains without a key that no keyed chain follows, or that follow one: anybody could have sealed them anew."""
    known = list(chains)
    by_end = {end: chain for chain in known for end in (chain.last, chain.last_too) if end}
    covered: set[str] = set()
    for chain in known:
        if not _is_keyed(chain):
            continue
        before: Chain | None = chain
        while before is not None and before.follows:
            before = by_end.get(before.follows)
            if before is None or before.name in covered:
                break
            covered.add(before.name)
    keyed = {chain.name for chain in known if _is_keyed(chain)}
    return [
        chain
        for chain in known
        if not _is_keyed(chain) and (chain.name not in covered or _follows(chain, by_end, keyed))
    ]


def _is_keyed(chain: Chain) -> bool:
    return chain.blind or bool(chain.seal and chain.seal.key_id)


def _follows(chain: Chain, by_end: dict[str, Chain], keyed: set[str]) -> bool:
    before = by_end.get(chain.follows) if chain.follows else None
    return before is not None and before.name in keyed
