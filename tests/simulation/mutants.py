"""The engine with one guard taken out, one at a time: each must be caught, or the harness is blind.

A mutant is a patch of the real engine, in place while a simulation runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import msgspec
from confluent_kafka import OFFSET_END, TopicPartition

from processor.engine import letter_rows, locked_rows, store
from processor.engine.batch import Committed, Partition, Record
from processor.engine.batches import Batch, Batches, Effects
from processor.engine.catchup import Catchup
from processor.engine.clients import CALL_TIMEOUT_SECONDS, LogLines
from processor.engine.cluster import Cluster, TopicFacts
from processor.engine.consumer import Consumer
from processor.engine.failures import DatabaseDoubt, PublishDoubt
from processor.engine.housekeeping import Housekeeping, row_of
from processor.engine.locked_rows import Known, LockedRows
from processor.engine.overlap import Behind
from processor.engine.partitions import Owned, Partitions
from processor.engine.placing import Placing, placed_at
from processor.engine.producer import TransactionalProducer
from processor.engine.publisher import Publisher
from processor.engine.recoverer import Recoverer
from processor.engine.recovery import HaltAt, make_metadata
from processor.engine.session import PostgresSession
from processor.engine.store import Store
from processor.engine.worker import Worker
from processor.testing.kafka.membership import GroupMetadata
from processor.testing.kafka.offsets import Offset
from processor.writes import CopyWrite
from tests.simulation import pipeline as simulated

Patch = AbstractContextManager[object]
Plant = Callable[[], Patch]
GROUP = "simulation"
OUTSIDE_PRODUCER = -1


@dataclass(frozen=True, slots=True)
class Mutant:
    """``plant`` puts the bug in place for as long as its context lasts."""

    name: str
    plant: Plant
    seed: int
    """One that catches it: the first, when it was last looked for."""
    needs: str | None = None
    """A kind of fault without which it cannot show: other seeds are passed over."""
    redrives: bool = False
    """It shows where letters are handled again (``tests/simulation/redrive.py``)."""


MUTANTS: dict[str, Mutant] = {}


def mutant(
    *, seed: int, needs: str | None = None, redrives: bool = False
) -> Callable[[Callable[[], Patch]], Callable[[], Patch]]:
    def enter(plant: Callable[[], Patch]) -> Callable[[], Patch]:
        name = plant.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(name, plant, seed, needs, redrives)
        return plant

    return enter


@contextmanager
def together(*patches: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


def nothing(*_: object) -> None:
    """What is left of a guard that was taken out."""


def without(module: Any, statement: str, *conditions: str) -> Any:
    """A statement of the engine, with conditions taken out of its text."""
    text = getattr(module, statement)
    for condition in conditions:
        assert condition in text, f"{statement} has no {condition!r}"
        text = text.replace(condition, "TRUE")
    return mock.patch.object(module, statement, text)


# Postgres


@mutant(seed=105, needs="stop")
def no_compare_and_set() -> Patch:
    return without(store, "_COMPARE_AND_SET", "p.next_offset = b.first", "p.token = b.token")


@mutant(seed=477, needs="restore")
def token_not_compared() -> Patch:
    return without(store, "_COMPARE_AND_SET", "p.token = b.token")


@mutant(seed=26, needs="stop")
def row_count_not_read() -> Patch:
    return mock.patch.object(store._Written, "check", nothing)


@mutant(seed=0)
def prune_by_h() -> Patch:
    renew = LockedRows.renew

    def renew_and_prune(self: LockedRows, row: Any, *arguments: Any, **named: Any) -> str:
        token = renew(self, row, *arguments, **named)
        self._connection.execute(
            "DELETE FROM processor.outbox WHERE progress_id = %s AND next_offset <= %s",
            (row.id, row.next_offset),
        )
        return token

    return mock.patch.object(LockedRows, "renew", renew_and_prune)


@mutant(seed=0)
def p_raised_from_belief() -> Patch:
    raise_published = Housekeeping._raise_published

    def believed(self: Housekeeping, running: Sequence[Owned]) -> None:
        offsets = {
            each.partition: Committed(
                each.sent_offset, make_metadata(row_of(each).lineage, row_of(each).token)
            )
            for each in running
        }
        with mock.patch.object(self, "_cluster", mock.Mock(committed=lambda _: offsets)):
            raise_published(self, running)

    return mock.patch.object(Housekeeping, "_raise_published", believed)


@mutant(seed=1137, needs="stop")
def outbox_read_before_the_row_lock() -> Patch:
    """And halts at the first reading, because the second one would hide it."""
    halt = Recoverer._halt

    def at_once(self: Recoverer, each: Owned, decision: HaltAt) -> None:
        each.suspected = decision
        halt(self, each, decision)

    def read(
        self: LockedRows, committed: Mapping[Partition, Committed], topic_ids: Mapping[str, str]
    ) -> None:
        wanted = (
            [partition.topic for partition in committed],
            [partition.number for partition in committed],
            self._group_id,
        )
        early: dict[Partition, Known] = {}
        for lock in ("", "FOR UPDATE OF p"):
            statement = locked_rows._LOCK.replace("FOR UPDATE OF p", lock)
            self.known = {partition: Known() for partition in committed}
            for row in self._connection.execute(statement, wanted).fetchall():
                partition = Partition(row[1], row[2])
                self._place(self.known[partition], row, topic_ids.get(partition.topic))
            if not lock:
                self._read_outbox(committed)
                early = self.known
        for partition, known in self.known.items():
            known.outbox, known.entries = early[partition].outbox, early[partition].entries

    return together(
        mock.patch.object(LockedRows, "read", read),
        mock.patch.object(Recoverer, "_halt", at_once),
    )


@mutant(seed=343, needs="failover")
def plain_reading_after_an_unknown_commit() -> Patch:
    """Whether a COMMIT without an answer stands is looked up, and believed."""

    commit_written = Store.commit_written
    written: dict[int, Effects] = {}

    def write(self: Batches, effects: Effects) -> None:
        written[id(self._store)] = effects
        store_effects(self, effects)

    def commit_or_look(self: Store) -> None:
        try:
            commit_written(self)
        except DatabaseDoubt:
            if not _stands(self, written[id(self)]):
                raise
            self._finished()

    store_effects = Batches._write
    return together(
        mock.patch.object(Batches, "_write", write),
        mock.patch.object(Store, "commit_written", commit_or_look),
    )


def _stands(of: Store, effects: Effects) -> bool:
    try:
        connection = of._database.connection()
        for advance in effects.advances:
            found = connection.execute(
                "SELECT next_offset FROM processor.progress WHERE id = %s", (advance.progress_id,)
            ).fetchone()
            if found is None or found[0] != advance.next:
                return False
    except Exception:
        return False
    return True


@mutant(seed=0)
def dead_letters_without_headers() -> Patch:
    columns = letter_rows._columns
    return mock.patch.object(
        letter_rows, "_columns", lambda letter: columns(replace(letter, headers=()))
    )


@mutant(seed=0)
def copied_rows_dropped() -> Patch:
    """Only of a batch that is too large for one round trip."""
    copy = PostgresSession.copy

    def sometimes(self: PostgresSession, write: CopyWrite) -> None:
        if self.is_pipelined:
            copy(self, write)

    return mock.patch.object(PostgresSession, "copy", sometimes)


@mutant(seed=1)
def asked_before_the_batch_before_landed() -> Patch:
    return mock.patch.object(Behind, "_ours", lambda self: self._session)


# The two together


@mutant(seed=0)
def kafka_ends_before_postgres() -> Patch:
    def take_effect(self: Batches, batch: Batch, effects: Effects) -> None:
        if effects.moved:
            self._write(effects)
            if effects.sent:
                self._publisher.commit()
            self._store.commit_written()
        else:
            self._store.rollback()
        batch.effects, batch.landed = effects, True

    return mock.patch.object(Batches, "_take_effect", take_effect)


@mutant(seed=0)
def early_outputs_kept_across_a_run() -> Patch:
    send = Publisher.send

    def once_more(self: Publisher, entries: Any, offsets: Any, snapshot: object) -> None:
        if not self._open:
            return send(self, entries, offsets, snapshot)
        line = self._in_turn()
        line.offsets_sent(CALL_TIMEOUT_SECONDS)
        line.produce(entries)
        line.send_offsets(
            self._clients.background,
            [TopicPartition(*partition, at, metadata) for partition, at, metadata in offsets],
            snapshot,
        )
        return None

    return together(
        mock.patch.object(Publisher, "send", once_more),
        mock.patch.object(Batches, "_undo", lambda self: self._store.rollback()),
    )


@mutant(seed=0)
def handlers_run_again_for_a_publish() -> Patch:
    def anew(record: Record) -> Record:
        told = msgspec.json.decode(record.value or b"", type=simulated.Told)
        told.run = simulated.runs.next()
        return record._replace(value=msgspec.json.encode(told))

    return republishing(lambda records: [anew(each) for each in records])


@mutant(seed=4, needs="kill")
def outbox_order_lost() -> Patch:
    return republishing(lambda records: list(reversed(records)))


@mutant(seed=0)
def outputs_of_a_message_swapped() -> Patch:
    """Each message's outputs stay together, as a checker that only looks at offsets has it."""

    def swapped(records: Sequence[Record]) -> list[Record]:
        order = [each.source_offset for each in records]
        return [r for at in dict.fromkeys(order) for r in reversed(records) if r[-1] == at]

    return republishing(swapped)


