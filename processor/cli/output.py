"""Tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 400
"""Where no terminal says how wide it is, rows are not broken."""


def print_json(value: Any) -> None:
    """Dataclasses, enums and times included; bytes as base64."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Numbers stand right, all else left; None is a dash."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    cells = [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = any(isinstance(row[index], int) for row in cells)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_cell(value) for value in row))
    if sys.stdout.isatty():
        Console(highlight=False, markup=False, emoji=False).print(table)
    else:
        typer.echo(_plain(Console(width=PIPE_WIDTH, markup=False, emoji=False), table))


def _plain(console: Console, table: Table) -> str:
    """The table's lines without colours and the spaces after them."""
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def note(line: str) -> None:
    """To a person watching: on stderr, so that piped output stays clean."""
    typer.echo(line, err=True)


def _cell(value: object) -> str:
    return "–" if value is None else str(value)
