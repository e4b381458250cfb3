"""``processor run``: the service."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.options import Reference


def run(
    pipeline: Reference,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes partitions.")] = 1,
) -> None:
    """Run a pipeline until SIGTERM or Ctrl-C.

    What is in hand is finished first, then the exit code is 0.
    """
    from processor import settings
    from processor.operations import service

    raise typer.Exit(service.run(pipeline, settings.load(), workers))
