"""``processor resume``: a halted partition tries again."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Group, Json, OptionalReference, find_group, find_place
from processor.cli.output import print_json, print_table


def resume(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Annotated[
        list[str] | None,
        typer.Option("--partition", metavar="TOPIC/N", help="One of them; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let partitions go on that a handler or a wrong deployment halted.

    The message at which it halted is handled again. Halts of other kinds name their own remedy.
    """
    from processor import settings
    from processor.operations import control

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    places = [find_place(text) for text in partition] if partition else None
    found = control.resume(configured, name, places, dry_run)
    if as_json:
        print_json(found)
    elif not found:
        typer.echo(f"{name}: no partition is halted")
    else:
        rows = [(each.topic, each.partition, each.reason, each.note) for each in found]
        print_table(("topic", "partition", "halted by", "now"), rows)
