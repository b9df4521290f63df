"""What an audit finds, as values, and the report that collects them."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

__all__ = ["Finding", "Kind", "Report"]

Kind = Literal["changed", "unreadable", "prev", "missing", "order", "duplicate", "start", "truncated", "anchor", "key",
               "differs", "extra"]  # fmt: skip
"""Stable codes: content that does not fit its hash; a line that is no record; a previous hash that does not fit;
numbers left out; out of order; a number that comes twice; a chain that does not follow its predecessor; an end before
an anchor; an anchor that does not hold; a seal that cannot be checked or is weaker than before; journal and store
differ; a record that only the store has."""

_BY_SOURCE: Final = ("records", "chains", "anchor_records", "anchors_met")
COUNTS: Final = (
    *(f"{source}_{what}" for source in ("journal", "store") for what in _BY_SOURCE),
    *("anchors", "reconciled", "unshipped"),
)
"""What is counted."""

_MAX_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or several records in a row that are wrong in the same way."""

    source: str
    """`journal`, `store`, or `anchors`."""
    kind: Kind
    chain: str
    seq: int
    """The record, or the first of them; 0 where it has no number."""
    last_seq: int
    text: str
    place: str = ""
    """`file:line` where there is one."""

    def __str__(self) -> str:
        numbers = f"{self.seq}" if self.seq == self.last_seq else f"{self.seq}..{self.last_seq}"
        where = f"{self.place}: " if self.place else ""
        return f"{self.source}: {where}chain {self.chain or '?'} seq {numbers}: {self.text} [{self.kind}]"


@dataclass(slots=True)
class Report:
    """Everything found so far. Memory is bounded: the first thousand findings are kept, the others counted."""

    findings: list[Finding] = field(default_factory=list)
    total: int = 0
    notices: list[str] = field(default_factory=list)
    """Worth knowing, and nothing wrong."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was looked at."""

    def add(self, finding: Finding) -> None:
        self.total += 1
        if len(self.findings) < _MAX_KEPT:
            self.findings.append(finding)

    def notice(self, text: str) -> None:
        if len(self.notices) < _MAX_KEPT:
            self.notices.append(text)

    @property
    def clean(self) -> bool:
        return self.total == 0

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.clean,
            "findings_total": self.total,
            "findings": [asdict(finding) for finding in self.findings],
            "notices": self.notices,
            "counts": {name: self.counts[name] for name in COUNTS},
        }
