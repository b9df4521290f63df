"""Anchors: what they pin cannot be changed or cut off, not even by who can seal everything anew."""

import asyncio
import errno
import json
import os
from pathlib import Path

import msgspec
import pytest
from audit_journals import KEY, KEYS, OTHER_KEY, record, verify_directory, verify_lines, write, written
from prometheus_client import CollectorRegistry

from authz_service import journal_files
from authz_service.audit import anchors
from authz_service.audit.anchoring import Anchoring, AnchorsFile
from authz_service.audit.anchors import AnchorBook
from authz_service.audit.findings import Report
from authz_service.audit.metrics import AuditMetrics
from authz_service.audit.reading import read_anchors
from authz_service.audit.seals import PLAIN
from authz_service.audit.verify import Keys
from authz_service.journal import Journal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def sealed_anew(lines: list[bytes], at: int, *, signed: bool = False) -> list[bytes]:
    """The record at `at` changed, and everything after it sealed to fit, by somebody without the keys.

    `signed`: the anchors among them signed anew, too, with a key of the forger's.
    """
    result = lines[:at]
    hashes: dict[str, str] = {}
    for index, line in enumerate(lines[at:]):
        entry = json.loads(line)
        old = entry.pop("hash")
        if index == 0:
            entry["identity"] = "mallory"
        entry["prev"] = hashes.get(entry["prev"], entry["prev"])
        if signed and entry["kind"] == "anchor":
            anchor = anchors.sign(OTHER_KEY, entry["chain"], entry["seq"] - 1, entry["prev"], entry["ts"])
            entry["rule"] = anchors.encode(anchor).decode()
        body = msgspec.json.encode(entry)
        hashes[old] = PLAIN.digest(body)
        result.append(body[:-1] + b',"hash":"%s"}' % hashes[old].encode())
    return result


def book_of(directory: Path) -> AnchorBook:
    book = AnchorBook()
    read_anchors(directory / "anchors.jsonl", KEYS, book, Report())
    return book


def test_sealing_everything_anew_is_found_by_the_anchors_within(directory: Path) -> None:
    """Issue 3: with an anchor, re-hashing the rest of the chain is found; signing with another key, too."""
    lines = written(directory, (9, 9), anchor_every=3)

    for signed in (False, True):
        report = verify_lines(sealed_anew(lines, 3, signed=signed))
        assert {finding.kind for finding in report.findings} == {"anchor"}
        assert report.findings[0].seq == 5, "the first anchor behind the change is named"


def test_sealing_everything_anew_is_found_by_anchors_kept_elsewhere(directory: Path) -> None:
    """Issue 3: the file of anchors shows it even where the anchors within were taken out before."""
    lines = written(directory, (9, 9), anchor_every=3)
    only = [line for line in lines if json.loads(line)["kind"] != "anchor"]
    numbers: dict[str, int] = {}
    last, forged = "", []
    for line in only:
        entry = json.loads(line)
        entry.pop("hash")
        numbers[entry["chain"]] = entry["seq"] = numbers.get(entry["chain"], 0) + 1
        entry["prev"] = last
        body = msgspec.json.encode(entry)
        last = PLAIN.digest(body)
        forged.append(body[:-1] + b',"hash":"%s"}' % last.encode())

    assert verify_lines(forged).clean, "without the file nothing shows"
    report = verify_lines(forged, book=book_of(directory))
    assert {finding.kind for finding in report.findings} == {"anchor", "truncated"}


@pytest.mark.parametrize("keep", [0, 1, 5, 11, 12, 20])
def test_an_end_that_was_cut_off_is_found(directory: Path, keep: int) -> None:
    """Issue 3: an anchor beyond the end means truncation; the whole of a chain or of the journal included."""
    lines = written(directory, (9, 9), anchor_every=3)

    report = verify_lines(lines[:keep], book=book_of(directory))

    assert "truncated" in {finding.kind for finding in report.findings}
    last = json.loads(lines[-1])
    assert (last["chain"], last["seq"] - 1) in {(finding.chain, finding.seq) for finding in report.findings}


def test_pruned_beginning_is_no_finding(directory: Path) -> None:
    """Ours: journal_keep_bytes removes the oldest files; anchors of what they held cannot be checked any more."""
    asyncio.run(write(directory, (20, 20), anchor_every=5))
    files = list(journal_files.files(directory).values())
    for path in files[:3]:
        path.unlink()

    report = verify_directory(directory, anchors=directory / "anchors.jsonl")

    assert report.findings == []
    assert len(report.notices) == 1
    assert "the journal begins at chain" in report.notices[0]
    assert 0 < report.counts["journal_anchors_met"] < report.counts["anchors"]


