"""``processor outbox``: outputs that are committed in Postgres."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Group, Json, OptionalReference, ReferenceOption, find_group
from processor.cli.output import print_json, print_table

app = typer.Typer(
    help="Outputs kept until Kafka has them.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("list")
def list_(pipeline: OptionalReference = None, group: Group = None, as_json: Json = False) -> None:
    """List the outbox: a row for each batch and partition, some already published."""
    from processor import settings
    from processor.operations import database, outbox
    from processor.operations.units import size

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    with database.session(configured) as connection:
        found = outbox.entries(connection, name)
    if as_json:
        print_json(found)
        return
    columns = ("topic", "partition", "first", "next", "outputs", "size", "age")
    rows = [
        (
            e.topic,
            e.partition,
            e.first_offset,
            e.next_offset,
            e.outputs,
            size(e.bytes),
            f"{e.age_seconds:.1f} s",
        )
        for e in found
    ]
    print_table(columns, rows)


@app.command()
def show(
    topic: Annotated[str, typer.Argument(help="The input topic.")],
    partition: Annotated[int, typer.Argument(min=0)],
    first_offset: Annotated[int, typer.Argument(min=0, help="As outbox list shows it.")],
    pipeline: ReferenceOption = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Decode one row's outputs."""
    from processor import settings
    from processor.operations import database, outbox

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    with database.session(configured) as connection:
        found = outbox.outputs(connection, name, topic, partition, first_offset)
    if as_json:
        print_json(found)
        return
    columns = ("source offset", "topic", "partition", "key", "value")
    print_table(columns, [(o.source_offset, o.topic, o.partition, o.key, o.value) for o in found])
