"""The store's side of the audit: chains of many nodes in any order, and the comparison with the journal."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from audit_journals import KEYS, verify_lines, written
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.audit.anchors import AnchorBook
from authz_service.audit.findings import Report
from authz_service.audit.reconcile import Reconciler
from authz_service.audit.verify import Verifier
from secure_mcp_grpc.cli import audit_store
from trace_sink.tables import COLUMNS

Row = tuple[str, int, bytes]


def rows_of(lines: Iterable[bytes]) -> list[Row]:
    """Rows as the store keeps them."""
    entries = [(json.loads(line), line) for line in lines]
    return sorted((entry["chain"], entry["seq"], line) for entry, line in entries)


def verify_store(rows: list[Row]) -> Report:
    report = Report()
    verifier = Verifier("store", report, KEYS, AnchorBook())
    verifier.feed([line for _, _, line in rows], lambda _: "", [(chain, seq) for chain, seq, _ in rows])
    verifier.finish()
    return report


def audit(lines: list[bytes], rows: list[Row], *, shipped: int | None = None, block: int = 3) -> Report:
    """Journal and store; the first `shipped` lines are acknowledged."""
    report = Report()
    journal = Verifier("journal", report, KEYS, AnchorBook())
    bounds: dict[str, int] = {}
    for chain, seq, _ in rows:
        bounds[chain] = max(seq, bounds.get(chain, 0))

    def fetch(chain: str, first: int, last: int) -> list[tuple[int, str]]:
        return [(seq, json.loads(line)["hash"]) for name, seq, line in rows if name == chain and first <= seq <= last]

    reconciler = Reconciler(fetch, bounds, report)
    border = len(lines) if shipped is None else shipped
    for part, is_shipped in ((lines[:border], True), (lines[border:], False)):
        for start in range(0, len(part), block):
            seen = journal.feed(part[start : start + block], lambda _: "")
            reconciler.take(seen, shipped=is_shipped)
            reconciler.compare()
    journal.finish()
    store = Verifier("store", report, KEYS, AnchorBook())
    store.feed([line for _, _, line in rows], lambda _: "", [(chain, seq) for chain, seq, _ in rows])
    store.finish()
    reconciler.finish(journal.chains, store.chains)
    return report


class Nodes(list[list[bytes]]):
    """With a short name, since Hypothesis writes down what it was given."""

    def __repr__(self) -> str:
        return "nodes"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> list[list[bytes]]:
    """The journals of two nodes."""
    return Nodes(
        written(tmp_path_factory.mktemp("audit") / name, (6, 2, 8), anchor_every=3, node=name)
        for name in ("pod-a", "pod-b")
    )


def chains_of(lines: list[bytes]) -> list[str]:
    return list(dict.fromkeys(json.loads(line)["chain"] for line in lines))


def named(report: Report) -> set[tuple[str, int]]:
    return {(f.chain, seq) for f in report.findings for seq in range(f.seq, f.last_seq + 1)}


def test_chains_of_several_nodes_are_clean_in_any_order(nodes: list[list[bytes]]) -> None:
    """Ours: one store serves many pods; names of chains do not sort by time."""
    report = verify_store(rows_of([*nodes[0], *nodes[1]]))

    assert (report.findings, report.notices) == ([], [])
    assert report.counts["store_chains"] == 6


HOW = st.sampled_from(["flip", "remove", "double", "renumber"])


@settings(max_examples=200, deadline=None)
@given(choice=st.integers(0, 10_000), how=HOW, byte=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_each_way_to_tamper_with_a_row_is_named(
    nodes: list[list[bytes]], choice: int, how: str, byte: int, flip: int
) -> None:
    """Issue 3: changed, removed, doubled rows, in a store without its journal. A node's first and last excepted."""
    rows = rows_of([*nodes[0], *nodes[1]])
    outer = {line for lines in nodes for line in (lines[0], lines[-1])}
    inner = [index for index, row in enumerate(rows) if row[2] not in outer]
    at = inner[choice % len(inner)]
    chain, seq, line = rows[at]
    if how == "flip":
        changed = bytearray(line)
        changed[byte % len(line)] ^= flip
        rows[at] = (chain, seq, bytes(changed))
    elif how == "remove":
        del rows[at]
    elif how == "double":
        rows.insert(at, rows[at])
    else:
        rows[at] = (chain, seq + 100, line)

    report = verify_store(sorted(rows))

    following = {(name, 1) for lines in nodes for name in chains_of(lines)[1:]}
    expected = {(chain, seq), (chain, seq + 100)}
    assert named(report) & (expected | following if how in ("remove", "renumber") else expected)


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_removed_chain_is_found_or_is_the_end_of_one(nodes: list[list[bytes]], removed: int) -> None:
    """Ours: the oldest may have been dropped by retention; of the newest nothing remains but the journal's word."""
    chains = chains_of(nodes[0])
    rows = [row for row in rows_of(nodes[0]) if row[0] != chains[removed]]

    report = verify_store(rows)

    if removed == 0:
        assert report.findings == []
        assert report.notices == [f"the store begins at chain {chains[1]} seq 1"]
    elif removed == 1:
        assert named(report) == {(chains[2], 1)}
    else:
        assert report.clean
        assert named(audit(nodes[0], rows)) >= {(chains[2], 1)}


