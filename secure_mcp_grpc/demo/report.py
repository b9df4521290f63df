"""The demo's reckoning: what was sent against what came back and what the store holds."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secure_mcp_grpc.demo.traffic import TrafficLog
from secure_mcp_grpc.stack.home import Home

__all__ = ["Found", "find_in_store", "good", "show", "summary"]

_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """`requests` of ours, frames too, that stand exactly once in the store's traffic, and `handshakes` with a row."""

    requests: int
    handshakes: int

    @property
    def rows(self) -> int:
        return self.requests + self.handshakes


async def find_in_store(directory: Home, log: TrafficLog) -> Found:
    """Look for every request, by its id, until all are there or ten seconds have passed."""
    return await asyncio.to_thread(_find, directory, log)


def _find(directory: Home, log: TrafficLog) -> Found:
    import clickhouse_connect

    url = (directory.secrets / "clickhouse-reader.url").read_text(encoding="ascii")
    client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
    ids = [sent.request_id for sent in log.wiretap.sent]
    deadline = time.monotonic() + _WAIT_S
    try:
        while True:
            rows = client.query(
                "SELECT request_id, count() FROM traffic WHERE request_id IN {ids:Array(String)} GROUP BY request_id",
                parameters={"ids": ids},
            ).result_rows
            (handshakes,) = client.query("SELECT count() FROM handshakes").result_rows[0]
            found = Found(sum(1 for _, count in rows if count == 1), int(handshakes))
            if good_rows(log, found) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)
    finally:
        client.close()


def good_rows(log: TrafficLog, found: Found) -> bool:
    """Whether the store holds exactly one row for each request and one for each refused handshake."""
    return found.requests == len(log.wiretap.sent) and found.handshakes == log.count("tls_refused")


def good(log: TrafficLog, found: Found) -> bool:
    return good_rows(log, found) and all(step.as_expected for step in log.steps)


def summary(log: TrafficLog, found: Found, *, seconds: float) -> dict[str, Any]:
    """The figures of `--json`. `sent` is every gRPC request, the sessions' own, every frame and every handshake."""
    statuses = [sent.status for sent in log.wiretap.sent]
    return {
        "sent": len(statuses) + log.count("tls_refused"),
        "allowed": statuses.count("OK"),
        "denied": statuses.count("PERMISSION_DENIED"),
        "limited": statuses.count("RESOURCE_EXHAUSTED"),
        "tls_refused": log.count("tls_refused"),
        "unexpected": sum(not step.as_expected for step in log.steps),
        "rows_in_store": found.rows,
        "seconds": round(seconds, 1),
    }


def show(console: Console, log: TrafficLog, figures: dict[str, Any]) -> None:
    """The table of what was sent and what came back."""
    table = Table("Who", "What", "Expected", "Came", "", "Answer", title="Traffic through the chain")
    for step in log.steps:
        came = ", ".join(f"{count} {outcome}" if count > 1 else outcome for outcome, count in step.came.items())
        mark = "[green]as expected[/]" if step.as_expected else "[bold red]UNEXPECTED[/]"
        table.add_row(step.who, step.what, step.expected, came, mark, escape(_short(step.detail)))
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in figures.items()))


def _short(text: str, limit: int = 90) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
