"""Puts a worker together: the clients, the connection, and each room with what it needs."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

import psycopg
import tenacity

from processor.dsn import connection_error
from processor.engine import faults
from processor.engine.batches import Batches
from processor.engine.clients import Clients, KafkaClients, LogLines
from processor.engine.clock import Clock, MonotonicClock
from processor.engine.cluster import Cluster, TopicFacts
from processor.engine.consumer import Consumer
from processor.engine.database import Database, application_name
from processor.engine.dead_letter_topic import DeadLetterTopic
from processor.engine.decoding import Decoding
from processor.engine.dedup import Keys
from processor.engine.failures import ReadFailed
from processor.engine.flow_control import FlowControl
from processor.engine.handling import Handling
from processor.engine.housekeeping import Housekeeping
from processor.engine.intake import Intake
from processor.engine.isolation import Isolation
from processor.engine.ledger import Ledger
from processor.engine.observer import Observer
from processor.engine.output_topics import output_rules, partition_counts
from processor.engine.overlap import Overlap
from processor.engine.parking import Parking
from processor.engine.partitions import Partitions
from processor.engine.periods import Periods
from processor.engine.publisher import Publisher
from processor.engine.recoverer import Recoverer
from processor.engine.register import Register
from processor.engine.replays import Replays
from processor.engine.sealing import Rules, Sealer
from processor.engine.steps import Steps
from processor.engine.store import Store
from processor.engine.triage import Triage
from processor.engine.triggers import replays_topic
from processor.engine.watchdog import Watchdog
from processor.engine.worker import Rooms, Worker
from processor.errors import ConfigurationError, Exit, Unreachable
from processor.pipeline import Pipeline
from processor.revisions import require_revision
from processor.settings import Settings

YOUNG_OBJECTS = 50_000
"""A batch makes tens of thousands of objects, and lets them go by itself: to walk them at every
700, as Python does by default, took a third of the worker's time (docs/performance.md)."""
SWITCH_SECONDS = 0.0005
"""How long one thread of Python may keep another waiting. What lands in the background needs a turn
a dozen times a batch; with the usual 5 ms it took twice as long as the handlers of the next one."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a worker runs: its names are stable across restarts."""

    group_id: str
    instance: str
    number: int

    def __str__(self) -> str:
        return f"{self.group_id}:{self.instance}:{self.number}"


def run_worker(
    pipeline: Pipeline,
    settings: Settings,
    number: int,
    observer: Observer,
    stopping: Callable[[], bool],
    beat: Callable[[], None],
) -> Exit:
    """Run one slot until asked to stop.

    :raises Unreachable: when Kafka or Postgres stays away at the start.
    :raises SchemaMismatch: when the schema does not fit.
    :raises SlotTaken: when another process runs in this slot.
    """
    slot = Slot(settings.group_id or pipeline.name, settings.instance, number)
    watchdog = Watchdog()
    steps = Steps(watchdog, observer, faults.from_environment(), settings.call_timeout_seconds)
    watchdog.start()
    database = Database(
        settings.database,
        application_name(slot.group_id, str(slot)),
        pipeline.isolation.upper(),
        steps,
    )
    try:
        worker = _build(pipeline, settings, slot, observer, stopping, steps, database)
        calm_collector()
        sys.setswitchinterval(SWITCH_SECONDS)
        return worker.run(beat)
    finally:
        database.close()
        watchdog.stop()