@mutant(seed=1)
def republished_without_its_key() -> Patch:
    return republishing(lambda records: [each._replace(key=None) for each in records])


@mutant(seed=0)
def republished_at_another_time() -> Patch:
    return republishing(lambda records: [each._replace(timestamp=1) for each in records])


def republishing(changed: Callable[[Sequence[Record]], list[Record]]) -> Patch:
    """What is published again is not what was sealed."""
    republish = Catchup.republish

    def other(self: Catchup, unpublished: Sequence[Any], snapshot: object) -> None:
        again = [
            replace(u, entries=[replace(e, records=changed(e.records)) for e in u.entries])
            for u in unpublished
        ]
        republish(self, again, snapshot)

    return mock.patch.object(Catchup, "republish", other)


# Kafka's transaction


@mutant(seed=1)
def offsets_outside_the_transaction() -> Patch:
    def send_offsets(
        self: TransactionalProducer, background: Any, offsets: Any, snapshot: Any
    ) -> None:
        self._sending = background(lambda: _commit_outside(self._client, offsets, snapshot))

    return mock.patch.object(TransactionalProducer, "send_offsets", send_offsets)


def _commit_outside(client: Any, offsets: Sequence[TopicPartition], snapshot: Any) -> None:
    """OffsetCommit, as a plain consumer would send it."""

    def serve() -> None:
        group = client._broker.group(snapshot.group_id)
        group.check_commit(*snapshot.member)
        at = {(o.topic, o.partition): Offset(o.offset, o.metadata) for o in offsets}
        group.offsets.add(OUTSIDE_PRODUCER, at)
        group.offsets.mark(OUTSIDE_PRODUCER, True)

    client._connection.call("OffsetCommit", serve, CALL_TIMEOUT_SECONDS)


