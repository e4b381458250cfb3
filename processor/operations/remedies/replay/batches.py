"""The pipeline's handlers outside a worker: batches of a log's messages, in Postgres only."""

from __future__ import annotations

import time
from dataclasses import replace

from processor.engine.batch import Handled, Partition, Slice
from processor.engine.clients import KafkaClients, LogLines
from processor.engine.cluster import Cluster
from processor.engine.decoding import Decoding
from processor.engine.dedup import Keys
from processor.engine.failures import Doubt, Restart
from processor.engine.handling import Handling
from processor.engine.intake import Intake
from processor.engine.isolation import Isolation
from processor.engine.observer import NullObserver
from processor.engine.output_topics import output_rules, partition_counts
from processor.engine.parking import Parking
from processor.engine.partitions import Partitions
from processor.engine.replays import Replays
from processor.engine.sealing import Sealer
from processor.engine.steps import Steps
from processor.engine.store import Store
from processor.engine.triage import DATABASE_REFUSED
from processor.engine.triggers import replays_topic
from processor.errors import Refused
from processor.pipeline import Pipeline
from processor.settings import Settings

RESTARTS = 10
RETRIES = 20


class Batches:
    """Runs handlers over messages; the store's transaction is left open, for the caller to end."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, group: str, store: Store, steps: Steps
    ) -> None:
        clients = KafkaClients(settings.kafka, group, f"{group}:remedy")
        admin = clients.admin(LogLines().logger())
        limits, rules = output_rules(admin, pipeline, NullObserver())
        # Nothing is published, so no timestamp is too old for its topic.
        rules = {
            name: replace(rule, before_milliseconds=None, after_milliseconds=None)
            for name, rule in rules.items()
        }
        counts = partition_counts(Cluster(clients.admin, group, steps), pipeline)
        self._store = store
        self._decoding = Decoding(pipeline.routes)
        self._handling = Handling(
            self._decoding,
            Sealer(pipeline.outputs, limits, counts, rules),
            store,
            steps,
            settings.batch_max_output_bytes,
            settings.kafka.max_poll_interval_seconds,
            settings.batch_max_seconds,
            intake=Intake(
                self._decoding,
                steps,
                Keys(group, pipeline.isolation) if pipeline.has_keys else None,
                Parking(Partitions()),
                Replays(group),
            ),
            replays_topic=replays_topic(group),
        )
        self._isolation = Isolation(self._handling, steps)

    def is_batch(self, partition: Partition) -> bool:
        return self._decoding.is_batch(partition)

    def run(self, each: Slice) -> Handled:
        """The slice, or its beginning: ``rest`` is what is left of it.

        :raises Refused: when a handler halts, or the database refuses.
        """
        for attempt in range(RESTARTS):
            try:
                return self._going(each)
            except Restart:
                self._store.rollback()
                time.sleep(0.01 * 2**attempt)
        raise Refused(f"{each.partition}: deadlocks do not end; try again")

    def _going(self, each: Slice) -> Handled:
        for _ in range(RETRIES):
            try:
                handled = self._handling.run([each])[0]
            except (Doubt, Restart):
                raise
            except Exception:
                self._store.rollback()
                handled = self._isolation.run([each])[0]
            if handled.next > handled.first:
                return handled
            wait = self._stopped(handled)
            self._store.rollback()
            time.sleep(wait)
        raise Refused(f"{each.partition}: {each.first} asks for another try again and again")

    def _stopped(self, handled: Handled) -> float:
        """How long to wait; :raises Refused: when waiting does not help."""
        stop = handled.stop
        if stop is None:
            return 0.0
        refused = stop.reason == DATABASE_REFUSED or stop.retry_after_seconds is None
        if refused or handled.next > handled.first:
            raise Refused(
                f"{handled.partition}: stopped at {handled.next}: {stop.reason}: {stop.detail};"
                " mend it and run this again: it goes on there"
            )
        return stop.retry_after_seconds or 0.0