async def test_anchors_are_written_while_there_is_something_new(directory: Path) -> None:
    """Issue 3: periodically, into the journal and into a file; nothing for nothing."""
    journal = Journal(directory, "node", rotate_bytes=100_000)
    metrics = AuditMetrics(CollectorRegistry())
    anchoring = Anchoring(journal, KEY, AnchorsFile(directory / "anchors.jsonl"), metrics)
    task = asyncio.create_task(anchoring.run(0.01))
    async with asyncio.timeout(10):
        while journal.seq < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    assert journal.seq == 2, "start, and the anchor of it"
    journal.append(record())
    await anchoring.close()
    await journal.close()

    kept = [anchors.parse(line) for line in (directory / "anchors.jsonl").read_bytes().splitlines()]
    assert [anchor.seq for anchor in kept if anchor] == [1, 3]
    assert all(anchor and anchors.verify(anchor, [KEY.public_key()]) for anchor in kept)
    assert not any(anchor and anchors.verify(anchor, [OTHER_KEY.public_key()]) for anchor in kept)
    assert (directory / "anchors.jsonl").stat().st_mode & 0o777 == 0o600
    report = verify_directory(directory, anchors=directory / "anchors.jsonl")
    assert (report.findings, report.counts["journal_anchors_met"]) == ([], 2)


async def test_an_anchor_goes_out_after_what_it_names_is_on_the_disk(directory: Path) -> None:
    """Ours: otherwise a power failure would look like an end that was cut off."""
    order: list[str] = []
    journal = Journal(directory, "node", rotate_bytes=100_000, fsync=lambda _: order.append("journal"))
    file = AnchorsFile(directory / "anchors.jsonl", fsync=lambda _: order.append("anchors"))
    await Anchoring(journal, KEY, file, AuditMetrics(CollectorRegistry())).close()
    await journal.close()

    assert order == ["journal", "journal", "anchors"]


async def test_what_is_not_on_the_disk_is_not_anchored_elsewhere(directory: Path) -> None:
    """Ours: the file says nothing of records whose fsync failed."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(directory, "node", rotate_bytes=100_000, fsync=fail)
    metrics = AuditMetrics(CollectorRegistry())
    await Anchoring(journal, KEY, AnchorsFile(directory / "anchors.jsonl"), metrics).close()
    await journal.close()

    assert (directory / "anchors.jsonl").read_bytes() == b""
    assert metrics.failures._value.get() == 1


async def test_failing_disk_costs_an_anchor_and_no_decision(directory: Path) -> None:
    """Ours: a full disk under the anchors file is counted; the next anchor is whole."""
    broken = True

    def fsync(descriptor: int) -> None:
        if broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(descriptor)

    journal = Journal(directory, "node", rotate_bytes=100_000)
    metrics = AuditMetrics(CollectorRegistry())
    anchoring = Anchoring(journal, KEY, AnchorsFile(directory / "anchors.jsonl", fsync=fsync), metrics)
    await anchoring.anchor()
    (directory / "anchors.jsonl").write_bytes(b'{"chain":"torn')
    assert metrics.failures._value.get() == 1
    broken = False
    await anchoring.close()
    await journal.close()

    assert len((directory / "anchors.jsonl").read_bytes().splitlines()) == 1
    assert verify_directory(directory, anchors=directory / "anchors.jsonl").clean


def test_damaged_and_contradicting_anchors_are_found(directory: Path) -> None:
    """Issue 3: the signature and the form of every anchor in the file."""
    written(directory, (9,), anchor_every=3)
    path = directory / "anchors.jsonl"
    good = path.read_bytes().splitlines()
    first = json.loads(good[0])
    other = anchors.encode(anchors.sign(KEY, first["chain"], first["seq"], "0" * 64, first["ts"]))
    forged = json.dumps({**first, "seq": first["seq"] + 1}).encode()
    path.write_bytes(b"\n".join([*good, b"{}", forged, other, good[0][:-9]]))

    report = verify_directory(directory, anchors=path)

    assert [(f.source, f.kind, f.place) for f in report.findings] == [
        ("anchors", "unreadable", "anchors.jsonl:4"),
        ("anchors", "anchor", "anchors.jsonl:5"),
        ("anchors", "anchor", "anchors.jsonl:6"),
    ]
    assert report.notices == [f"anchors.jsonl ends with {len(good[0]) - 9} bytes of an unfinished anchor"]


@pytest.mark.parametrize("field", ["chain", "seq", "hash", "ts", "key", "signature"])
def test_every_field_of_an_anchor_is_signed(field: str) -> None:
    """Issue 3: a signature over the whole anchor."""
    anchor = anchors.sign(KEY, "node-1", 7, "ab" * 32, "2026-11-20T21:40:00.000000Z")
    value = 8 if field == "seq" else "x" + getattr(anchor, field)[1:]

    assert anchors.verify(anchor, [KEY.public_key()])
    assert not anchors.verify(msgspec.structs.replace(anchor, **{field: value}), [KEY.public_key()])


def test_anchor_of_another_key_is_found(directory: Path) -> None:
    """Ours: the auditor's copy of the public key decides."""
    written(directory, (3,), anchor_every=3)

    keys = Keys(anchor_keys=(OTHER_KEY.public_key(),))
    report = verify_directory(directory, keys=keys, anchors=directory / "anchors.jsonl")

    assert [(finding.source, finding.kind) for finding in report.findings] == [
        ("anchors", "anchor"),
        ("journal", "anchor"),
    ]
