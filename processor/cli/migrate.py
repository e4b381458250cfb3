"""``processor migrate``: bring the schema ``processor`` to this version's revision."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Json
from processor.cli.output import note, print_json


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 4 unless a worker could start.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create or upgrade the framework's tables.

    They are in the schema "processor"; nothing else is touched. Two at once are fine.
    """
    from processor import settings
    from processor.operations import migrations

    configured = settings.load()
    if check:
        revision = migrations.check(configured, note)
        print_json({"revision": revision}) if as_json else typer.echo(f"revision {revision}: fits")
        return
    done = migrations.migrate(configured, note)
    if as_json:
        print_json(done)
        return
    for applied in done.applied:
        typer.echo(f"applied {applied.revision}: {applied.title}")
    if not done.applied:
        typer.echo("nothing to do")
    typer.echo(f"{done.database}: schema processor is at revision {done.after}")
