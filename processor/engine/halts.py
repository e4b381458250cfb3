"""Why recovery stops a partition, and the command that resolves it."""

from __future__ import annotations

from enum import StrEnum

from processor.engine.batch import Partition


class Halt(StrEnum):
    """Why a partition stops until somebody decides."""

    CLUSTER_CHANGED = "cluster-changed"
    DATABASE_HISTORY_LOST = "database-history-lost"
    FOREIGN_OFFSETS = "foreign-offsets"
    TOPIC_RECREATED = "topic-recreated"
    UNKNOWN_PUBLICATION = "unknown-publication"
    FOREIGN_LINEAGE = "foreign-lineage"
    OFFSETS_REWOUND = "offsets-rewound"
    OUTBOX_DAMAGED = "outbox-damaged"
    LOG_TRUNCATED = "log-truncated"
    INPUT_LOST = "input-lost"


REMEDIES: dict[Halt, str] = {
    Halt.CLUSTER_CHANGED: (
        "point the worker at the right cluster, or go on with this one: processor offsets adopt {}"
    ),
    Halt.DATABASE_HISTORY_LOST: (
        "restore the database that was used last, or: processor offsets replay-effects {}"
    ),
    Halt.FOREIGN_OFFSETS: "find out who set them, then: processor offsets adopt {}",
    Halt.TOPIC_RECREATED: "processor offsets accept-recreated {}",
    Halt.UNKNOWN_PUBLICATION: "processor offsets resolve {}",
    Halt.FOREIGN_LINEAGE: (
        "point the worker at the right database, or after a dump and restore or an upgrade: "
        "processor offsets adopt {}"
    ),
    Halt.OFFSETS_REWOUND: (
        "if it was an accident: processor offsets restore {0}; to replay: processor offsets reset"
        " {0} --to OFFSET"
    ),
    Halt.OUTBOX_DAMAGED: "processor offsets resolve {}",
    Halt.LOG_TRUNCATED: "find out what the brokers lost, then: processor offsets skip {}",
    Halt.INPUT_LOST: "lengthen the topic's retention, then: processor offsets skip {}",
}
"""docs/remedies.md tells of each; {} is where: the pipeline and the partition."""


def remedy(reason: Halt, target: str, partition: Partition) -> str:
    """The command that resolves a halt, to be pasted.

    :param target: the pipeline's reference, or ``--group NAME``.
    """
    return REMEDIES[reason].format(f"{target} --partition {partition}")


def resume_remedy(target: str, partition: Partition) -> str:
    """Of the halts that end by somebody's word alone."""
    return f"when the cause is gone: processor resume {target} --partition {partition}"