@mutant(seed=70, needs="fates")
def producer_reused_after_a_doubt() -> Patch:
    """Its transaction is aborted, and the producer kept, as is usual elsewhere."""

    def retire(self: Publisher) -> None:
        if self._open and self._producers:
            try:
                line = self._in_turn()
                line.abort()
            except PublishDoubt:
                for each in self._producers:
                    each.drop()
                self._producers = []
            else:
                forget(line)
        self._open = False

    return mock.patch.object(Publisher, "retire", retire)


@mutant(seed=574, needs="fates")
def one_producer_kept_after_a_doubt() -> Patch:
    """The one in doubt, of all things: what it has open goes on being open."""
    begin, prepare = TransactionalProducer.begin, Publisher.prepare
    kept: dict[int, tuple[int, TransactionalProducer]] = {}

    def retire(self: Publisher) -> None:
        if self._producers:
            at = self._turn % len(self._producers)
            forget(self._producers[at])
            kept[id(self)] = at, self._producers[at]
            for each in self._producers[:at] + self._producers[at + 1 :]:
                each.drop()
        self._producers = []
        self._open = False

    def prepare_the_other(self: Publisher) -> None:
        if self._producers or id(self) not in kept:
            return prepare(self)
        at, line = kept[id(self)]
        names, self._transactional_ids = self._transactional_ids, list(self._transactional_ids)
        del self._transactional_ids[at]
        try:
            prepare(self)
        finally:
            self._transactional_ids = names
        del kept[id(self)]
        self._producers.insert(at, line)
        return None

    def begin_or_go_on(self: TransactionalProducer) -> None:
        with suppress(PublishDoubt):
            begin(self)

    return together(
        mock.patch.object(Publisher, "retire", retire),
        mock.patch.object(Publisher, "prepare", prepare_the_other),
        mock.patch.object(TransactionalProducer, "begin", begin_or_go_on),
    )


def forget(line: TransactionalProducer) -> None:
    """What was told of it before."""
    line.failures.clear()
    line._log.suspicious.clear()


@mutant(seed=220, needs="fates")
def silent_resends_ignored() -> Patch:
    return mock.patch.object(LogLines, "emit", nothing)


@mutant(seed=23)
def k_read_unstable() -> Patch:
    admin = Cluster._admin

    class Unstable:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def list_consumer_group_offsets(self, requests: Any, **options: Any) -> Any:
            return self._real.list_consumer_group_offsets(
                requests, **{**options, "require_stable": False}
            )

    return mock.patch.object(Cluster, "_admin", lambda self: Unstable(admin(self)))


# The group


@mutant(seed=240)
def metadata_without_a_member() -> Patch:
    return mock.patch.object(
        Consumer,
        "snapshot",
        property(
            lambda self: GroupMetadata(GROUP, "", -1, None),
            lambda self, _: None,
        ),
        create=True,
    )


