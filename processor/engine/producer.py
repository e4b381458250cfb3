"""One transactional producer: its calls, and what they and its log tell of harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.engine.batch import OutboxEntry
from processor.engine.clients import CALL_TIMEOUT_SECONDS, Background, Clients, LogLines
from processor.engine.cluster import told
from processor.engine.failures import PublishDoubt
from processor.engine.outbox import PROVENANCE_HEADER, provenance
from processor.engine.steps import Step, Steps

SEND_OFFSETS_CALL = "send_offsets_to_transaction"
COMMIT_CALL = "commit_transaction"
PARTITION_UA = -1
"""By the key; librdkafka's word for it."""
ABANDON_SECONDS = 1.0
REPORT_SECONDS = 1.0
FULL_QUEUE_SECONDS = 5.0

_FENCED = (
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.FENCED_INSTANCE_ID,
)


class TransactionalProducer:
    """One transactional producer, from its initialisation to its retirement."""

    def __init__(
        self, clients: Clients, transactional_id: str, timeout_seconds: float, steps: Steps
    ) -> None:
        self._steps = steps
        self._log = LogLines()
        self._sending: Future[object] | None = None
        self.failures: list[tuple[str, KafkaError]] = []
        self.last_error: str | None = None
        self._client: Any = clients.producer(
            transactional_id, timeout_seconds, self._log.logger(), self._delivered, self._failed
        )

    def initialise(self, timeout_seconds: float) -> None:
        """Fence every producer before this one and end what it left open.

        :raises PublishDoubt: when that did not succeed in time.
        """
        with self._told("init_transactions"):
            self._client.init_transactions(timeout_seconds)
        # Its own retries chatter; what counts begins now.
        self._client.poll(0)
        self._log.suspicious.clear()

    def drop(self) -> None:
        """Let the client go: its callbacks and this would keep each other alive, threads too."""
        self._client = None

    def begin(self) -> None:
        with self._call(Step.SEND, "begin_transaction"):
            self._client.begin_transaction()

    def produce(self, entries: Iterable[OutboxEntry]) -> None:
        produce = self._client.produce
        with self._call(Step.SEND, "produce"):
            for entry in entries:
                for (topic, key, value, headers, when, partition, _), source in provenance(entry):
                    told_of = [*headers, (PROVENANCE_HEADER, source)]
                    place = PARTITION_UA if partition is None else partition
                    try:
                        produce(topic, value, key, place, timestamp=when, headers=told_of)
                    except BufferError:
                        self._wait_for_room(
                            partial(
                                produce, topic, value, key, place, timestamp=when, headers=told_of
                            )
                        )
            self._client.poll(0)

    def send_offsets(
        self, background: Background, offsets: list[TopicPartition], snapshot: object
    ) -> None:
        """Begin to; :meth:`offsets_sent` tells how it went."""
        send = self._client.send_offsets_to_transaction
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
        with self._call(Step.END, COMMIT_CALL):
            self._client.commit_transaction(CALL_TIMEOUT_SECONDS)

    def abort(self) -> None:
        """Not while offsets are being sent: initialising the next producer aborts as well."""
        if self._sending is not None:
            try:
                self.offsets_sent(ABANDON_SECONDS)
            except PublishDoubt as doubt:
                if doubt.unanswered:
                    raise
        with self._call(Step.ABORT, "abort_transaction"):
            self._client.purge()
            self._client.abort_transaction(CALL_TIMEOUT_SECONDS)

    def check(self) -> None:
        """Serve reports and log lines; :raises PublishDoubt: for one that tells of harm."""
        with self._told("poll"):
            self._client.poll(0)
        if self.failures:
            topic, error = self.failures[0]
            raise PublishDoubt(
                f"{len(self.failures)} outputs were not delivered: {topic}: {error.name()}",
                refused=self._refused(),
            )
        if self._log.suspicious:
            raise PublishDoubt(f"a request may have been sent twice: {self._log.suspicious[0]}")

    def _refused(self) -> set[str]:
        """Topics whose broker said no to a record for good, rather than not answering."""
        return {topic for topic, error in self.failures if error.code() in REFUSALS}

    def _wait_for_room(self, produce: Callable[[], object]) -> None:
        deadline = monotonic() + FULL_QUEUE_SECONDS
        while monotonic() < deadline:
            self._client.poll(0.05)
            try:
                produce()
            except BufferError:
                continue
            return
        raise PublishDoubt("the producer's queue stays full")

    def _wait_for_reports(self) -> None:
        """The commit may tell of a refused record before its report does, which has the topic."""
        deadline = monotonic() + REPORT_SECONDS
        while not self.failures and monotonic() < deadline:
            with suppress(KafkaException):
                self._client.poll(0.01)

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
                self._client.poll(0)
            code = error.args[0].code() if error.args else None
            if name == COMMIT_CALL and code in REFUSALS:
                self._wait_for_reports()
            reason = f"{name}: {told(error)}"
            if self.last_error is not None:
                reason += f" ({self.last_error})"
            refused = self._refused() or ({name} if code in REFUSALS else set())
            raise PublishDoubt(
                reason,
                refused=refused,
                fenced=code in _FENCED,
                timed_out=code == KafkaError._TIMED_OUT,
            ) from None

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
