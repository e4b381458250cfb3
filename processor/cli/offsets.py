"""``processor offsets show``: where a group stands, in both stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from processor.cli.options import Group, Json, OptionalReference, find_group
from processor.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from processor.operations.offsets import Offsets

app = typer.Typer(
    help="A group's offsets in both stores, and what to do about a halt.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

COLUMNS = (
    "topic",
    "partition",
    "H",
    "K",
    "P",
    "V",
    "log end",
    "K's metadata",
    "mark",
    "lineage",
    "token",
    "tokens in K",
    "intent",
)


@app.command()
def show(pipeline: OptionalReference = None, group: Group = None, as_json: Json = False) -> None:
    """Show H, K, P and V of each partition with K's metadata, lineage, token and intent."""
    from processor import settings
    from processor.operations.offsets import offsets
    from processor.operations.readings import read

    configured = settings.load()
    name, loaded = find_group(configured, pipeline, group)
    readings = read(configured, name, list(loaded.routes) if loaded else ())
    found = offsets(readings)
    if as_json:
        print_json({"group": name, "trouble": readings.trouble, "partitions": found})
        return
    print_table(COLUMNS, map(_row, found))
    if readings.trouble:
        note(f"without Kafka: K and log ends are unknown ({readings.trouble})")


def _row(each: Offsets) -> tuple[object, ...]:
    row = each.row
    return (
        each.topic,
        each.partition,
        row and row.next_offset,
        "pending" if each.pending else each.committed_offset,
        row and row.published_offset,
        row and row.verified_offset,
        each.log_end,
        each.metadata,
        each.mark,
        row and row.lineage,
        row and row.token,
        row and ", ".join(row.tokens_in_k),
        _told(each),
    )


def _told(each: Offsets) -> str | None:
    intent = each.intent
    if intent is None:
        return None
    return f"K = {intent.get('offset')} instead of {intent.get('replaces_offset')}"
