"""Every way to tamper with a journal is found, and the record is named."""

import json

import msgspec
import pytest
from audit_journals import verify_lines, written
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.audit.findings import Report
from authz_service.audit.seals import PLAIN, Seal

CHAINS = (6, 1, 8)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three chains with anchors among them."""
    return written(tmp_path_factory.mktemp("audit") / "j", CHAINS, anchor_every=3)


def name(line: bytes) -> tuple[str, int]:
    entry = json.loads(line)
    return entry["chain"], entry["seq"]


def named(report: Report) -> set[tuple[str, int]]:
    """Every record that a finding speaks of."""
    return {(finding.chain, seq) for finding in report.findings for seq in range(finding.seq, finding.last_seq + 1)}


def sealed(entry: dict[str, object], seal: Seal = PLAIN) -> bytes:
    """The entry as a line whose hash fits, as a forger without a key can make it."""
    entry = {key: value for key, value in entry.items() if key != "hash"}
    body = msgspec.json.encode(entry)
    return body[:-1] + b',"hash":"%s"}' % seal.digest(body).encode()


def test_untouched_journal_is_clean(journal: list[bytes]) -> None:
    """Ours: no false alarm."""
    report = verify_lines(journal)

    assert report.findings == []
    assert report.notices == []
    assert report.counts["journal_records"] == len(journal)
    assert report.counts["journal_chains"] == 3
    assert report.counts["journal_anchor_records"] == 6


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: finds any changed record and says which."""
    content = bytearray(b"\n".join(journal) + b"\n")
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= data.draw(st.integers(1, 255))
    number = bytes(content[:at]).count(b"\n") if content[at] != 0x0A else content[:at].count(b"\n")

    report = verify_lines(bytes(content))

    assert report.total
    assert any(f.place in {f"line:{number + 1}", f"line:{number + 2}"} for f in report.findings)
    assert report.total <= 3, "one cause, few findings"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_deleted_line_is_named(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: finds any removed record. The first of all and the last of all leave no trace in the journal alone."""
    at = data.draw(st.integers(1, len(journal) - 2))

    report = verify_lines(journal[:at] + journal[at + 1 :])

    chain, seq = name(journal[at])
    last_of_chain = name(journal[at + 1])[0] != chain
    assert named(report) == {(name(journal[at + 1])[0], 1)} if last_of_chain else {(chain, seq)}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_two_swapped_lines_are_found(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: finds reordered records."""
    first, second = sorted(data.draw(st.lists(st.integers(0, len(journal) - 1), min_size=2, max_size=2, unique=True)))
    changed = [*journal]
    changed[first], changed[second] = changed[second], changed[first]

    report = verify_lines(changed)

    places = {f"line:{first + 1}", f"line:{first + 2}", f"line:{second + 1}", f"line:{second + 2}"}
    assert places & {finding.place for finding in report.findings}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_duplicate_is_named(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: finds records that come twice, wherever the copy stands."""
    original = data.draw(st.integers(0, len(journal) - 1))
    at = data.draw(st.integers(original + 1, len(journal)))

    report = verify_lines([*journal[:at], journal[original], *journal[at:]])

    assert named(report) == {name(journal[original])}
    assert {finding.kind for finding in report.findings} == {"duplicate"}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_inserted_line_with_a_fitting_hash_is_found(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: finds inserted records, however well they are forged. One behind the last leaves no trace here."""
    at = data.draw(st.integers(1, len(journal) - 1))
    before = json.loads(journal[at - 1])
    entry = {**json.loads(journal[data.draw(st.integers(0, len(journal) - 1))]), "identity": "mallory"}
    forged = {**entry, "chain": before["chain"], "seq": before["seq"] + 1, "prev": before["hash"]}

    report = verify_lines([*journal[:at], sealed(forged), *journal[at:]])

    following = name(journal[at])
    assert named(report) & {(forged["chain"], forged["seq"]), following}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_record_sealed_anew_is_found(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: a changed record with a recomputed hash does not fit the next one."""
    at = data.draw(st.integers(0, len(journal) - 2))
    changed = [*journal]
    changed[at] = sealed({**json.loads(journal[at]), "identity": "mallory"})

    report = verify_lines(changed)

    assert named(report) & {name(journal[at]), name(journal[at + 1])}


def test_a_record_that_names_nothing_before_it_is_found(journal: list[bytes]) -> None:
    """Issue 3: only the very first record has no predecessor; the last of all, too, is held to that."""
    for at in range(1, len(journal)):
        entry = {**json.loads(journal[at]), "prev": ""}
        report = verify_lines([*journal[:at], sealed(entry), *journal[at + 1 :]])
        assert name(journal[at]) in named(report)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_spliced_chains_are_found(journal: list[bytes], data: st.DataObject) -> None:
    """Issue 3: records moved to another place, a whole chain included."""
    start = data.draw(st.integers(0, len(journal) - 2))
    stop = data.draw(st.integers(start + 1, len(journal) - 1))
    to = data.draw(st.integers(0, len(journal) - (stop - start)).filter(lambda value: value != start))
    moved = journal[start:stop]
    rest = journal[:start] + journal[stop:]

    report = verify_lines([*rest[:to], *moved, *rest[to:]])

    assert report.total


def test_a_line_of_nothing_is_found(journal: list[bytes]) -> None:
    """Ours: a journal holds records and nothing else."""
    for odd in (b"", b"{}", b"null", b'{"seq":1}', b"\xff\x00", b"[" * 5000):
        report = verify_lines([*journal[:4], odd, *journal[4:]])
        assert [(f.kind, f.place) for f in report.findings] == [("unreadable", "line:5")]


def test_missing_chain_is_found(journal: list[bytes]) -> None:
    """Issue 3: a chain of chains: a whole run of the service cannot be taken out."""
    second = name(journal[-1])[0]
    chains = list(dict.fromkeys(name(line)[0] for line in journal))
    without = [line for line in journal if name(line)[0] != chains[1]]

    report = verify_lines(without)

    assert named(report) == {(second, 1)}
    assert [finding.kind for finding in report.findings] == ["start"]
