"""The command line: one file per command group, each thin over ``processor.operations``.

Heavy packages are imported inside the commands, so that ``processor --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from processor.cli import (
    check,
    control,
    dead_letters,
    migrate,
    offsets,
    outbox,
    produce,
    remedies,
    run,
    status,
    topics,
    verify,
)
from processor.errors import Exit, ProcessorError

app = typer.Typer(
    name="processor",
    help="Exactly-once from Kafka into Postgres and Kafka.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.command()(run.run)
app.command()(check.check)
app.command()(migrate.migrate)
app.command()(status.status)
app.command()(verify.verify)
app.command()(control.resume)
app.command()(produce.produce)
remedies.add_to(offsets.app, outbox.app)
app.add_typer(topics.app, name="topics")
app.add_typer(offsets.app, name="offsets")
app.add_typer(outbox.app, name="outbox")
app.add_typer(dead_letters.app, name="dead-letters")


def main() -> NoReturn:
    """Run the command line; every way out is an exit code of :class:`processor.errors.Exit`."""
    try:
        app(prog_name="processor")
    except ProcessorError as error:
        sys.exit(_told(f"error: {error}", error.exit_code))
    except KeyboardInterrupt:
        sys.exit(128 + 2)
    except Exception as error:
        sys.exit(_told(_bug(error), Exit.BUG))
    sys.exit(Exit.OK)


def _version(wanted: bool) -> None:
    if wanted:
        from processor import __version__

        typer.echo(f"processor {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log in detail and show tracebacks.")
    ] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["PROCESSOR_LOG_LEVEL"] = "debug"


def _told(line: str, code: Exit) -> int:
    if os.environ.get("PROCESSOR_LOG_LEVEL") == "debug":
        traceback.print_exc()
    print(" ".join(line.split()), file=sys.stderr)
    return int(code)


def _bug(error: Exception) -> str:
    return (
        f"error: {type(error).__name__}: {error} — this is a bug;"
        " PROCESSOR_LOG_LEVEL=debug or --debug shows the traceback"
    )
