"""The one Kafka transaction. Nobody else begins, sends offsets, commits or aborts.

A producer is used again only after a commit that left no doubt. librdkafka sends EndTxn and
TxnOffsetCommit again by itself and then says success, while the late original can still act on a
later transaction of the same producer epoch; its log lines alone tell. So the lines are read after
every call, and after any doubt, and after every abort, the producer is retired: a new one with the
same transactional id gets a new epoch, and what is late is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

from confluent_kafka import TopicPartition

from processor.engine.batch import OutboxEntry, Partition
from processor.engine.clients import CALL_TIMEOUT_SECONDS, Background, Clients
from processor.engine.failures import PublishDoubt
from processor.engine.producer import TransactionalProducer
from processor.engine.steps import Step, Steps

SEND_OFFSETS_SECONDS = 5.0
"""The client ignores its own time-out when the group's coordinator was away: it can wait for ever
(librdkafka issues 5456 and 5511). Doubled after each call without an answer."""
MAX_SEND_OFFSETS_SECONDS = 20.0
LONGEST_TRANSACTION_SECONDS = 900.0
"""The broker's default for ``transaction.max.timeout.ms``."""


class Publisher:
    """The slot's transactional producers, used in turn, and when they are made anew.

    Two of them, because the tail of a transaction is still being written when the next one begins:
    the same producer would wait for it, 20 ms at times. They count as one: a doubt about either
    retires both. At most one transaction is open.

    Outputs and offsets of :meth:`send` may travel while Postgres commits, and stay invisible;
    :meth:`commit` only after that commit is known.
    """

    def __init__(
        self,
        clients: Clients,
        transactional_ids: Sequence[str],
        transaction_timeout_seconds: float,
        steps: Steps,
    ) -> None:
        self._clients = clients
        self._transactional_ids = transactional_ids
        self._usual_timeout_seconds = transaction_timeout_seconds
        self._timeout_seconds = transaction_timeout_seconds
        self._send_offsets_seconds = SEND_OFFSETS_SECONDS
        self._steps = steps
        self._producers: list[TransactionalProducer] = []
        self._turn = 0
        self._open = False

    @property
    def ready(self) -> bool:
        return bool(self._producers)

    def prepare(self) -> None:
        """Initialise new producers unless there are some without a doubt.

        :raises PublishDoubt: when the broker did not answer in time.
        """
        if self._producers:
            return
        producers = [
            TransactionalProducer(self._clients, name, self._timeout_seconds, self._steps)
            for name in self._transactional_ids
        ]
        try:
            with self._steps.step(Step.INITIALISE, CALL_TIMEOUT_SECONDS * 2):
                initialise_all(self._clients.background, producers)
        except PublishDoubt:
            for producer in producers:
                producer.drop()
            raise
        self._producers = producers

    def retire(self) -> None:
        """Drop the producers; what they left open is ended when the next ones are initialised."""
        for producer in self._producers:
            producer.drop()
        self._producers = []
        self._open = False

    def lengthen(self) -> None:
        """Give the next transactions twice the time: a republish may be long."""
        self._timeout_seconds = min(2 * self._timeout_seconds, LONGEST_TRANSACTION_SECONDS)

    def send(
        self,
        entries: Iterable[OutboxEntry],
        offsets: Sequence[tuple[Partition, int, str]],
        snapshot: object,
    ) -> None:
        """Begin a transaction, hand over the outputs and begin to send the offsets.

        :param offsets: of each partition, with their metadata.
        :param snapshot: the group metadata of the assignment under which the messages were read.
        :raises PublishDoubt: the producers are retired then.
        """
        with self._retiring():
            self._turn += 1
            producer = self._in_turn()
            producer.begin()
            self._open = True
            producer.produce(entries)
            producer.send_offsets(
                self._clients.background,
                [TopicPartition(*partition, at, metadata) for partition, at, metadata in offsets],
                snapshot,
            )

    def commit(self) -> None:
        """End the transaction, once the offsets have arrived.

        :raises PublishDoubt: the producers are retired then.
        """
        with self._retiring():
            producer = self._in_turn()
            try:
                producer.offsets_sent(self._send_offsets_seconds)
            except PublishDoubt as doubt:
                if doubt.unanswered:
                    longer = 2 * self._send_offsets_seconds
                    self._send_offsets_seconds = min(longer, MAX_SEND_OFFSETS_SECONDS)
                raise
            producer.check()
            producer.commit()
            self._open = False
            producer.check()
            self._timeout_seconds = self._usual_timeout_seconds
            self._send_offsets_seconds = SEND_OFFSETS_SECONDS

    def abandon(self) -> None:
        """End without effect what :meth:`send` began, if anything; never raises."""
        if self._open and self._producers:
            with suppress(PublishDoubt):
                self._in_turn().abort()
            self.retire()

    def _in_turn(self) -> TransactionalProducer:
        """Whose turn it is."""
        if not self._producers:
            raise PublishDoubt("there is no producer")
        return self._producers[self._turn % len(self._producers)]

    @contextmanager
    def _retiring(self) -> Iterator[None]:
        try:
            yield
        except PublishDoubt:
            self.retire()
            raise


def initialise_all(background: Background, producers: Sequence[TransactionalProducer]) -> None:
    """At the same time: after a kill each may take most of a second.

    :raises PublishDoubt: of the first that failed; the others are initialised all the same.
    """
    under_way = [
        background(partial(producer.initialise, CALL_TIMEOUT_SECONDS)) for producer in producers
    ]
    failures = [doubt for each in under_way if (doubt := _failure(each)) is not None]
    if failures:
        raise failures[0]


def _failure(initialising: Future[object]) -> PublishDoubt | None:
    try:
        initialising.result()
    except PublishDoubt as doubt:
        return doubt
    return None
