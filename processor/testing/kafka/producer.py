"""The transactional producer client: states, calls and errors as librdkafka has them.

A request that is lost is sent again by the client itself, and the call says success: only a log
line tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.testing.kafka.broker import Broker
from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused, failure, timed_out
from processor.testing.kafka.log import Draft
from processor.testing.kafka.offsets import Offset
from processor.testing.kafka.sender import FENCED, UNASSIGNED, Identity, Sender
from processor.testing.network import Network, RequestLost, RequestTimedOut

T = TypeVar("T")
INIT_RETRY_SECONDS = 0.5
"""How long InitProducerId waits while the producer before is being ended."""
ABORTABLE = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
}
FOREVER = float("inf")


class State(Enum):
    NEW = auto()
    READY = auto()
    OPEN = auto()
    ENDING = auto()


class Producer:
    """What the engine uses of ``confluent_kafka.Producer``."""

    def __init__(
        self,
        config: Mapping[str, Any],
        broker: Broker,
        network: Network,
        logger: logging.Logger | None = None,
    ) -> None:
        self._transactional_id = str(config["transactional.id"])
        self._timeout_seconds = int(config.get("transaction.timeout.ms", 60_000)) / 1_000
        self._retry_seconds = int(config.get("retry.backoff.ms", 100)) / 1_000
        self._on_delivery: Callable[[Any, Any], None] | None = config.get("on_delivery")
        self._broker = broker
        self._time = network.time
        self._connection = Connection(
            broker, network, logger, int(config.get("socket.timeout.ms", 60_000)) / 1_000
        )
        self._state = State.NEW
        self._api: str | None = None
        self._sender: Sender | None = None
        self._identity: Identity | None = None
        self._offsets_added = False
        self._fatal: KafkaError | None = None
        self._abortable: KafkaError | None = None
        self._unreported: KafkaError | None = None

    # The client's methods

    def init_transactions(self, timeout: float = -1) -> None:
        coordinator = self._broker.transactions
        with self._call("init_transactions", State.NEW):
            producer_id, epoch = self._request(
                "InitProducerId",
                lambda: coordinator.init_producer(self._transactional_id, self._timeout_seconds),
                self._deadline(timeout),
                INIT_RETRY_SECONDS,
            )
            self._identity = Identity(self._transactional_id, producer_id, epoch)
            self._sender = Sender(self._connection, self._identity, self._die)
            self._state = State.READY

    def begin_transaction(self) -> None:
        with self._call("begin_transaction", State.READY):
            self._the_sender.begin()
            self._offsets_added = False
            self._abortable = None
            self._state = State.OPEN

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = UNASSIGNED,
        timestamp: int = 0,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        if self._fatal is not None:
            raise failure(KafkaError._FATAL, "Unable to produce message")
        if self._state is not State.OPEN:
            raise failure(KafkaError._STATE, "no transaction is open")
        stamp = timestamp or round(self._time.now() * 1_000)
        self._the_sender.put(topic, partition, Draft(key, value, headers, stamp))

    def send_offsets_to_transaction(
        self, positions: Sequence[TopicPartition], group_metadata: Any, timeout: float = -1
    ) -> None:
        offsets = {
            (each.topic, each.partition): Offset(each.offset, each.metadata) for each in positions
        }
        broker, deadline, restarts = self._broker, self._deadline(timeout), self._broker.restarts
        with self._call("send_offsets_to_transaction", State.OPEN):
            self._sound()
            me, group = self._the_identity, group_metadata.group_id
            self._request(
                "AddOffsetsToTxn",
                lambda: broker.transactions.add_offsets(*me, group),
                deadline,
            )
            self._offsets_added = True
            self._request(
                "TxnOffsetCommit",
                lambda: broker.commit_offsets(
                    group, group_metadata.member, me.producer_id, me.epoch, offsets
                ),
                deadline,
                heeds=False,
            )
            if broker.restarts != restarts and self._time.random.random() < broker.hang_chance:
                self._time.wait(lambda: False)

    def commit_transaction(self, timeout: float = -1) -> None:
        deadline = self._deadline(timeout)
        with self._call("commit_transaction", State.OPEN, State.ENDING):
            self._sound()
            self._flush(deadline)
            if self._the_sender.failed:
                raise self._to_abort(
                    KafkaError._INCONSISTENT, f"{self._the_sender.failed} messages failed delivery"
                )
            self._end(True, deadline)

    def abort_transaction(self, timeout: float = -1) -> None:
        deadline = self._deadline(timeout)
        with self._call("abort_transaction", State.OPEN, State.ENDING):
            self._the_sender.purge()
            self._flush(deadline)
            self._end(False, deadline)

    def purge(self) -> None:
        if self._sender is not None:
            self._sender.purge()

    def poll(self, timeout: float = 0) -> int:
        """Serve delivery reports and log lines.

        :raises KafkaException: a fatal error, once.
        """
        if timeout > 0:
            self._time.pause(timeout)
        self._connection.tell()
        reports = self._take_reports()
        error, self._unreported = self._unreported, None
        if error is not None:
            raise KafkaException(error)
        return reports

    def flush(self, timeout: float = -1) -> int:
        sender = self._sender
        if sender is not None:
            self._time.wait(lambda: sender.idle, None if timeout < 0 else timeout)
        self._take_reports()
        return 0 if sender is None or sender.idle else 1

    # The rest

    @property
    def _the_sender(self) -> Sender:
        assert self._sender is not None, "it is made with the identity"
        return self._sender

    @property
    def _the_identity(self) -> Identity:
        assert self._identity is not None, "only a new producer has none"
        return self._identity

    def _take_reports(self) -> int:
        if self._sender is None:
            return 0
        reports, self._sender.reports = self._sender.reports, []
        for error, message in reports:
            if self._on_delivery is not None:
                self._on_delivery(error, message)
        return len(reports)

    def _flush(self, deadline: float) -> None:
        """Until everything is delivered or has failed."""
        sender = self._the_sender
        if sender.idle:
            return
        left = None if deadline == FOREVER else max(0.0, deadline - self._time.now())
        if not self._time.wait(lambda: sender.idle or self._fatal is not None, left):
            raise timed_out("flush")
        self._alive()

    def _end(self, commit: bool, deadline: float) -> None:
        """EndTxn, unless the coordinator knows nothing of this transaction."""
        self._state = State.ENDING
        me = self._the_identity
        if self._offsets_added or self._the_sender.added:
            self._request("EndTxn", lambda: self._broker.transactions.end(*me, commit), deadline)
        self._state = State.READY

    def _request(
        self,
        name: str,
        serve: Callable[[], T],
        deadline: float,
        retry_seconds: float | None = None,
        heeds: bool = True,
    ) -> T:
        """A request, sent again in silence until it is answered or the call's time is over.

        :param heeds: whether a request under way is given up at the deadline.
        """
        connection, time = self._connection, self._time
        while True:
            left = deadline - time.now()
            if left <= 0:
                raise timed_out(name)
            try:
                return connection.call(name, serve, left if heeds else FOREVER)
            except RequestLost:
                connection.reconnect()
            except RequestTimedOut:
                continue
            except Refused as refusal:
                if refusal.code != KafkaError.CONCURRENT_TRANSACTIONS:
                    raise self._refused(name, refusal.code) from None
                time.pause(min(retry_seconds or self._retry_seconds, max(0.0, left)))

    def _refused(self, name: str, code: int) -> KafkaException:
        if code in FENCED:
            self._die(KafkaError._FENCED, f"{name} was refused: {KafkaError(code).str()}")
        elif code in ABORTABLE:
            return self._to_abort(code, f"{name} was refused")
        else:
            self._die(code, f"{name} was refused")
        return KafkaException(self._fatal)

    def _to_abort(self, code: int, reason: str) -> KafkaException:
        self._abortable = KafkaError(code, reason, False, False, True)
        return KafkaException(self._abortable)

    def _die(self, code: int, reason: str) -> None:
        if self._fatal is None:
            self._fatal = KafkaError(code, reason, True, False, False)
            self._unreported = self._fatal
            if self._sender is not None:
                self._sender.stop()

    def _alive(self) -> None:
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def _sound(self) -> None:
        """:raises KafkaException: when the transaction can only be aborted."""
        if self._abortable is not None:
            raise KafkaException(self._abortable)

    def _deadline(self, timeout: float) -> float:
        return FOREVER if timeout < 0 else self._time.now() + timeout

    @contextmanager
    def _call(self, name: str, *states: State) -> Iterator[None]:
        """One transactional call at a time, in a state that allows it."""
        self._alive()
        if self._api is not None:
            raise failure(KafkaError._CONFLICT, f"{self._api} is already in progress")
        if self._state not in states:
            raise failure(KafkaError._STATE, f"{name} in state {self._state.name}")
        self._api = name
        try:
            yield
        finally:
            self._api = None
