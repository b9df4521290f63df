"""`secure-mcp-grpc audit`: prove that no decision was changed, removed, reordered or added."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from collections import Counter

    from authz_service.audit.anchors import Pin
    from authz_service.audit.findings import Report
    from authz_service.audit.reconcile import Reconciler
    from authz_service.audit.verify import Keys, Verifier
    from secure_mcp_grpc.cli.audit_store import AuditStore

__all__ = ["app"]

app = typer.Typer(help="Prove that the recorded decisions are complete and unchanged.", no_args_is_help=True)

JournalOption = Annotated[
    Path | None, typer.Option("--journal", help="Directory of the journal.", show_default="DIR/journal")
]
KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", help="Public key of anchors (PEM); may be repeated.", show_default="JOURNAL/anchor.key.pub"),
]


_SHIPPING_TIME: Final = timedelta(seconds=60)


@app.command()
def verify(
    home: HomeOption = None,
    journal: JournalOption = None,
    no_journal: Annotated[bool, typer.Option("--no-journal", help="Look at the store alone.")] = False,
    store: Annotated[bool, typer.Option("--store", help="Also look at the store, and compare the two.")] = False,
    store_url: Annotated[
        str | None, typer.Option(help="The store.", envvar="CLICKHOUSE_URL", show_default="DIR/secrets")
    ] = None,
    anchors: Annotated[Path | None, typer.Option(help="File of anchors.", show_default="JOURNAL/anchors.jsonl")] = None,
    key: KeyOption = None,
    hmac_key: Annotated[
        list[Path] | None, typer.Option(help="Key that the records were sealed with; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find every changed, removed, reordered, added or missing record. Exit code 1 if there is any.

    What follows the last anchor can be cut off without a trace in the journal alone: compare with --store, or with
    --anchors that were kept elsewhere. Keep the public key elsewhere too.
    """
    from authz_service.audit.findings import Report
    from secure_mcp_grpc.stack.home import Home

    directory = Home.locate(home)
    path = journal or directory.root / "journal"
    if no_journal and not store:
        raise UserError("--no-journal needs --store: otherwise there is nothing to look at")
    report = Report()
    keys = _keys(path, key, hmac_key or [], report)
    url = _store_url(directory.secrets / "clickhouse-reader.url", store_url) if store else None
    _Audit(report, keys, None if no_journal else path, url, _anchors_file(path, anchors)).run()
    _show(report, as_json=as_json)
    if not report.clean:
        raise typer.Exit(1)


@app.command("key")
def show_key(home: HomeOption = None, journal: JournalOption = None, key: KeyOption = None) -> None:
    """Show the public key that anchors are signed with, and its id. Keep a copy where the sidecar cannot write."""
    from authz_service.audit import anchors, keys
    from secure_mcp_grpc.stack.home import Home

    path = journal or Home.locate(home).root / "journal"
    for file in key or [path / "anchor.key.pub"]:
        public = keys.read_public_key(file)
        sys.stdout.write(f"key id {anchors.key_id(public)}\n{keys.public_pem(public).decode()}")


@app.command("anchors")
def show_anchors(
    home: HomeOption = None,
    journal: JournalOption = None,
    anchors: Annotated[Path | None, typer.Option(help="File of anchors.", show_default="JOURNAL/anchors.jsonl")] = None,
    key: KeyOption = None,
) -> None:
    """List anchors: when, which chain and record, and whether the signature holds. Exit code 1 if one does not."""
    from authz_service.audit import anchors as anchoring
    from authz_service.audit.findings import Report
    from secure_mcp_grpc.stack.home import Home

    path = journal or Home.locate(home).root / "journal"
    keys = _keys(path, key, [], Report())
    file = _anchors_file(path, anchors)
    if file is None:
        raise UserError(f"there are no anchors in {path}")
    wrong = False
    for line in _lines(file):
        anchor = anchoring.parse(line)
        if anchor is None:
            wrong = True
            typer.echo("no anchor can be read here")
            continue
        holds = anchoring.verify(anchor, keys.anchor_keys) if keys.anchor_keys else None
        wrong |= holds is False
        said = {True: "good", False: "BAD", None: "not checked: no key"}[holds]
        text = f"{anchor.ts}  chain {anchor.chain} seq {anchor.seq}  {anchor.hash[:16]}  key {anchor.key}  {said}"
        typer.echo(_plain(text))
    if wrong:
        raise typer.Exit(1)


