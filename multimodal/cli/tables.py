"""Tables on the terminal."""

from __future__ import annotations

import sys


def print_table(titles: list[str], rows: list[list[str]]) -> None:
    """As wide as the terminal; elsewhere wide enough for most."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)
