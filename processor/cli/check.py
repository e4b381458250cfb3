"""``processor check``: would it run, and would the promise hold?"""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Json, Reference
from processor.cli.output import note, print_json, print_table
from processor.errors import Exit


def check(
    pipeline: Reference,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Check the settings, Kafka and Postgres.

    Topics, rights, time-outs, durability, the schema and the pipeline's tables. Exit 1 when
    something is wrong; warnings alone exit 0.
    """
    from processor import settings
    from processor.operations.check import Level, worst
    from processor.operations.check import check as look
    from processor.operations.loading import load_pipeline

    findings = look(settings.load(), load_pipeline(pipeline), note)
    level = worst(findings)
    if as_json:
        print_json({"verdict": level, "findings": findings})
    else:
        rows = [(finding.level, finding.area, finding.what, finding.remedy) for finding in findings]
        print_table(("", "area", "finding", "remedy"), rows)
        counts = {each: sum(finding.level is each for finding in findings) for each in Level}
        typer.echo(f"{counts[Level.ERROR]} error(s), {counts[Level.WARNING]} warning(s)")
    if level is Level.ERROR or (strict and level is Level.WARNING):
        raise typer.Exit(Exit.VERDICT)
