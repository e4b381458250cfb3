"""The transaction coordinator, as a client without KIP-890 meets it.

One producer epoch serves many transactions, so that a request of an earlier one, served late, acts
on the later one. EndTxn is answered as soon as it is prepared; the markers follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from confluent_kafka import KafkaError

from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import TopicNumber
from processor.testing.scheduler import Time

AWAY_RETRY_SECONDS = 0.05


class State(Enum):
    EMPTY = auto()
    ONGOING = auto()
    PREPARE_COMMIT = auto()
    PREPARE_ABORT = auto()
    COMPLETE_COMMIT = auto()
    COMPLETE_ABORT = auto()


PREPARED = State.PREPARE_COMMIT, State.PREPARE_ABORT


@dataclass(slots=True)
class Transaction:
    """What is known of a transactional id."""

    producer_id: int
    epoch: int = -1
    timeout_seconds: float = 60.0
    state: State = State.EMPTY
    since: float = 0.0
    """When the transaction began."""
    partitions: dict[TopicNumber, None] = field(default_factory=dict)
    groups: dict[str, None] = field(default_factory=dict)

    @property
    def commits(self) -> bool:
        return self.state is State.PREPARE_COMMIT


class Markers(Protocol):
    """Where the end of a transaction is written."""

    @property
    def up(self) -> bool: ...

    def mark_partition(self, partition: TopicNumber, producer_id: int, commit: bool) -> None: ...

    def mark_group(self, group: str, producer_id: int, commit: bool) -> None: ...


@dataclass(slots=True)
class Pace:
    """How long the coordinator takes (seconds)."""

    markers: tuple[float, float] = (0.0005, 0.008)
    """Between EndTxn and the markers."""
    slow_markers: tuple[float, float] = (0.05, 0.5)
    slow_chance: float = 0.02
    sweep: float = 10.0
    """Between looks at transactions that are open for too long."""


class Coordinator:
    """``Time`` drives markers and the sweep; requests are served at once."""

    def __init__(self, time: Time, markers: Markers, pace: Pace) -> None:
        self._time = time
        self._markers = markers
        self._pace = pace
        self._transactions: dict[str, Transaction] = {}
        self._by_producer: dict[int, Transaction] = {}
        self._sweeping = False

    def init_producer(self, transactional_id: str, timeout_seconds: float) -> tuple[int, int]:
        """InitProducerId: a producer id and a new epoch; older ones are fenced from now on.

        :raises Refused: CONCURRENT_TRANSACTIONS until what was open is aborted.
        """
        transaction = self._transactions.get(transactional_id)
        if transaction is None:
            transaction = Transaction(1_000 + len(self._transactions))
            self._transactions[transactional_id] = transaction
            self._by_producer[transaction.producer_id] = transaction
        if transaction.state in PREPARED:
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        transaction.epoch += 1
        if transaction.state is State.ONGOING:
            self._prepare(transaction, commit=False)
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        transaction.timeout_seconds = timeout_seconds
        transaction.state = State.EMPTY
        return transaction.producer_id, transaction.epoch

    def add_partitions(
        self, transactional_id: str, producer_id: int, epoch: int, added: Iterable[TopicNumber]
    ) -> None:
        """AddPartitionsToTxn: begins a transaction unless one is open."""
        transaction = self._joined(transactional_id, producer_id, epoch)
        transaction.partitions.update(dict.fromkeys(added))

    def add_offsets(self, transactional_id: str, producer_id: int, epoch: int, group: str) -> None:
        """AddOffsetsToTxn: begins a transaction unless one is open."""
        transaction = self._joined(transactional_id, producer_id, epoch)
        transaction.groups[group] = None

    def end(self, transactional_id: str, producer_id: int, epoch: int, commit: bool) -> None:
        """EndTxn; said again after the end it succeeds again."""
        transaction = self._known(transactional_id, producer_id, epoch)
        state = transaction.state
        if state is State.ONGOING:
            self._prepare(transaction, commit)
        elif state is (State.PREPARE_COMMIT if commit else State.PREPARE_ABORT):
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        elif state is not (State.COMPLETE_COMMIT if commit else State.COMPLETE_ABORT):
            raise Refused(KafkaError.INVALID_TXN_STATE)

    def verify_partition(self, producer_id: int, epoch: int, partition: TopicNumber) -> None:
        """Whether the producer's open transaction has this partition."""
        if partition not in self._open(producer_id, epoch).partitions:
            raise Refused(KafkaError.INVALID_TXN_STATE)

    def verify_group(self, producer_id: int, epoch: int, group: str) -> None:
        if group not in self._open(producer_id, epoch).groups:
            raise Refused(KafkaError.INVALID_TXN_STATE)

    def is_open(self, transactional_id: str) -> bool:
        """Whether a transaction has begun whose markers are not all written."""
        transaction = self._transactions.get(transactional_id)
        return transaction is not None and transaction.state in (State.ONGOING, *PREPARED)

    def any_open(self) -> bool:
        return any(self.is_open(transactional_id) for transactional_id in self._transactions)

    def _open(self, producer_id: int, epoch: int) -> Transaction:
        transaction = self._by_producer[producer_id]
        if transaction.epoch != epoch:
            raise Refused(KafkaError.INVALID_PRODUCER_EPOCH)
        if transaction.state is not State.ONGOING:
            raise Refused(KafkaError.INVALID_TXN_STATE)
        return transaction

    def _known(self, transactional_id: str, producer_id: int, epoch: int) -> Transaction:
        transaction = self._transactions.get(transactional_id)
        if transaction is None or transaction.producer_id != producer_id:
            raise Refused(KafkaError.INVALID_PRODUCER_ID_MAPPING)
        if transaction.epoch != epoch:
            raise Refused(KafkaError.INVALID_PRODUCER_EPOCH)
        return transaction

    def _joined(self, transactional_id: str, producer_id: int, epoch: int) -> Transaction:
        transaction = self._known(transactional_id, producer_id, epoch)
        if transaction.state in PREPARED:
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        if transaction.state is not State.ONGOING:
            transaction.state = State.ONGOING
            transaction.since = self._time.now()
            self._sweep_later()
        return transaction

    def _prepare(self, transaction: Transaction, commit: bool) -> None:
        transaction.state = State.PREPARE_COMMIT if commit else State.PREPARE_ABORT
        producer_id, markers = transaction.producer_id, self._markers
        targets: list[Callable[[], None]] = [
            lambda p=partition: markers.mark_partition(p, producer_id, commit)  # type: ignore[misc]
            for partition in transaction.partitions
        ]
        targets += [
            lambda g=group: markers.mark_group(g, producer_id, commit)  # type: ignore[misc]
            for group in transaction.groups
        ]
        transaction.partitions, transaction.groups = {}, {}
        if not targets:
            self._complete(transaction)
        left = [len(targets)]
        for target in targets:
            self._time.later(self._delay(), lambda t=target: self._write(transaction, t, left))  # type: ignore[misc]

    def _write(self, transaction: Transaction, target: Callable[[], None], left: list[int]) -> None:
        if not self._markers.up:
            again = lambda: self._write(transaction, target, left)  # noqa: E731
            self._time.later(AWAY_RETRY_SECONDS, again)
            return
        target()
        left[0] -= 1
        if not left[0]:
            self._complete(transaction)

    def _complete(self, transaction: Transaction) -> None:
        transaction.state = State.COMPLETE_COMMIT if transaction.commits else State.COMPLETE_ABORT

    def _delay(self) -> float:
        random, pace = self._time.random, self._pace
        slow = random.random() < pace.slow_chance
        return random.uniform(*(pace.slow_markers if slow else pace.markers))

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._time.later(self._pace.sweep, self._sweep)

    def _sweep(self) -> None:
        """Abort what is open for too long, and fence its producer."""
        self._sweeping = False
        now = self._time.now()
        for transaction in self._transactions.values():
            if transaction.state is not State.ONGOING:
                continue
            if now - transaction.since > transaction.timeout_seconds and self._markers.up:
                transaction.epoch += 1
                self._prepare(transaction, commit=False)
            else:
                self._sweep_later()
