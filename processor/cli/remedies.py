"""What to do about a halt: ``processor offsets adopt|resolve|…`` and ``processor outbox discard``.

Each shows its plan and changes nothing; with ``--yes`` it does it. docs/remedies.md tells of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processor.cli.options import Group, Json, OptionalReference, Reference, find_group, find_place
from processor.cli.output import note, print_json
from processor.errors import ConfigurationError, Exit

if TYPE_CHECKING:
    from processor.engine.batch import Partition
    from processor.operations.remedies import Outcome, Planner, Remedies
    from processor.operations.remedies.values import Facts
    from processor.pipeline import Pipeline

Places = Annotated[
    list[str] | None,
    typer.Option("--partition", metavar="TOPIC/N", help="One of them; may be repeated."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it, instead of showing what would be done.")]
Actor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does it, for the audit row; user@host unless given."),
]
Discard = Annotated[
    bool,
    typer.Option("--discard-outputs", help="Give up outputs that Kafka may lack."),
]

Build = Callable[["Remedies", "Pipeline | None", "Facts"], "Planner"]


def add_to(offsets: typer.Typer, outbox: typer.Typer) -> None:
    """Each command next to the listing of what it changes."""
    offsets.command()(adopt)
    offsets.command()(resolve)
    offsets.command()(restore)
    offsets.command()(reset)
    offsets.command()(skip)
    offsets.command("accept-recreated")(accept_recreated)
    offsets.command("replay-effects")(replay_effects)
    outbox.command()(discard)


def adopt(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Places = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="OFFSET|earliest|latest", help="Where to begin in another cluster."),
    ] = None,
    discard_outputs: Discard = False,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Take over offsets that somebody else has set, another database server or another cluster.

    For foreign-offsets, foreign-lineage and cluster-changed. H is never lowered: what lies between
    H and a K beyond it is not handled, a recorded gap.
    """
    from processor.operations.remedies.adopt import ACTION, plan_adopt

    reasons = ("foreign-offsets", "foreign-lineage", "cluster-changed")
    _position("--at", at)
    planner = partial(plan_adopt, at=at, discard=discard_outputs)
    _run(ACTION, pipeline, group, partition, reasons, _plain(planner), yes, actor, as_json)


