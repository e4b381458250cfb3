"""The one Kafka transaction. Nobody else begins, sends offsets, commits or aborts.

A producer is used again only after a commit that left no doubt. librdkafka sends EndTxn and
TxnOffsetCommit again by itself and then says success, while the late original can still act on a
later transaction of the same producer epoch; its log lines alone tell. So the lines are read after
every call, and after any doubt, and after every abort, the producer is retired: a new one with the
same transactional id gets a new epoch, and what is late is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.engine.batch import OutboxEntry, Partition
from processor.engine.clients import (
    CALL_TIMEOUT_SECONDS,
    Background,
    Clients,
    LogLines,
)
from processor.engine.cluster import told
from processor.engine.failures import PublishDoubt
from processor.engine.outbox import PROVENANCE_HEADER, provenance
from processor.engine.steps import Step, Steps

SEND_OFFSETS_CALL = "send_offsets_to_transaction"
SEND_OFFSETS_SECONDS = 5.0
"""The client ignores its own time-out when the group's coordinator was away: it can wait for ever
(librdkafka issues 5456 and 5511). Doubled after each call without an answer."""
MAX_SEND_OFFSETS_SECONDS = 20.0
ABANDON_SECONDS = 1.0
FULL_QUEUE_SECONDS = 5.0
LONGEST_TRANSACTION_SECONDS = 900.0
"""The broker's default for ``transaction.max.timeout.ms``."""

_FENCED = (
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.FENCED_INSTANCE_ID,
)


class _Line:
    """One transactional producer, from its initialisation to its retirement."""

    def __init__(
        self, clients: Clients, transactional_id: str, timeout_seconds: float, steps: Steps
    ) -> None:
        self._steps = steps
        self._lines = LogLines()
        self._sending: Future[object] | None = None
        self.failures: list[tuple[str, KafkaError]] = []
        self.last_error: str | None = None
        self._producer: Any = clients.producer(
            transactional_id, timeout_seconds, self._lines.logger(), self._delivered, self._failed
        )

    def initialise(self, timeout_seconds: float) -> None:
        """Fence every producer before this one and end what it left open.

        :raises PublishDoubt: when that did not succeed in time.
        """
        with self._told("init_transactions"):
            self._producer.init_transactions(timeout_seconds)
        # Its own retries chatter; what counts begins now.
        self._producer.poll(0)
        self._lines.suspicious.clear()

    def drop(self) -> None:
        """Let the client go: its callbacks and this would keep each other alive, threads too."""
        self._producer = None

    def begin(self) -> None:
        with self._call(Step.SEND, "begin_transaction"):
            self._producer.begin_transaction()

    def produce(self, entries: Iterable[OutboxEntry]) -> None:
        produce = self._producer.produce
        with self._call(Step.SEND, "produce"):
            for entry in entries:
                for record, source in provenance(entry):
                    fields: dict[str, Any] = {
                        "topic": record.topic,
                        "key": record.key,
                        "value": record.value,
                        "timestamp": record.timestamp,
                        "headers": [*record.headers, (PROVENANCE_HEADER, source)],
                    }
                    if record.partition is not None:
                        fields["partition"] = record.partition
                    try:
                        produce(**fields)
                    except BufferError:
                        self._wait_for_room(fields)
            self._producer.poll(0)

    def send_offsets(
        self, background: Background, offsets: list[TopicPartition], snapshot: object
    ) -> None:
        """Begin to; :meth:`offsets_sent` tells how it went."""
        send = self._producer.send_offsets_to_transaction
        self._sending = background(lambda: send(offsets, snapshot, CALL_TIMEOUT_SECONDS))

    def offsets_sent(self, timeout_seconds: float) -> None:
        """:raises PublishDoubt: also when the call does not return."""
        sending, self._sending = self._sending, None
        with self._call(Step.SEND_OFFSETS, SEND_OFFSETS_CALL):
            assert sending is not None, "offsets are sent with every transaction"
            try:
                sending.result(timeout_seconds)
            except TimeoutError:
                raise PublishDoubt(
                    f"{SEND_OFFSETS_CALL} did not return in {timeout_seconds:g} s", unanswered=True
                ) from None

    def commit(self) -> None:
        with self._call(Step.END, "commit_transaction"):
            self._producer.commit_transaction(CALL_TIMEOUT_SECONDS)

    def abort(self) -> None:
        """Not while offsets are being sent: initialising the next producer aborts as well."""
        if self._sending is not None:
            try:
                self.offsets_sent(ABANDON_SECONDS)
            except PublishDoubt as doubt:
                if doubt.unanswered:
                    raise
        with self._call(Step.ABORT, "abort_transaction"):
            self._producer.purge()
            self._producer.abort_transaction(CALL_TIMEOUT_SECONDS)

    def check(self) -> None:
        """Serve reports and log lines; :raises PublishDoubt: for one that tells of harm."""
        with self._told("poll"):
            self._producer.poll(0)
        if self.failures:
            topic, error = self.failures[0]
            raise PublishDoubt(
                f"{len(self.failures)} outputs were not delivered: {topic}: {error.name()}",
                refused=self._refused(),
            )
        if self._lines.suspicious:
            raise PublishDoubt(f"a request may have been sent twice: {self._lines.suspicious[0]}")

    def _refused(self) -> set[str]:
        """Topics whose broker said no to a record for good, rather than not answering."""
        return {topic for topic, error in self.failures if error.code() in REFUSALS}

    def _wait_for_room(self, fields: dict[str, Any]) -> None:
        deadline = monotonic() + FULL_QUEUE_SECONDS
        while monotonic() < deadline:
            self._producer.poll(0.05)
            try:
                self._producer.produce(**fields)
            except BufferError:
                continue
            return
        raise PublishDoubt("the producer's queue stays full")

    @contextmanager
    def _call(self, step: Step, name: str) -> Iterator[None]:
        with self._told(name), self._steps.step(step):
            yield

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            with suppress(KafkaException):  # a fatal error is raised once more
                self._producer.poll(0)
            code = error.args[0].code() if error.args else None
            reason = f"{name}: {told(error)}"
            if self.last_error is not None:
                reason += f" ({self.last_error})"
            refused = self._refused() or ({name} if code in REFUSALS else set())
            raise PublishDoubt(reason, refused=refused, fenced=code in _FENCED) from None

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.failures.append((message.topic(), error))

    def _failed(self, error: KafkaError) -> None:
        self.last_error = f"{error.name()}: {error.str()}"


REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)


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
        self._lines: list[_Line] = []
        self._turn = 0
        self._open = False

    @property
    def ready(self) -> bool:
        return bool(self._lines)

    def prepare(self) -> None:
        """Initialise new producers unless there are some without a doubt.

        :raises PublishDoubt: when the broker did not answer in time.
        """
        if self._lines:
            return
        lines = [
            _Line(self._clients, name, self._timeout_seconds, self._steps)
            for name in self._transactional_ids
        ]
        try:
            with self._steps.step(Step.INITIALISE, CALL_TIMEOUT_SECONDS * 2):
                initialise_all(lines)
        except PublishDoubt:
            for line in lines:
                line.drop()
            raise
        self._lines = lines

    def retire(self) -> None:
        """Drop the producers; what they left open is ended when the next ones are initialised."""
        for line in self._lines:
            line.drop()
        self._lines = []
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
            line = self._line()
            line.begin()
            self._open = True
            line.produce(entries)
            line.send_offsets(
                self._clients.background,
                [TopicPartition(*partition, at, metadata) for partition, at, metadata in offsets],
                snapshot,
            )

    def commit(self) -> None:
        """End the transaction, once the offsets have arrived.

        :raises PublishDoubt: the producers are retired then.
        """
        with self._retiring():
            line = self._line()
            try:
                line.offsets_sent(self._send_offsets_seconds)
            except PublishDoubt as doubt:
                if doubt.unanswered:
                    longer = 2 * self._send_offsets_seconds
                    self._send_offsets_seconds = min(longer, MAX_SEND_OFFSETS_SECONDS)
                raise
            line.check()
            line.commit()
            self._open = False
            line.check()
            self._timeout_seconds = self._usual_timeout_seconds
            self._send_offsets_seconds = SEND_OFFSETS_SECONDS

    def abandon(self) -> None:
        """End without effect what :meth:`send` began, if anything; never raises."""
        if self._open and self._lines:
            with suppress(PublishDoubt):
                self._line().abort()
            self.retire()

    def _line(self) -> _Line:
        """Whose turn it is."""
        if not self._lines:
            raise PublishDoubt("there is no producer")
        return self._lines[self._turn % len(self._lines)]

    @contextmanager
    def _retiring(self) -> Iterator[None]:
        try:
            yield
        except PublishDoubt:
            self.retire()
            raise


def initialise_all(lines: Sequence[_Line]) -> None:
    """At the same time: after a kill each may take most of a second.

    :raises PublishDoubt: of the first that failed; the others are initialised all the same.
    """
    with ThreadPoolExecutor(len(lines)) as threads:
        for done in [threads.submit(line.initialise, CALL_TIMEOUT_SECONDS) for line in lines]:
            done.result()