class _Audit:
    """One run of `verify`: what may have been written last is read first, so that a service may write on meanwhile."""

    def __init__(
        self, report: "Report", keys: "Keys", journal: Path | None, store_url: str | None, anchors: Path | None
    ) -> None:
        self._report = report
        self._keys = keys
        self._journal = journal
        self._store_url = store_url
        self._anchors = anchors

    def run(self) -> None:
        from authz_service.audit.anchors import AnchorBook
        from authz_service.audit.reading import read_anchors
        from secure_mcp_grpc.cli.audit_store import AuditStore

        self._book = AnchorBook()
        if self._anchors is not None:
            read_anchors(self._anchors, self._keys, self._book, self._report)
        if self._store_url is None:
            self._run(None)
            return
        store = AuditStore(self._store_url)
        try:
            self._run(store)
        finally:
            store.close()

    def _run(self, store: "AuditStore | None") -> None:
        from authz_service.audit.reading import JournalReader
        from authz_service.audit.reconcile import Reconciler
        from authz_service.audit.verify import Verifier
        from authz_service.journal_files import read_cursor

        cursor = read_cursor(self._journal) if self._journal else None
        chains = store.chains() if store else {}
        reconciler = None
        journal = Verifier("journal", self._report, self._keys, self._book)
        if self._journal is not None and cursor is not None:
            if store is not None:
                bounds = {name: last for name, (last, _) in chains.items()}
                reconciler = Reconciler(store.hashes, bounds, self._report)
            with JournalReader(self._journal, cursor) as reader, _progress("journal", reader.size_bytes) as advance:
                for block in reader.blocks(self._report):
                    seen = journal.feed(block.lines, block.place)
                    if reconciler:
                        reconciler.take(seen, shipped=block.shipped)
                    advance(block.size_bytes)
            journal.finish()
            if reconciler:
                reconciler.compare()
        if store is not None:
            stored = self._read_store(store, sum(count for _, count in chains.values()), reconciler)
            if reconciler:
                reconciler.finish(journal.chains, stored.chains)

    def _read_store(self, store: "AuditStore", total: int, reconciler: "Reconciler | None") -> "Verifier":
        from authz_service.audit.findings import Finding
        from authz_service.audit.verify import Verifier

        verifier = Verifier("store", self._report, self._keys, self._book, pending=_pending(reconciler))
        with _progress("store", total) as advance:
            for rows in store.rows():
                verifier.feed(rows.records, lambda _index: "", rows.names)
                for (chain, seq), wrong in zip(rows.names, rows.wrong, strict=True):
                    if wrong:
                        text = f"columns that differ from the record: {wrong.decode()}"
                        self._report.add(Finding("store", "changed", chain, seq, seq, text))
                advance(len(rows.names))
        verifier.finish()
        return verifier


def _pending(reconciler: "Reconciler | None") -> "Callable[[str, int, Pin], bool]":
    """Whether an anchored record may not be in the store yet; without a journal to ask, a young anchor's may not."""
    if reconciler is not None:
        return lambda chain, seq, _pin: reconciler.is_unshipped(chain, seq)
    now = datetime.now(UTC)
    return lambda _chain, _seq, pin: abs(now - datetime.fromisoformat(pin.ts)) < _SHIPPING_TIME


def _keys(journal: Path, public: list[Path] | None, hmac_keys: list[Path], report: "Report") -> "Keys":
    from authz_service.audit import keys
    from authz_service.audit.verify import Keys

    beside = journal / "anchor.key.pub"
    if public is None and beside.exists():
        public = [beside]
        report.notice(f"anchors are checked with {beside}, which whoever can write the journal can replace; see --key")
    elif public is None:
        report.notice("signatures of anchors are not checked: no public key was given")
    seals = tuple(keys.read_seal(path) for path in hmac_keys)
    return Keys(seals, tuple(keys.read_public_key(path) for path in public or []))


def _anchors_file(journal: Path, named: Path | None) -> Path | None:
    file = journal / "anchors.jsonl"
    return named or (file if file.exists() else None)


def _store_url(kept: Path, named: str | None) -> str:
    from secure_mcp_grpc.cli.store_reader import read_url

    return named or read_url(kept)


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"anchors file {file} cannot be read: {error.strerror}") from None


@contextmanager
def _progress(what: str, total: int) -> "Iterator[Callable[[int], None]]":
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _show(report: "Report", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
        return
    for finding in report.findings:
        typer.echo(_plain(str(finding)))
    if report.total > len(report.findings):
        typer.echo(f"... and {report.total - len(report.findings):,} more")
    for notice in report.notices:
        typer.echo(f"note: {_plain(notice)}")
    typer.secho(_summary(report), fg=typer.colors.GREEN if report.clean else typer.colors.RED)


def _summary(report: "Report") -> str:
    counts = report.counts
    looked = [_looked_at(source, counts) for source in ("journal", "store") if f"{source}_chains" in counts]
    if len(looked) == 2:
        looked.append(f"compared: {counts['reconciled']:,} records in both, {counts['unshipped']:,} not yet shipped")
    return "\n".join([*looked, "No finding." if report.clean else f"{_many(report.total, 'finding')}."])


def _looked_at(source: str, counts: "Counter[str]") -> str:
    records, chains = _many(counts[f"{source}_records"], "record"), _many(counts[f"{source}_chains"], "chain")
    within, met = _many(counts[f"{source}_anchor_records"], "anchor"), counts[f"{source}_anchors_met"]
    return f"{source}: {records} in {chains}, {within} within; {met:,} of {counts['anchors']:,} in the file met"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Forged records may hold what a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