def resolve(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Places = None,
    published_to: Annotated[
        int | None,
        typer.Option(
            metavar="OFFSET", min=0, help="Your word: outputs below are in Kafka, others not."
        ),
    ] = None,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Find out which outputs of the outbox Kafka has, by their provenance; the rest is published.

    For unknown-publication and outbox-damaged, and where adopt or restore refuse.
    """
    from processor.operations.remedies.resolve import ACTION, plan_resolve

    def build(remedies: Remedies, loaded: Pipeline | None, facts: Facts) -> Planner:
        if published_to is not None:
            return partial(plan_resolve, published_to=published_to)
        if loaded is None:
            raise ConfigurationError("give the pipeline, whose output topics are read, not --group")
        return partial(plan_resolve, published=remedies.published(list(loaded.outputs), facts))

    reasons = ("unknown-publication", "outbox-damaged")
    _run(ACTION, pipeline, group, partition, reasons, build, yes, actor, as_json)


def restore(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Places = None,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Bring K back to H after it was rewound by accident (offsets-rewound)."""
    from processor.operations.remedies.restore import ACTION, plan_restore

    reasons = ("offsets-rewound",)
    _run(ACTION, pipeline, group, partition, reasons, _plain(plan_restore), yes, actor, as_json)


def reset(
    to: Annotated[
        str,
        typer.Option(metavar="OFFSET|earliest|latest", help="The next offset that is handled."),
    ],
    partition: Annotated[
        list[str],
        typer.Option("--partition", metavar="TOPIC/N", help="May be repeated."),
    ],
    pipeline: OptionalReference = None,
    group: Group = None,
    discard_outputs: Discard = False,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Set H and K anywhere: a deliberate replay, with a new lineage, or a leap, a recorded gap.

    A replay adds its effects to those of the first time, and publishes its outputs again.
    """
    from processor.operations.remedies.reset import ACTION, plan_reset

    _position("--to", to)
    planner = partial(plan_reset, to=to, discard=discard_outputs)
    _run(ACTION, pipeline, group, partition, (), _plain(planner), yes, actor, as_json)


def skip(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Places = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSET|earliest|latest",
            help="The next offset that is handled; needed where the log does not tell it.",
        ),
    ] = None,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Leave out what the log has lost (input-lost, log-truncated), or what nobody can handle."""
    from processor.operations.remedies.skip import ACTION, plan_skip

    _position("--to", to)
    if to is not None and not partition:
        raise ConfigurationError("--to is of one log: name it with --partition TOPIC/N")
    reasons = ("input-lost", "log-truncated")
    planner = _plain(partial(plan_skip, to=to))
    _run(ACTION, pipeline, group, partition, reasons, planner, yes, actor, as_json)


def accept_recreated(
    pipeline: OptionalReference = None,
    group: Group = None,
    partition: Places = None,
    at: Annotated[
        str,
        typer.Option(metavar="OFFSET|earliest|latest", help="Where to begin in the new topic."),
    ] = "earliest",
    discard_outputs: Discard = False,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Read on in a topic that was deleted and made again (topic-recreated)."""
    from processor.operations.remedies.recreated import ACTION, plan_recreated

    _position("--at", at)
    reasons = ("topic-recreated",)
    planner = _plain(partial(plan_recreated, at=at, discard=discard_outputs))
    _run(ACTION, pipeline, group, partition, reasons, planner, yes, actor, as_json)


def replay_effects(
    pipeline: Reference,
    partition: Places = None,
    start: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="OFFSET",
            min=0,
            help="Where to begin: needed where the database knows nothing of the partition.",
        ),
    ] = None,
    accept_differences: Annotated[
        bool,
        typer.Option(
            "--accept-differences", help="Keep effects whose outputs are not those published."
        ),
    ] = False,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Run the handlers again over what the database has lost (database-history-lost).

    Their effects are kept. Their outputs are compared with those that Kafka has, and not published.
    """
    from processor import settings
    from processor.operations.loading import load_pipeline
    from processor.operations.remedies import Remedies
    from processor.operations.remedies.replay.plan import ACTION
    from processor.operations.remedies.replay.run import Options, Replaying

    configured = settings.load()
    loaded = load_pipeline(pipeline)
    name = configured.group_id or loaded.name
    with closing(Remedies(configured, name, actor)) as remedies:
        replaying = Replaying(remedies, loaded, Options(start, accept_differences))
        places = _places(remedies, partition, ("database-history-lost",))
        found = replaying.run(places, do=yes)
    tell(name, ACTION, found, yes, as_json)


def discard(
    first: Annotated[int, typer.Argument(min=0, help="As outbox list shows it.")],
    partition: Annotated[
        str, typer.Option("--partition", metavar="TOPIC/N", help="The input partition.")
    ],
    to: Annotated[
        int | None,
        typer.Option(min=1, help="The first offset after the range; the row's end unless given."),
    ] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", metavar="PIPELINE")] = None,
    group: Group = None,
    yes: Yes = False,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Give up outputs by name: those of a damaged or missing row, or of one that Kafka refuses."""
    from processor.operations.remedies.discard import ACTION, plan_discard

    planner = _plain(partial(plan_discard, first=first, end=to))
    _run(ACTION, pipeline, group, [partition], (), planner, yes, actor, as_json)


def _plain(planner: Planner) -> Build:
    """A remedy for which nothing has to be read beforehand."""
    return lambda *_: planner


def _run(
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
    from processor.operations.remedies import Remedies

    configured = settings.load()
    name, loaded = find_group(configured, reference, group)
    with closing(Remedies(configured, name, actor)) as remedies:
        places = _places(remedies, named, reasons)
        found = remedies.run(action, places, partial(build, remedies, loaded), do=yes)
    tell(name, action, found, yes, as_json)


def _places(
    remedies: Remedies, named: Sequence[str] | None, reasons: Sequence[str]
) -> list[Partition]:
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


def _position(option: str, given: Any) -> None:
    """:raises ConfigurationError: for what is no position."""
    if given is None or given in ("earliest", "latest"):
        return
    if not (given.isascii() and given.isdecimal()):
        raise ConfigurationError(f"{option} {given!r}: give an offset, earliest or latest")
