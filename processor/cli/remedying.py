"""What the commands of all remedies share: of which partitions, the run, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import typer

from processor.cli.options import find_group, find_place
from processor.cli.output import note, print_json
from processor.cli.progress import progress_bar
from processor.errors import ConfigurationError, Exit

if TYPE_CHECKING:
    from processor.engine.batch import Partition
    from processor.operations.remedies import Outcome, Planner, Remedies
    from processor.operations.remedies.values import Facts
    from processor.pipeline import Pipeline
    from processor.settings import Settings

Build = Callable[["Remedies", "Pipeline | None", "Facts"], "Planner"]


def plain(planner: Planner) -> Build:
    """A remedy for which nothing has to be read beforehand."""
    return lambda *_: planner


def run(
    action: str,
    reference: str | None,
    group: str | None,
    named: Sequence[str] | None,
    reasons: Sequence[str],
    build: Build,
    yes: bool,
    actor: str | None,
    as_json: bool,
) -> None:
    """For the named partitions, or for all that halted for one of these reasons."""
    from processor import settings

    configured = settings.load()
    name, loaded = find_group(configured, reference, group)
    with opened(configured, name, actor) as remedies:
        places = chosen(remedies, named, reasons)
        found = remedies.run(action, places, partial(build, remedies, loaded), do=yes)
    tell(name, action, found, yes, as_json)


@contextmanager
def opened(settings: Settings, group: str, actor: str | None) -> Iterator[Remedies]:
    """The group's remedies; what takes long is shown."""
    from processor.operations.remedies import Remedies

    with (
        progress_bar() as progress,
        closing(Remedies(settings, group, actor, progress)) as remedies,
    ):
        yield remedies


def chosen(
    remedies: Remedies, named: Sequence[str] | None, reasons: Sequence[str]
) -> list[Partition]:
    """The named partitions, or all that halted for one of these reasons."""
    from processor.engine.batch import Partition

    if named:
        return [Partition(*find_place(text)) for text in named]
    return [place for place, reason in remedies.halted() if reason in reasons]


def tell(name: str, action: str, found: Sequence[Outcome], yes: bool, as_json: bool) -> None:
    """:raises typer.Exit: with 1 when anything was refused."""
    if as_json:
        print_json(found)
    elif not found:
        typer.echo(f"{name}: no partition is halted for what {action} is for")
    for each in found if not as_json else ():
        place = f"{each.topic}/{each.partition}"
        if each.refused:
            note(f"refused: {each.refused}")
        for line in each.says:
            typer.echo(f"{place}: {line}")
        if each.done:
            typer.echo(f"{place}: done; its owner carries it out")
    if any(each.refused is None for each in found) and not yes:
        note("nothing was changed: --yes does it")
    if any(each.refused for each in found):
        raise typer.Exit(Exit.VERDICT)


def require_position(option: str, given: str | None) -> None:
    """:raises ConfigurationError: for what is no position."""
    if given is None or given in ("earliest", "latest"):
        return
    if not (given.isascii() and given.isdecimal()):
        raise ConfigurationError(f"{option} {given!r}: give an offset, earliest or latest")
