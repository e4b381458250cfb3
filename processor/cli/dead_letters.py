"""``processor dead-letters``: messages that were set aside."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.options import Group, Json, OptionalReference, ReferenceOption, find_group
from processor.cli.output import note, print_json, print_table
from processor.errors import ConfigurationError, Exit

if TYPE_CHECKING:
    from datetime import datetime

    from processor.operations.dead_letters import Letter, Plan, Selection

app = typer.Typer(
    help="Messages that were set aside, and why; they can be handled again.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="As dead-letters list shows them.")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Of one kind of error.", metavar="TEXT")
]
HandlerName = Annotated[str | None, typer.Option("--handler", metavar="NAME")]
TopicName = Annotated[str | None, typer.Option("--topic", metavar="NAME")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="Failed last since then: ISO 8601, or 2h ago."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Failed last before.")]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="failed, parked, pending, replayed, discarded or all; may be repeated.",
        show_default="what waits: failed, parked, pending",
    ),
]
All = Annotated[bool, typer.Option("--all", help="All that wait, where nothing else is named.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
COLUMNS = (
    *("id", "topic", "partition", "offset", "key", "handler", "error", "reason"),
    *("attempts", "replays", "state", "fingerprint", "failed last"),
)
SHOWN = 20
"""Numbers of letters that a dry run tells."""
MOST_CHARACTERS = 40
"""Of a key or a reason in a table."""


@app.command("list")
def list_(
    pipeline: OptionalReference = None,
    named: ReferenceOption = None,
    group: Group = None,
    fingerprint: Fingerprint = None,
    handler: HandlerName = None,
    topic: TopicName = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest of them.")] = 100,
    kinds: Annotated[
        bool, typer.Option("--kinds", help="A line for each fingerprint, the most frequent first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the latest dead letters, the newest first."""
    from processor import settings
    from processor.operations import database, dead_letters

    configured = settings.load()
    name, _ = find_group(configured, pipeline or named, group)
    chosen = _selection(name, None, fingerprint, handler, topic, since, until, state)
    with database.session(configured) as connection:
        if kinds:
            grouped = dead_letters.kinds(connection, chosen, limit)
        else:
            found = dead_letters.letters(connection, chosen, limit)
    if as_json:
        print_json(grouped if kinds else found)
    elif kinds:
        columns = ("fingerprint", "letters", "topic", "handler", "error", "reason", "first", "last")
        print_table(
            columns,
            [
                (
                    *(each.fingerprint, each.letters, each.topic, each.handler, each.error),
                    *(_short(each.reason), _time(each.first_failed_at), _time(each.last_failed_at)),
                )
                for each in grouped
            ],
        )
    else:
        print_table(
            COLUMNS,
            [
                (
                    *(each.id, each.topic, each.partition, each.offset, _short(each.key)),
                    *(each.handler, each.error, _short(each.reason), each.attempts, each.replays),
                    *(_state(each), each.fingerprint, _time(each.last_failed_at)),
                )
                for each in found
            ],
        )


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="As dead-letters list shows it.")],
    pipeline: OptionalReference = None,
    named: ReferenceOption = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: the message, the reason and the traceback."""
    from processor import settings
    from processor.operations import database, dead_letters

    configured = settings.load()
    name, _ = find_group(configured, pipeline or named, group)
    with database.session(configured) as connection:
        found = dead_letters.letter(connection, name, number)
    if as_json:
        print_json(found)
        return
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if value is not None:
            typer.echo(f"{field.name}: {value}")


@app.command()
def replay(
    ids: Ids = None,
    pipeline: ReferenceOption = None,
    group: Group = None,
    fingerprint: Fingerprint = None,
    handler: HandlerName = None,
    topic: TopicName = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    edit: Annotated[
        str | None,
        typer.Option(
            "--edit",
            metavar="FILE",
            help="Handle the letter with this value, kept beside its own; - reads it from stdin.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Letters a second at most; 0 for no limit.")
    ] = 0,
    most_replays: Annotated[
        int, typer.Option(min=1, help="Leave alone what has come back so often.")
    ] = 5,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait while nothing moves; 0 not at all.")
    ] = 20,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Handle dead letters again, each exactly once.

    Their handlers run in a worker of the pipeline, as for any message; what fails again comes back
    with its attempts. The command may be repeated, also after it was interrupted.
    """
    from processor import settings
    from processor.cli import redriving
    from processor.operations import database
    from processor.operations.dead_letters import Redrive

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    numbers = _numbers(ids)
    waiting = ["failed", "pending"]
    chosen = _selection(name, numbers, fingerprint, handler, topic, since, until, waiting)
    _require_choice(chosen, everything)
    if edit is not None and (ids is None or len(ids) != 1):
        raise ConfigurationError("--edit takes one ID")
    value = None if edit is None else redriving.read_value(edit)
    with database.session(configured) as connection:
        redrive = Redrive(connection, name)
        if ids:
            # Named by number, whatever state they are in: what is refused is told.
            chosen = dataclasses.replace(chosen, states=None)
        plan = redrive.plan_replay(chosen, most_replays)
        if dry_run:
            _tell_plan(name, plan, "would be replayed", as_json)
            raise typer.Exit(Exit.VERDICT if plan.refused and ids else Exit.OK)
        done = redriving.replay(configured, redrive, plan, rate, wait, value)
    redriving.tell(name, plan, done, as_json)
    if done.failed or done.waiting or (plan.refused and ids):
        raise typer.Exit(Exit.VERDICT)