@mutant(seed=229, needs="stop")
def fresh_metadata_after_a_rejoin() -> Patch:
    """In a republish that polls before it sends, as one that takes long would like to.

    Polling alone is refused by the broker, because the snapshot is of the assignment before.
    """
    return polling_republish(fresh=True)


def polling_republish(fresh: bool) -> Patch:
    consumers: dict[int, Consumer] = {}
    made, republish = Consumer.__init__, Catchup.republish

    def make(self: Consumer, clients: Any, *arguments: Any) -> None:
        made(self, clients, *arguments)
        consumers[id(clients)] = self

    def poll_first(self: Catchup, unpublished: Any, snapshot: object) -> None:
        if unpublished:
            consumer = consumers[id(self._publisher._clients)]
            _poll_while_it_rejoins(consumer)
            self._publisher.prepare()
            snapshot = consumer.snapshot if fresh else snapshot
        republish(self, unpublished, snapshot)

    return together(
        mock.patch.object(Consumer, "__init__", make),
        mock.patch.object(Catchup, "republish", poll_first),
    )


def _poll_while_it_rejoins(consumer: Consumer) -> None:
    """Until there is an assignment again; what flows is held up meanwhile."""
    client, before = consumer._client, consumer.assignment
    flowing = [TopicPartition(*partition) for partition in consumer._flows]
    client.pause(flowing)
    client.consume(1, 0.05)
    for _ in range(5):
        if consumer.assignment == before or consumer.owned:
            break
        client.consume(1, 1.0)
    if consumer.assignment == before:
        client.resume(flowing)


@mutant(seed=3)
def batch_kept_across_a_revoke() -> Patch:
    """What was believed and in hand goes on when the partition comes back."""
    replace_all, on_assign = Partitions.replace, Consumer._on_assign

    def keep(self: Partitions, partitions: Any) -> None:
        before = dict(self.owned)
        replace_all(self, partitions)
        self.owned |= before

    def assigned(self: Consumer, client: Any, assigned: list[TopicPartition]) -> None:
        flows = dict(self._flows)
        on_assign(self, client, assigned)
        kept = {p: flow for p, flow in flows.items() if p in self._owned}
        self._flows.clear()
        self._placing.start({p: placed_at(p, flow.position) for p, flow in kept.items()}, {})
        self._flows |= kept

    return together(
        mock.patch.object(Partitions, "replace", keep),
        mock.patch.object(Partitions, "remove", nothing),
        mock.patch.object(Worker, "revoked", nothing),
        mock.patch.object(Consumer, "_on_assign", assigned),
        mock.patch.object(Consumer, "_on_revoke", nothing),
        mock.patch.object(Consumer, "_changed", nothing),
    )


@mutant(seed=0)
def dropped_without_seeking_back() -> Patch:
    return mock.patch.object(Placing, "_seek", return_value=True)


@mutant(seed=2)
def parked_flows_on() -> Patch:
    """What comes behind the messages that were let go passes for the next one."""

    def park(self: Consumer, partitions: Collection[Partition]) -> None:
        self._in_hand.park(partitions)

    return mock.patch.object(Consumer, "_park", park)


@mutant(seed=11_317, needs="fates")
def assigned_at_the_end() -> Patch:
    """The client looks the end up, and goes there behind the seek to H."""
    on_assign = Consumer._on_assign

    def at_the_end(self: Consumer, client: Any, assigned: list[TopicPartition]) -> None:
        on_assign(self, client, assigned)
        client.assign([TopicPartition(t.topic, t.partition, OFFSET_END) for t in assigned])
        client.pause(assigned)
        self._placing._fetched = {Partition(each.topic, each.partition) for each in assigned}

    return mock.patch.object(Consumer, "_on_assign", at_the_end)


@mutant(seed=142, needs="recreate")
def a_recreated_topic_starts_anew() -> Patch:
    """All of its partitions do, when it has one more."""
    return mock.patch.object(LockedRows, "initial_partitions", nothing)


@mutant(seed=24, needs="recreate")
def topic_id_not_checked() -> Patch:
    topics = Cluster.topics
    first: dict[str, TopicFacts] = {}

    def as_first_seen(self: Cluster, names: Any) -> dict[str, TopicFacts | str]:
        found = topics(self, names)
        for name, fact in found.items():
            if isinstance(fact, TopicFacts):
                first.setdefault(name, fact)
        return {name: first.get(name, fact) for name, fact in found.items()}

    return together(
        mock.patch.object(Cluster, "topics", as_first_seen),
        mock.patch.object(Housekeeping, "_check_topics", nothing),
    )
