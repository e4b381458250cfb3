"""``processor topics``: create what a pipeline needs, list what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.options import Json, OptionalReference, Reference
from processor.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from processor.operations.topics import Found

app = typer.Typer(help="A pipeline's topics.", rich_markup_mode=None, no_args_is_help=True)

COLUMNS = (
    "topic",
    "partitions",
    "replication",
    "in sync",
    "retention",
    "min.insync.replicas",
    "max.message.bytes",
    "messages",
)


@app.command()
def create(
    pipeline: Reference,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Of each new topic.", show_default="12")
    ] = None,
    replication: Annotated[
        int | None, typer.Option(min=1, show_default="the broker's default")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(help="As 7d, 12h or forever.", show_default="the broker's default"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create the missing input and output topics; existing ones are compared, never changed."""
    from processor import settings
    from processor.operations import topics
    from processor.operations.broker import Broker
    from processor.operations.loading import load_pipeline
    from processor.operations.units import milliseconds

    configured = settings.load()
    names = topics.topics_of(load_pipeline(pipeline))
    retention_ms = None if retention is None else milliseconds(retention)
    broker = Broker(configured)
    broker.wait(configured.start_timeout_seconds, note)
    outcomes = topics.create(broker, names, topics.Wish(partitions, replication, retention_ms))
    if as_json:
        print_json(outcomes)
        return
    rows = [(outcome.action, *_row(outcome.found)) for outcome in outcomes]
    print_table(("", *COLUMNS), rows)
    for outcome in outcomes:
        if outcome.differences:
            note(f"{outcome.topic} is left as it is: {'; '.join(outcome.differences)}")


@app.command("list")
def list_(pipeline: OptionalReference = None, as_json: Json = False) -> None:
    """List a pipeline's topics, or all."""
    from processor import settings
    from processor.operations import topics
    from processor.operations.broker import Broker
    from processor.operations.loading import load_pipeline

    configured = settings.load()
    broker = Broker(configured)
    broker.wait(notify=note)
    names = broker.names() if pipeline is None else topics.topics_of(load_pipeline(pipeline))
    found = topics.describe(broker, names)
    if as_json:
        print_json(found)
        return
    print_table(COLUMNS, map(_row, found))
    for name in sorted(set(names) - {topic.topic for topic in found}):
        note(f"{name} does not exist; run: processor topics create {pipeline}")


def _row(found: Found) -> tuple[object, ...]:
    from processor.operations.units import duration, size

    return (
        found.topic,
        found.partitions,
        found.replication,
        found.in_sync,
        duration(found.retention_ms),
        found.min_insync_replicas,
        size(found.max_message_bytes),
        found.messages,
    )
