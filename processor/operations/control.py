"""Requests to the owner of a partition: written to Postgres, taken by the worker, audited."""

from __future__ import annotations

from dataclasses import dataclass

from processor.engine.batch import Partition
from processor.engine.locked_rows import write_audit
from processor.errors import ConfigurationError
from processor.operations.actor import this_actor
from processor.operations.database import Connection, session
from processor.operations.readings import Report, read
from processor.settings import Settings

RESUMABLE = (
    "handler-halt",
    "message-failed",
    "operator-halt",
    "pipeline-error",
    "too-many-dead-letters",
    "unknown-type",
)
"""Halts that end by somebody's word; the others are resolved by what they name."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A halted partition, and whether it was asked to go on."""

    topic: str
    partition: int
    reason: str | None
    requested: bool
    note: str


def resume(
    settings: Settings, group: str, places: list[tuple[str, int]] | None, dry_run: bool
) -> list[Resumed]:
    """Ask the owners of halted partitions to try the message at H again.

    :param places: topics and partitions; all halted ones of the group unless given.
    :raises ConfigurationError: for a partition that is not halted.
    """
    readings = read(settings, group, ())
    halted = {
        place: report for place, report in readings.reports.items() if report.state == "halted"
    }
    for place in places or ():
        if place not in halted:
            raise ConfigurationError(f"{place[0]}/{place[1]} of group {group!r} is not halted")
    chosen = {place: halted[place] for place in places} if places else halted
    found = []
    with session(settings) as connection:
        for (topic, partition), report in sorted(chosen.items()):
            able = report.reason in RESUMABLE
            if able and not dry_run:
                _resume(connection, group, report)
            note = "asked to go on" if able else f"resolve it first: {report.remedy}"
            if able and dry_run:
                note = "would be asked to go on"
            requested = able and not dry_run
            found.append(Resumed(topic, partition, report.reason, requested, note))
    return found


def ask(connection: Connection, group: str, partition: Partition, command: str, actor: str) -> int:
    """A request to the partition's owner, ``halt`` or ``resume``; its id."""
    found = connection.execute(
        "INSERT INTO processor.control (group_id, topic, partition, command, requested_by)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING id",
        (group, *partition, command, actor),
    ).fetchone()
    assert found is not None
    return int(found[0])


def _resume(connection: Connection, group: str, report: Report) -> None:
    partition, actor = Partition(report.topic, report.partition), this_actor()
    detail = {"reason": report.reason}
    with connection.transaction():
        ask(connection, group, partition, "resume", actor)
        write_audit(connection, report.cluster_id, group, partition, "resume", detail, actor)