@app.command()
def discard(
    ids: Ids = None,
    pipeline: ReferenceOption = None,
    group: Group = None,
    fingerprint: Fingerprint = None,
    handler: HandlerName = None,
    topic: TopicName = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    reason: Annotated[str | None, typer.Option(help="Kept in the audit.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up; what is parked behind them goes on. They stay to be looked at."""
    from processor import settings
    from processor.cli import redriving
    from processor.operations import database
    from processor.operations.dead_letters import Redrive

    configured = settings.load()
    name, _ = find_group(configured, pipeline, group)
    numbers = _numbers(ids)
    chosen = _selection(name, numbers, fingerprint, handler, topic, since, until, None)
    _require_choice(chosen, everything)
    if ids:
        chosen = dataclasses.replace(chosen, states=None)
    with database.session(configured) as connection:
        redrive = Redrive(connection, name)
        plan = redrive.plan_discard(chosen)
        if not dry_run and plan.ready:
            redriving.discard(configured, redrive, plan, reason)
    _tell_plan(name, plan, "would be discarded" if dry_run else "discarded", as_json)
    if plan.refused and ids:
        raise typer.Exit(Exit.VERDICT)


def _selection(
    group: str,
    ids: list[int] | None,
    fingerprint: str | None,
    handler: str | None,
    topic: str | None,
    since: str | None,
    until: str | None,
    states: list[str] | None,
) -> Selection:
    from processor.operations.dead_letters import Selection
    from processor.operations.dead_letters.selection import moment, states_of

    return Selection(
        group,
        ids or None,
        fingerprint,
        handler,
        topic,
        moment("--since", since),
        moment("--until", until),
        states_of(states),
    )


def _numbers(ids: list[str] | None) -> list[int] | None:
    """:raises ConfigurationError: for what is no number, a pipeline for example."""
    for each in ids or ():
        if not (each.isascii() and each.isdecimal()):
            cure = f"; the pipeline is given as --pipeline {each}" if ":" in each else ""
            raise ConfigurationError(f"{each!r} is no ID of a dead letter{cure}")
    return None if ids is None else [int(each) for each in ids]


def _require_choice(chosen: Selection, everything: bool) -> None:
    if chosen.is_everything and not everything:
        raise ConfigurationError(
            "name letters by ID, --fingerprint, --handler, --topic, --since or --until; or --all"
        )


def _tell_plan(group: str, plan: Plan, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"group": group, "letters": len(plan.ready), **dataclasses.asdict(plan)})
        return
    shown = ", ".join(map(str, plan.ready[:SHOWN]))
    more = ", …" if len(plan.ready) > SHOWN else ""
    typer.echo(f"{group}: {len(plan.ready):,} {what}{': ' * bool(shown)}{shown}{more}")
    tell_refused(plan)


def tell_refused(plan: Plan) -> None:
    """What is left alone, and why."""
    for each in plan.refused:
        more = f" and {each.letters - 1:,} more" if each.letters > 1 else ""
        note(f"left alone: {each.first}{more}: {each.why}")


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS - 1]}…"


def _state(each: Letter) -> str:
    return each.state if each.state != "parked" else f"parked behind {each.parked_behind}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
