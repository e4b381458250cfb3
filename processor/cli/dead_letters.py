"""``processor dead-letters``: messages that were set aside."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Group, Json, OptionalReference, ReferenceOption, find_group
from processor.cli.output import print_json, print_table

app = typer.Typer(
    help="Messages that were set aside, and why.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("list")
def list_(
    pipeline: OptionalReference = None,
    group: Group = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest of them.")] = 100,
    as_json: Json = False,
) -> None:
    """List the latest dead letters, the newest first."""
    from processor import settings
    from processor.operations import database, dead_letters

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    with database.session(configured) as connection:
        found = dead_letters.letters(connection, name, limit)
    if as_json:
        print_json(found)
        return
    columns = ("id", "topic", "partition", "offset", "handler", "error", "reason", "attempts", "at")
    rows = [
        (
            each.id,
            each.topic,
            each.partition,
            each.offset,
            each.handler,
            each.error,
            each.reason,
            each.attempts,
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for each in found
    ]
    print_table(columns, rows)


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="As dead-letters list shows it.")],
    pipeline: ReferenceOption = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: the message, the reason and the traceback."""
    import dataclasses

    from processor import settings
    from processor.operations import database, dead_letters

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    with database.session(configured) as connection:
        found = dead_letters.letter(connection, name, number)
    if as_json:
        print_json(found)
        return
    for field in dataclasses.fields(found):
        typer.echo(f"{field.name}: {getattr(found, field.name)}")
