"""Look, halt, look again, change: what all remedies have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from processor.dsn import connection_error
from processor.engine import faults
from processor.engine.batch import Partition
from processor.engine.database import Database, application_name
from processor.engine.failures import Doubt, OwnerChanged, ReadFailed
from processor.engine.ledger import Ledger
from processor.engine.observer import NullObserver
from processor.engine.steps import Steps
from processor.engine.watchdog import Watchdog
from processor.errors import Refused, Unreachable
from processor.operations.actor import this_actor
from processor.operations.broker import Broker
from processor.operations.database import url_of
from processor.operations.progress import SILENT, Progress
from processor.operations.remedies.change import write
from processor.operations.remedies.halting import Halting
from processor.operations.remedies.look import Look
from processor.operations.remedies.published import OutputTopics, published
from processor.operations.remedies.resolve import Published
from processor.operations.remedies.values import Facts, Planner, unchanged
from processor.revisions import require_revision
from processor.settings import Settings

Prepare = Callable[[Facts], Planner]
"""Reads what takes long, before the row is locked for the change."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a remedy has done, or would do, to one partition."""

    topic: str
    partition: int
    action: str
    done: bool
    refused: str | None
    says: tuple[str, ...] = ()
    detail: Any = None


class Remedies:
    """The remedies of one group, over one broker and one database."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        actor: str | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.progress = progress
        self.settings = settings
        self.group = group
        self.actor = actor or this_actor()
        self.steps = Steps(Watchdog(), NullObserver(), faults.from_environment())
        self.database = Database(
            settings.database,
            application_name(group, f"{group}:remedy"),
            "READ COMMITTED",
            self.steps,
        )
        self.broker = Broker(settings)
        self.broker.wait()
        self._reach()
        self.cluster_id = self.broker.cluster().cluster_id
        ledger = Ledger(self.database, self.cluster_id, group, self.steps)
        self.look = Look(self.broker, self.database, ledger, group, self.steps)
        self.halting = Halting(self.look, self.database, self.cluster_id, group, self.actor)

    def close(self) -> None:
        self.database.close()

    def halted(self) -> list[tuple[Partition, str]]:
        """The group's halted partitions, and why each is."""
        with told():
            return self.look.halted()

    def published(self, topics: Sequence[str], facts: Facts) -> Published | None:
        """What these output topics show of the partition; None where it has no row."""
        row = facts.row
        if row is None:
            return None
        outputs = OutputTopics(self.settings, self.group, self.broker, topics, self.progress)
        return published(
            outputs, row.topic_id, facts.reading.partition, row.lineage, row.published_offset
        )

    def run(
        self, action: str, places: Sequence[Partition], prepare: Prepare, *, do: bool
    ) -> list[Outcome]:
        """Plan, and with ``do`` carry out, for each partition by itself.

        :raises Unreachable: when a server goes away; what was done before stands.
        """
        return [self._one(action, partition, prepare, do=do) for partition in places]

    def _one(self, action: str, partition: Partition, prepare: Prepare, *, do: bool) -> Outcome:
        place = (partition.topic, partition.number, action)
        try:
            with told():
                return self._try(partition, prepare, do=do)
        except Refused as error:
            return Outcome(*place, done=False, refused=str(error))

    def _try(self, partition: Partition, prepare: Prepare, *, do: bool) -> Outcome:
        with self.look.facts(partition) as (facts, _):
            pass
        planner = prepare(facts)
        plan = planner(facts)
        if not do:
            return self._outcome(partition, plan, done=False)
        held = self.halting.ensure(partition)
        try:
            if held:
                with self.look.facts(partition) as (facts, _):
                    pass
                planner = prepare(facts)
            with self.look.facts(partition) as (now, rows):
                unchanged(facts, now)
                plan = planner(now)
                write(rows, now, plan, self.cluster_id, self.group, self.actor)
        except Refused:
            if held:
                self.halting.release(partition)
            raise
        return self._outcome(partition, plan, done=True)

    def _outcome(self, partition: Partition, plan: Any, *, done: bool) -> Outcome:
        return Outcome(
            partition.topic, partition.number, plan.action, done, None, plan.says, plan.detail
        )

    def _reach(self) -> None:
        try:
            require_revision(self.database.connection())
        except psycopg.OperationalError as error:
            raise connection_error(error, url_of(self.settings)) from None


@contextmanager
def told() -> Iterator[None]:
    """The engine's doubts, as one line; each remedy may be run again after any of them."""
    try:
        yield
    except OwnerChanged as error:
        raise Refused(f"another one is at work on it: {error}; look, and try again") from error
    except Doubt as error:
        raise Unreachable(f"Postgres: {error}; whether it was done shows a second run") from error
    except ReadFailed as error:
        raise Unreachable(f"{error}; try again") from error
