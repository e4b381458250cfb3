"""What to do about a halt: ``processor offsets adopt|resolve|…`` and ``processor outbox discard``.

Each shows its plan and changes nothing; with ``--yes`` it does it. docs/remedies.md tells of each.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.options import Group, Json, OptionalReference, Reference
from processor.cli.remedying import chosen, opened, plain, require_position, run, tell
from processor.errors import ConfigurationError

if TYPE_CHECKING:
    from processor.operations.remedies import Planner, Remedies
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
    require_position("--at", at)
    planner = partial(plan_adopt, at=at, discard=discard_outputs)
    run(ACTION, pipeline, group, partition, reasons, plain(planner), yes, actor, as_json)


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
    run(ACTION, pipeline, group, partition, reasons, build, yes, actor, as_json)


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
    run(ACTION, pipeline, group, partition, reasons, plain(plan_restore), yes, actor, as_json)


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

    require_position("--to", to)
    planner = partial(plan_reset, to=to, discard=discard_outputs)
    run(ACTION, pipeline, group, partition, (), plain(planner), yes, actor, as_json)


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

    require_position("--to", to)
    if to is not None and not partition:
        raise ConfigurationError("--to is of one log: name it with --partition TOPIC/N")
    reasons = ("input-lost", "log-truncated")
    planner = plain(partial(plan_skip, to=to))
    run(ACTION, pipeline, group, partition, reasons, planner, yes, actor, as_json)


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

    require_position("--at", at)
    reasons = ("topic-recreated",)
    planner = plain(partial(plan_recreated, at=at, discard=discard_outputs))
    run(ACTION, pipeline, group, partition, reasons, planner, yes, actor, as_json)


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
    from processor.operations.remedies.replay.plan import ACTION
    from processor.operations.remedies.replay.run import Options, Replaying

    configured = settings.load()
    loaded = load_pipeline(pipeline)
    name = configured.group_id or loaded.name
    with opened(configured, name, actor) as remedies:
        replaying = Replaying(remedies, loaded, Options(start, accept_differences))
        places = chosen(remedies, partition, ("database-history-lost",))
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

    planner = plain(partial(plan_discard, first=first, end=to))
    run(ACTION, pipeline, group, [partition], (), planner, yes, actor, as_json)
