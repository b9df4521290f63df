"""How the policy commands answer: tables on a terminal, tab-separated lines elsewhere, JSON where asked."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Printer"]


class Printer:
    """Writes to standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console()
        self.tables = not as_json and self.console.is_terminal

    def json(self, value: Any) -> None:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str, style: str = "") -> None:
        """One line as it is, wherever it goes: coloured on a terminal, never wrapped."""
        if self.tables:
            self.console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
        """Columns that are empty in every row are left out on a terminal, never elsewhere."""
        if not self.tables:
            sys.stdout.writelines("\t".join(cells) + "\n" for cells in (columns, *rows))
            return
        kept = list(rows)
        used = [index for index, _ in enumerate(columns) if any(row[index] for row in kept)]
        table = Table(title=title or None, title_justify="left")
        for index in used:
            table.add_column(columns[index], overflow="fold")
        for row in kept:
            table.add_row(*(_coloured(row[index]) for index in used))
        self.console.print(table)


def _coloured(cell: str) -> str:
    colour = {"allow": "green", "yes": "green", "gains": "green", "deny → allow": "green"}.get(cell)
    colour = colour or {"deny": "red", "no": "red", "loses": "red", "allow → deny": "red"}.get(cell)
    return f"[{colour}]{escape(cell)}[/]" if colour else escape(cell)
