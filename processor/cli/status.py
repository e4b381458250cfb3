"""``processor status``: how each partition is, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from processor.cli.options import Group, Json, OptionalReference, find_group
from processor.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from processor.operations.status import PartitionStatus

COLUMNS = (
    "topic",
    "partition",
    "state",
    "slot",
    "H",
    "K",
    "P",
    "lag",
    "outbox",
    "handled",
    "outputs",
    "dead",
    "skipped",
    "duplicates",
)


def status(pipeline: OptionalReference = None, group: Group = None, as_json: Json = False) -> None:
    """Show each partition's state, offsets and lag.

    Exit 1 if one is halted, 5 if all are.

    H: all below has taken effect in Postgres. K: all below has its outputs visible. P: the outbox
    is pruned below.
    """
    from processor import settings
    from processor.operations.readings import read
    from processor.operations.status import status as judged

    configured = settings.load()
    name, loaded = find_group(configured, pipeline, group)
    found = judged(read(configured, name, list(loaded.routes) if loaded else ()))
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found.group}: {found.verdict}")
        if found.partitions:
            print_table(COLUMNS, map(_row, found.partitions))
        for each in found.partitions:
            _explain(each)
        if str(found.letters):
            how = pipeline or f"--group {name}"
            typer.echo(f"dead letters: {found.letters}: processor dead-letters list {how}")
        if found.note:
            note(found.note)
    raise typer.Exit(found.exit_code)


def _row(each: PartitionStatus) -> tuple[object, ...]:
    return (
        each.topic,
        each.partition,
        each.state,
        each.slot,
        each.next_offset,
        each.committed_offset,
        each.published_offset,
        each.lag,
        each.outbox_rows,
        each.handled,
        each.outputs,
        each.dead_lettered,
        each.skipped,
        each.duplicates,
    )


def _explain(each: PartitionStatus) -> None:
    """Why a partition does not run, below the table, where there is room for it."""
    told = ": ".join(text for text in (each.reason, each.detail) if text)
    if told:
        typer.echo(f"{each.topic}/{each.partition} {each.state}: {told}")
    if each.broken:
        typer.echo(f"{each.topic}/{each.partition}: {each.broken}")
    if each.remedy:
        typer.echo(f"  remedy: {each.remedy}")
