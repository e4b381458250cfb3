"""``processor verify``: do Postgres and Kafka hold the same?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.options import Json, Reference
from processor.cli.output import note, print_json, print_table
from processor.cli.progress import progress_bar

if TYPE_CHECKING:
    from processor.operations.verify import Report
    from processor.operations.verify.report import PartitionReport

COLUMNS = (
    "topic",
    "partition",
    "from",
    "to",
    "records",
    "handled",
    "dead",
    "skipped",
    "duplicates",
    "outputs",
    "found",
    "waiting",
    "later",
    "mismatches",
    "not verifiable",
)


def verify(
    pipeline: Reference,
    topic: Annotated[str | None, typer.Option(help="Only this input topic.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    start: Annotated[
        int | None, typer.Option("--from", metavar="OFFSET", min=0, help="The first input offset.")
    ] = None,
    end: Annotated[
        int | None,
        typer.Option("--to", metavar="OFFSET", min=1, help="The first input offset left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Reconcile Postgres and Kafka: every input record, every output, every count.

    Reads the input and output topics whole, beside a running processor. Exit 1 when the stores do
    not agree. What can no longer be checked is told as such and is no mismatch. With --from or
    --to the counters, which are of the whole partition, are not compared.
    """
    from processor import settings
    from processor.operations import verify as verification
    from processor.operations.loading import load_pipeline

    configured = settings.load()
    loaded = load_pipeline(pipeline)
    scope = verification.Scope(topic, partition, start, end)
    with progress_bar() as progress:
        report = verification.verify(configured, loaded, scope, progress, note)
    if as_json:
        print_json(report)
    else:
        _tell(report)
    raise typer.Exit(report.exit_code)


def _tell(report: Report) -> None:
    """The table, what was found below it, and the verdict as the last line."""
    if report.partitions:
        print_table(COLUMNS, map(_row, report.partitions))
    for each in report.partitions:
        _explain(each)
    others = report.others
    told = {
        "records without provenance": others.without_provenance,
        "outputs of other groups": others.of_other_groups,
        "outputs of an earlier history": others.of_earlier_histories,
        "outputs of partitions that were not selected": others.not_selected,
    }
    besides = ", ".join(f"{count:,} {what}" for what, count in told.items() if count)
    if besides:
        typer.echo(f"also in the output topics: {besides}")
    read = report.read
    typer.echo(
        f"read {read.input_messages:,} input and {read.output_messages:,} output messages"
        f" in {read.seconds:.1f} s ({read.messages_per_second:,.0f}/s)"
    )
    typer.echo(f"{report.group}: {report.verdict}")


def _row(each: PartitionReport) -> tuple[object, ...]:
    return (
        each.topic,
        each.partition,
        each.start,
        each.end,
        each.records,
        each.handled,
        each.dead_lettered,
        each.skipped,
        each.duplicates,
        each.outputs,
        each.outputs_found,
        each.outputs_waiting,
        each.outputs_later,
        sum(finding.count for finding in each.findings),
        sum(item.count for item in each.unverifiable),
    )


def _explain(each: PartitionReport) -> None:
    place = f"{each.topic}/{each.partition}"
    for finding in each.findings:
        typer.echo(f"{place} {finding.kind}: {finding.count:,}")
        for example in finding.examples:
            typer.echo(f"  {example}")
    for item in each.unverifiable:
        typer.echo(f"{place} not verifiable: {item.count:,} {item.what}")
    for recorded in each.recorded:
        detail = ", ".join(f"{name} {value}" for name, value in recorded.detail.items())
        typer.echo(
            f"{place} recorded: {recorded.action} by {recorded.actor}"
            f" at {recorded.at:%Y-%m-%d %H:%M:%S}{f' ({detail})' if detail else ''}"
        )
