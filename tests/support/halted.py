"""Brings each partition of the scene into its state: a good service, then what went wrong."""

from __future__ import annotations

from devstack.waiting import wait_until
from processor.engine.locked_rows import intent_json
from processor.engine.recovery import Intent
from tests.support.halts import KEEP_OUTBOX, PRUNE_AGAIN, H, Halted
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, numbered

QUIET = {"kafka__consumer": '{"topic.metadata.refresh.interval.ms": 500}'}

ROWS = (
    "other cluster", "row lost", "tool before row", "intent", "intent and tool", "expired",
    "expired with outputs", "other server", "other lineage", "tool at rest", "rewound", "tool",
    "rolled back", "stale token", "hole", "damage", "unpublished", "healthy", "truncated",
    "input lost",
)  # fmt: skip
REMEDIES = (
    "adopt tool", "adopt intent", "adopt before row", "adopt server", "adopt lineage",
    "adopt cluster", "adopt outputs", "resolve found", "resolve unpublished", "resolve word",
    "resolve hole", "discard", "restore", "restore outputs", "skip lost", "skip truncated",
    "replay", "replay without row", "replay differs", "crash adopt", "crash resolve",
    "crash restore", "crash skip", "crash discard", "crash replay",
    "crash replay known", "reset", "crash reset", "handler halt", "resolve trimmed",
    "resolve tells", "replay tells",
)  # fmt: skip
CRASHES = ("end.before=crash", "clear-intent.before=crash", "clear-intent.after=crash")
EMPTY = ("start moved", "control records")
"""Partitions without messages at first."""


def arrange(scene: Halted) -> None:
    """All of it; a service runs at the end."""
    places = [(scene.acts, scene.of(name)) for name in (*ROWS, *REMEDIES)]
    empty = [scene.of(name) for name in EMPTY]
    topics = [*places, (scene.batches, 0)]
    scene.observed.execute(KEEP_OUTBOX)
    scene.produce_all(topics)
    scene.produce(scene.of("replay differs"), Act(4, "total", "differs"))
    scene.aborted(empty[1])
    # A member that leaves at once: offsets can be changed from outside when the group is empty.
    scene.run(topic_check_seconds="0.3", kafka__static_membership="false", **QUIET)
    scene.wait_everywhere(len(topics), H)
    wait_until(lambda: scene.h(empty[1]) == 2, WAIT_SECONDS, "the end of the control records")
    scene.stop()
    scene.observed.execute(PRUNE_AGAIN)
    in_kafka(scene)
    in_logs(scene)
    in_postgres(scene)
    # Its recovery dies at the end of its first transaction, and around the end of an intent.
    fired = scene.folder / "fired"
    fired.mkdir()
    once = {"faults": " ".join(CRASHES), "faults_folder": str(fired)}
    scene.run(program="tests.support.impatient", topic_check_seconds="0.5", **once, **QUIET)


def all_of(scene: Halted, *names: str) -> list[int]:
    return [scene.of(name) for name in names]


def in_kafka(scene: Halted) -> None:
    """The group's offsets, as Kafka's tools leave them, or committed with metadata."""
    scene.expire(
        all_of(scene, "expired", "expired with outputs", "resolve found", "resolve unpublished",
               "resolve word", "resolve tells", "crash resolve", "resolve trimmed")
    )  # fmt: skip
    scene.reset(
        {
            scene.of("tool at rest"): H,
            **dict.fromkeys(
                all_of(scene, "rewound", "restore", "restore outputs", "crash restore"), 1
            ),
            **dict.fromkeys(all_of(scene, "intent and tool", "adopt intent"), 0),
        }
    )
    for number in all_of(scene, "tool", "adopt tool", "crash adopt", "tool before row",
                         "adopt before row", "adopt outputs"):  # fmt: skip
        scene.produce(number, *numbered(4, 5))
    scene.commit(
        {
            **dict.fromkeys(all_of(scene, "tool", "adopt tool", "crash adopt"), (4, "")),
            **dict.fromkeys(all_of(scene, "tool before row", "adopt before row"), (4, "")),
            scene.of("adopt outputs"): (4, "by hand"),
        }
    )
    known = all_of(scene, "hole", "damage", "resolve hole", "discard", "crash discard")
    scene.commit({number: (0, scene.metadata(number)) for number in known})
    ahead = all_of(scene, "truncated", "skip truncated")
    scene.commit({number: (100, scene.metadata(number)) for number in ahead})
    others = all_of(scene, "other lineage", "adopt lineage")
    scene.commit({n: (H, scene.metadata(n, lineage="of another database")) for n in others})
    stale = scene.of("stale token")
    scene.commit({stale: (H, scene.metadata(stale, token="of another time"))})


def in_logs(scene: Halted) -> None:
    """What retention, or a broker, has taken away; and a topic that is another one now."""
    for number in all_of(scene, "input lost", "skip lost", "crash skip"):
        scene.produce(number, *numbered(4, 5, 6))
        scene.trim(number, 5)
    moved = scene.of("start moved")
    scene.produce(moved, *numbered(1, 2, 3))
    scene.trim(moved, 2)
    scene.trim(scene.of("control records"), 2)
    scene.recreate(scene.batches)


def in_postgres(scene: Halted) -> None:
    """What a wrong database, or a backup, looks like."""
    for number in all_of(scene, "other cluster", "adopt cluster"):
        scene.sql(number, "cluster_id = 'another cluster'")
    for number in all_of(scene, "row lost", "tool before row", "adopt before row",
                         "replay without row"):  # fmt: skip
        scene.forget_row(number)
    scene.forget_effects(scene.of("replay without row"), 0)
    for number in all_of(scene, "other server", "adopt server"):
        scene.sql(number, "system_identifier = 1")
    floors(scene)
    for number in all_of(scene, "rolled back", "replay differs", "crash replay"):
        scene.roll_back(number, 1, known=False)
    for number in all_of(scene, "replay", "replay tells", "crash replay known"):
        scene.roll_back(number, 1, known=True)
    scene.sql(0, "verified_offset = NULL", topic=scene.batches)


def floors(scene: Halted) -> None:
    """P as it was before the last K was read back, and what waited in the outbox then."""
    for number in all_of(
        scene, "expired with outputs", "resolve found", "resolve word", "hole", "damage",
        "resolve hole", "discard", "crash discard", "crash resolve", "adopt outputs",
        "resolve tells", "resolve trimmed",
    ):  # fmt: skip
        scene.sql(number, "published_offset = 0")
    scene.sql(scene.of("restore outputs"), "published_offset = 2")
    for number in all_of(scene, "hole", "resolve hole"):
        scene.outbox_of(number, "DELETE FROM processor.outbox")
    for number in all_of(scene, "damage", "discard", "crash discard"):
        scene.outbox_of(number, "UPDATE processor.outbox SET checksum = 1")
    for number in all_of(scene, "truncated", "skip truncated"):
        scene.sql(number, "next_offset = 100, published_offset = 100, leader_epoch = NULL")
    for number in all_of(scene, "unpublished", "resolve unpublished", "resolve trimmed"):
        scene.at_work(number, 4)
    for number in all_of(scene, "intent", "intent and tool", "adopt intent"):
        scene.sql(
            number, "intent = %s::jsonb", intent_json(Intent(H, H, scene.metadata(number), "test"))
        )
