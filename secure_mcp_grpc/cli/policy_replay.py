"""`secure-mcp-grpc policy replay`: recorded traffic, decided again under a candidate policy."""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from secure_mcp_grpc.cli import policy_input
from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.cli.policy_output import Printer
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from authz_service.workbench.book import Book
    from authz_service.workbench.replay import Outcome, Replay

__all__ = ["replay"]

_AT_ONCE: Final = 1000
"""Decisions whose arguments are looked up together: they travel in the query's address."""
_STORE_HELP: Final = "http(s)://user:password@host:port/database; in the variable no process list shows it."


def replay(
    new: Annotated[Path, typer.Argument(help="The candidate: a policy file.")],
    since: Annotated[str, typer.Option(help="Span before now (30m, 24h, 7d) or RFC 3339 time.")] = "24h",
    until: Annotated[str, typer.Option(help="The same.", show_default="now")] = "0s",
    store: Annotated[
        str | None,
        typer.Option(help=_STORE_HELP, envvar="CLICKHOUSE_URL", show_default="the sidecar's own", show_envvar=True),
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option(help="The policy of then: tells which conditions did not hold.", show_default="DIR/policy.csv"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for undecided calls, too.")] = False,
    model: policy_input.ModelOption = None,
    config: policy_input.ConfigOption = None,
    home: HomeOption = None,
    as_json: policy_input.JsonOption = False,
) -> None:
    """Decide the recorded traffic again under the policy NEW and list each call that flips; exit code 1 if any does.

    Calls whose verdict depends on arguments that were not recorded are counted as undecided; what was refused before
    policy was asked (identity, limits, revocation, …) is left as it was.
    """
    from secure_mcp_grpc.cli.store_reader import StoreReader, read_url
    from secure_mcp_grpc.stack.home import Home

    book = policy_input.Files.find(new, model, home, config).load()
    before = _before(old, policy_input.Files.find(old, model, home, config))
    now = datetime.now(UTC)
    start, end = policy_input.moment(since, now, "--since"), policy_input.moment(until, now, "--until")
    url = store or read_url(Home.locate(home).secrets / "clickhouse-reader.url")
    from authz_service.workbench.replay import Replay

    reader = StoreReader(url)
    try:
        replayed = Replay(book, reader.arguments, before)
        output = _Output(as_json=as_json)
        blocks = (lines for block in reader.records(start, end) for lines in _pieces(block))
        output.run(replayed, blocks, reader.count(start, end))
    finally:
        reader.close()
    raise typer.Exit(1 if replayed.flips or (strict and replayed.undecided) else 0)


def _before(named: Path | None, files: policy_input.Files) -> "Book | None":
    """The policy named, or the one in force, which needs not be there or fit."""
    try:
        return files.load()
    except UserError:
        if named is not None:
            raise
        return None


def _pieces(block: Any) -> Iterator[Any]:
    for position in range(0, len(block), _AT_ONCE):
        yield block[position : position + _AT_ONCE]


class _Output:
    """Flips as they are found, then the counts; nothing is kept that grows with the number of flips."""

    def __init__(self, *, as_json: bool) -> None:
        self._printer = Printer(as_json=as_json)
        self._listed = 0

    def run(self, replayed: "Replay", blocks: Iterable[Any], total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = self._printer.console if self._printer.tables else Console(stderr=True)
        columns = (TextColumn("decisions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        if self._printer.as_json:
            sys.stdout.write('{"calls": [')
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=total)
            for lines in blocks:
                for outcome in replayed.outcomes(lines):
                    self._list(outcome)
                progress.update(task, advance=len(lines))
        self._sum_up(replayed)

    def _list(self, outcome: "Outcome") -> None:
        from authz_service.workbench.replay import Flip

        call = outcome.call
        now = ("allow" if outcome.allowed else "deny") if isinstance(outcome, Flip) else "undecided"
        if self._printer.as_json:
            entry = {
                "ts": call.ts,
                "chain": call.chain,
                "seq": call.seq,
                "request_id": call.request_id,
                "identity": call.identity,
                "user": call.user,
                "method": call.method,
                "name": call.tool,
                "was": call.decision,
                "was_rule": call.rule,
                "now": now,
                "rule": outcome.rule if isinstance(outcome, Flip) else "",
                "why": "" if isinstance(outcome, Flip) else outcome.why,
            }
            sys.stdout.write(f"{',' if self._listed else ''}\n  {json.dumps(entry, ensure_ascii=False)}")
            self._listed += 1
        elif isinstance(outcome, Flip):
            who = call.identity if call.user in ("", call.identity) else f"{call.identity} for {call.user}"
            what = f"{call.method} {call.tool}".rstrip()
            self._printer.line(f"{call.ts} {who}: {what}: {call.decision} → {outcome.verdict}")

    def _sum_up(self, replayed: "Replay") -> None:
        rows = [(*group, str(count)) for group, count in replayed.groups.most_common()]
        counts = {
            "decisions": replayed.read,
            "same": replayed.same,
            "flips": replayed.flips,
            "undecided": replayed.undecided,
            "untouched": replayed.untouched,
            "unreadable": replayed.unreadable,
        }
        columns = ("identity", "user", "method", "name", "change", "calls")
        if self._printer.as_json:
            groups = [{**dict(zip(columns, row, strict=True)), "calls": int(row[-1])} for row in rows]
            summary = json.dumps({**counts, "groups": groups}, ensure_ascii=False)
            sys.stdout.write(f'{chr(10) if self._listed else ""}], "summary": {summary}}}\n')
            return
        if rows:
            self._printer.table(columns, rows)
        typer.echo(_sentence(counts), err=True)


def _sentence(counts: dict[str, int]) -> str:
    parts = [
        f"{counts['decisions']:,} decisions: {counts['same']:,} the same, {counts['flips']:,} flip",
        f"{counts['undecided']:,} depend on what was not recorded",
        f"{counts['untouched']:,} were not policy's",
    ]
    if counts["unreadable"]:
        parts.append(f"{counts['unreadable']:,} records cannot be read")
    return ", ".join(parts)