def test_two_chains_behind_one_record_are_found(tmp_path: Path) -> None:
    """Ours: a copy of a journal that was continued by somebody else."""
    written(tmp_path / "j", (3,))
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    here, there = written(tmp_path / "j", (3,)), written(tmp_path / "copy", (3,))

    report = verify_store(rows_of({*here, *there}))

    assert [(finding.kind, finding.seq) for finding in report.findings] == [("start", 1)]
    assert "follows the same record as chain" in report.findings[0].text


def test_equal_journal_and_store_are_clean(nodes: list[list[bytes]]) -> None:
    """Issue 3: reconciliation on (chain, sequence); other nodes' chains are only verified."""
    report = audit(nodes[0], rows_of([*nodes[0], *nodes[1]]))

    assert report.findings == []
    assert report.counts["reconciled"] == len(nodes[0])


def test_what_is_not_yet_shipped_is_not_missing(nodes: list[list[bytes]]) -> None:
    """Issue 3: after the shipper's cursor the store may lack records; some may have arrived all the same."""
    lines = nodes[0]

    for arrived in (12, 14):
        report = audit(lines, rows_of(lines[:arrived]), shipped=12)
        assert report.findings == []
        assert report.counts["unshipped"] == len(lines) - arrived


def test_acknowledged_record_that_is_not_there_is_found(nodes: list[list[bytes]]) -> None:
    """Issue 3: nothing lost."""
    lines = nodes[0]
    rows = [row for row in rows_of(lines) if row[2] not in lines[4:6]]

    report = audit(lines, rows)

    chain = chains_of(lines)[0]
    assert {(f.source, f.kind, f.chain, f.seq, f.last_seq) for f in report.findings} == {
        ("store", "missing", chain, 5, 6)
    }
    assert "was acknowledged and is not in the store" in " ".join(f.text for f in report.findings)


@pytest.mark.parametrize("keep", [2, 7, 9, 15])
def test_end_cut_off_the_journal_is_shown_by_the_store(nodes: list[list[bytes]], keep: int) -> None:
    """Issue 3: what follows the last anchor in the journal alone; whole chains included."""
    lines = nodes[0]
    assert verify_lines(lines[:keep]).clean

    report = audit(lines[:keep], rows_of(lines))

    lost = {(entry["chain"], entry["seq"]) for entry in map(json.loads, lines[keep:])}
    assert named(report) == lost
    assert {finding.kind for finding in report.findings} == {"extra"}


def test_record_that_only_the_store_has_is_found(nodes: list[list[bytes]]) -> None:
    """Issue 3: taken out of the journal, in the middle."""
    lines = nodes[0]

    report = audit(lines[:5] + lines[6:], rows_of(lines))

    chain = chains_of(lines)[0]
    assert {(f.source, f.kind, f.seq) for f in report.findings} == {("journal", "missing", 6), ("journal", "extra", 6)}
    assert {finding.chain for finding in report.findings} == {chain}


def test_record_that_differs_is_found_on_the_right_side(nodes: list[list[bytes]]) -> None:
    """Issue 3: equal content; the side whose seal is broken is the one that was changed."""
    lines = [*nodes[0]]
    lines[3] = lines[3].replace(b"model-a", b"model-z")

    report = audit(lines, rows_of(nodes[0]))

    assert {(f.source, f.kind, f.seq) for f in report.findings} == {("journal", "changed", 4), ("store", "differs", 4)}


def test_pruned_journal_has_a_complete_store(nodes: list[list[bytes]]) -> None:
    """Ours: what was pruned is only in the store."""
    report = audit(nodes[0][5:], rows_of(nodes[0]))

    assert report.findings == []
    assert len(report.notices) == 1


def test_every_column_is_compared_with_the_record() -> None:
    """Ours: a column that is added to the table must be added to the audit, or tampering with it would not show."""
    compared = {*audit_store._WORDS, *audit_store._NAMES, "ts", "roles"}

    assert set(COLUMNS["decisions"]) - compared == {"chain", "seq", "record"}, "these are held against each other"