def calm_collector() -> None:
    """The garbage collector leaves alone what the start has made, and looks less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _build(
    pipeline: Pipeline,
    settings: Settings,
    slot: Slot,
    observer: Observer,
    stopping: Callable[[], bool],
    steps: Steps,
    database: Database,
) -> Worker:
    clients = KafkaClients(settings.kafka, slot.group_id, str(slot))
    admin = clients.admin(LogLines().logger())
    cluster = Cluster(clients.admin, slot.group_id, steps)
    cluster_id = _patiently(settings.start_timeout_seconds, lambda: _reach_kafka(cluster, settings))
    _patiently(settings.start_timeout_seconds, lambda: _reach_postgres(database, settings))
    limits, rules = output_rules(admin, pipeline, observer)
    clients.batch_bytes = min(limits.values(), default=clients.batch_bytes)
    return assemble(
        pipeline, settings, slot, observer, stopping, steps, database, clients, cluster,
        cluster_id, limits, rules,
    )  # fmt: skip


def assemble(
    pipeline: Pipeline,
    settings: Settings,
    slot: Slot,
    observer: Observer,
    stopping: Callable[[], bool],
    steps: Steps,
    database: Database,
    clients: Clients,
    cluster: Cluster,
    cluster_id: str,
    max_bytes: Mapping[str, int],
    rules: Mapping[str, Rules],
    clock: Clock | None = None,
) -> Worker:
    """The worker over given clients and connection; the machine's clock unless there is another."""
    clock = clock or MonotonicClock()
    partitions = Partitions()
    replays = replays_topic(slot.group_id)
    store = Store(database, slot.group_id, steps)
    ledger = Ledger(database, cluster_id, slot.group_id, steps)
    register = Register(database, cluster_id, slot.group_id, str(slot), steps)
    publisher = Publisher(
        clients,
        [f"{slot}:0", f"{slot}:1"],
        settings.kafka.transaction_timeout_seconds,
        steps,
    )
    sealer = Sealer(pipeline.outputs, max_bytes, partition_counts(cluster, pipeline), rules)
    letters = pipeline.dead_letter_topic and DeadLetterTopic(pipeline.dead_letter_topic, sealer)
    decoding = Decoding(pipeline.routes)
    triage = Triage(pipeline.max_dead_letter_ratio, clock.now, letters or None)
    handling = Handling(
        decoding,
        sealer,
        store,
        steps,
        settings.batch_max_output_bytes,
        settings.kafka.max_poll_interval_seconds,
        settings.batch_max_seconds,
        clock.now,
        triage,
        Intake(
            decoding,
            steps,
            Keys(slot.group_id, pipeline.isolation) if pipeline.has_keys else None,
            Parking(partitions),
            Replays(slot.group_id),
        ),
        replays,
    )
    isolation = Isolation(handling, steps)
    batches = Batches(
        partitions,
        handling,
        isolation,
        store,
        publisher,
        clock,
        settings.database.idle_in_transaction_timeout_seconds,
    )
    overlap = Overlap(batches, clients.background, settings.batch_overlap_min_messages)
    incarnation = token_hex(8)
    target = pipeline.reference or f"--group {slot.group_id}"
    worker = Worker(
        Rooms(partitions, overlap, store, publisher, register, observer, clock),
        incarnation,
        stopping,
        target,
    )
    worker.consumer = consumer = Consumer(
        clients,
        inputs(pipeline, cluster, replays),
        worker,
        FlowControl(
            settings.batch_max_messages,
            settings.batch_max_bytes,
            settings.batch_max_seconds,
            clock.now,
        ),
        steps,
        clock,
    )
    worker.recoverer = Recoverer(
        cluster,
        ledger,
        publisher,
        consumer,
        partitions,
        observer,
        clock,
        partial(start_of, start_position(settings.start_from), replays),
        settings.halt_recheck_seconds,
        target,
        triage.remember,
    )
    worker.housekeeping = Housekeeping(
        cluster,
        ledger,
        store,
        publisher,
        consumer,
        partitions,
        register,
        observer,
        clock.now,
        settings.topic_check_seconds,
        incarnation,
        target,
        replays,
        _periods(pipeline, slot.group_id, database, observer, clock),
    )
    return worker


def inputs(pipeline: Pipeline, cluster: Cluster, replays: str) -> list[str]:
    """What is consumed: the topics that have handlers, and that of replays if there is one."""
    topics = list(pipeline.routes)
    if isinstance(cluster.topics({replays})[replays], TopicFacts):
        topics.append(replays)
    return topics


def start_of(configured: str | int, replays: str, topic: str) -> str | int:
    """Where a topic's first start begins: no replay that was asked for is passed over."""
    return "earliest" if topic == replays else configured


def _periods(
    pipeline: Pipeline, group_id: str, database: Database, observer: Observer, clock: Clock
) -> Periods | None:
    """None for a pipeline that looks for no duplicates: it makes no tables."""
    if not pipeline.has_keys:
        return None
    retention_seconds = pipeline.dedup_retention.total_seconds()
    return Periods(database, group_id, retention_seconds, observer, clock.now)


def start_position(start_from: str) -> str | int:
    """``earliest``, ``latest`` or milliseconds since the epoch.

    :raises ConfigurationError: for anything else.
    """
    if start_from in ("earliest", "latest"):
        return start_from
    try:
        when = datetime.fromisoformat(start_from)
    except ValueError:
        raise ConfigurationError(
            f"start_from is {start_from!r}; it must be earliest, latest or a time in ISO 8601"
        ) from None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1_000)


def _patiently(limit_seconds: float, attempt: Callable[[], Any]) -> Any:
    """Try until it answers; :raises Unreachable: after the limit."""
    for each in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unreachable),
        wait=tenacity.wait_exponential_jitter(initial=0.1, max=3.0, jitter=random.random() / 5),  # noqa: S311
        stop=tenacity.stop_after_delay(limit_seconds),
        reraise=True,
    ):
        with each:
            return attempt()
    raise AssertionError("the last attempt raises")


def _reach_kafka(cluster: Cluster, settings: Settings) -> str:
    try:
        return cluster.cluster_id()
    except ReadFailed as error:
        servers = settings.kafka.bootstrap_servers
        raise Unreachable(f"Kafka at {servers} does not answer: {error}") from None


def _reach_postgres(database: Database, settings: Settings) -> None:
    url = settings.database.url.get_secret_value()
    try:
        require_revision(database.connection())
    except psycopg.OperationalError as error:
        raise connection_error(error, url) from None
