"""P is what was read back; a row that refuses it, or is not as it was left, is a doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from processor.engine.batch import Committed, Partition
from processor.engine.cluster import TopicFacts
from processor.engine.failures import Doubt
from processor.engine.housekeeping import OPERATOR_HALT, Housekeeping
from processor.engine.ledger import Belief, Claim
from processor.engine.observer import NullObserver
from processor.engine.partitions import Partitions, State
from processor.engine.recovery import Row, make_metadata
from processor.engine.register import Request

PARTITION = Partition("input", 0)
H = 7
ROW = Row(
    id=1,
    topic_id="topic-id",
    next_offset=H,
    published_offset=4,
    verified_offset=4,
    lineage="lineage",
    token="token",
    tokens_in_k=("token",),
    system_identifier=1,
    intent=None,
    leader_epoch=0,
    initial_partitions=1,
    untouched=False,
)


class Kafka:
    """A cluster whose K is H, under the row's own token."""

    def committed(self, partitions: list[Partition]) -> dict[Partition, Committed]:
        metadata = make_metadata(ROW.lineage, ROW.token)
        return {each: Committed(H, metadata) for each in partitions}

    def topics(self, names: set[str]) -> dict[str, TopicFacts]:
        return {name: TopicFacts(ROW.topic_id, 1) for name in names}


class Idle:
    """A consumer that is never at the end; a register that takes every report."""

    snapshot = None

    def idle_end(self, partition: Partition, offset: int) -> int | None:
        return None

    def report(self, reports: Sequence[object]) -> None: ...

    def seen(self, incarnation: str) -> None: ...

    def take_requests(self, partitions: Sequence[Partition]) -> dict[Partition, Request]:
        return {}


class Ledger:
    def __init__(self, *, accepts: bool = True, row: Row = ROW) -> None:
        self._accepts = accepts
        self._row = row

    def raise_published(self, claims: list[Claim]) -> dict[int, int]:
        return {each.progress_id: each.offset for each in claims if self._accepts}

    def as_left(self, beliefs: list[Belief]) -> set[int]:
        row = self._row
        found = Belief(row.id, row.lineage, row.token, row.next_offset, row.published_offset)
        return {row.id} if found in beliefs else set()


def running() -> Partitions:
    """A partition whose K is H and whose P is not."""
    partitions = Partitions()
    partitions.replace([PARTITION])
    owned = partitions[PARTITION]
    owned.move(State.RUNNING)
    owned.row = ROW
    owned.next_offset = owned.sent_offset = H
    owned.token_in_k = ROW.token
    return partitions


def housekeeping(ledger: Ledger, partitions: Partitions) -> Housekeeping:
    idle: Any = Idle()
    unused: Any = None
    cluster: Any = Kafka()
    either: Any = ledger
    return Housekeeping(
        cluster,
        either,
        unused,
        unused,
        idle,
        partitions,
        idle,
        NullObserver(),
        lambda: 0.0,
        60.0,
        "incarnation",
    )


def finish(ledger: Ledger) -> Partitions:
    """As the partition is given away."""
    partitions = running()
    housekeeping(ledger, partitions).finish([PARTITION])
    return partitions


def rest(ledger: Ledger) -> None:
    """Nothing to do: P = K = H."""
    partitions = running()
    partitions[PARTITION].published_offset = H
    housekeeping(ledger, partitions).run()


def test_p_is_raised_to_the_k_that_was_read() -> None:
    assert finish(Ledger(accepts=True))[PARTITION].published_offset == H


def test_a_row_that_refuses_p_is_a_doubt() -> None:
    """Another owner has renewed its token: P and the outbox would stay behind for good."""
    with pytest.raises(Doubt, match="input/0"):
        finish(Ledger(accepts=False))


class Control:
    """A register with one request, and a consumer that notes what it holds."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.held: list[Partition] = []

    def take_requests(self, partitions: list[Partition]) -> dict[Partition, Request]:
        return {each: Request(self._command, "ann@host") for each in partitions}

    def hold(self, partitions: list[Partition]) -> None:
        self.held += partitions


def asked(command: str, state: State, **halt: Any) -> tuple[Partitions, Control]:
    """A partition in this state, after somebody has asked for something."""
    partitions, control, unused = Partitions(), Control(command), None
    partitions.replace([PARTITION])
    partitions[PARTITION].move(state, **halt)
    doubles: Any = control
    house = Housekeeping(
        unused,  # type: ignore[arg-type]
        unused,  # type: ignore[arg-type]
        unused,  # type: ignore[arg-type]
        unused,  # type: ignore[arg-type]
        doubles,
        partitions,
        doubles,
        NullObserver(),
        lambda: 5.0,
        topic_check_seconds=5.0,
        incarnation="incarnation",
        target="shop:pipeline",
    )
    house._take_requests()
    return partitions, control


@pytest.mark.parametrize("state", [State.RUNNING, State.WAITING, State.BACKING_OFF])
def test_a_partition_is_halted_at_an_operators_word_until_another(state: State) -> None:
    partitions, control = asked("halt", state)
    each = partitions[PARTITION]
    assert (each.state, each.reason, each.due) == (State.HALTED, OPERATOR_HALT, inf)
    assert "ann@host" in str(each.detail)
    assert "processor resume shop:pipeline --partition input/0" in str(each.remedy)
    assert control.held == [PARTITION]


def test_a_halt_of_another_reason_stands() -> None:
    partitions, control = asked("halt", State.HALTED, reason="input-lost")
    assert partitions[PARTITION].reason == "input-lost"
    assert control.held == []


def test_a_resume_is_for_what_is_halted() -> None:
    halted, _ = asked("resume", State.HALTED, reason=OPERATOR_HALT)
    assert (halted[PARTITION].state, halted[PARTITION].due) == (State.RECOVERING, 5.0)
    running, _ = asked("resume", State.RUNNING)
    assert running[PARTITION].state is State.RUNNING


AT_REST = replace(ROW, published_offset=H)


def test_a_row_that_is_as_it_was_left_is_let_be() -> None:
    rest(Ledger(row=AT_REST))


@pytest.mark.parametrize(
    "changes",
    [{"next_offset": 6, "published_offset": 6}, {"token": "earlier"}, {"published_offset": 6}],
    ids=["h", "token", "p"],
)
def test_a_row_that_went_back_is_noticed_without_a_message(changes: dict[str, Any]) -> None:
    """The database was put back, and no batch comes that would be refused."""
    with pytest.raises(Doubt, match="input/0"):
        rest(Ledger(row=replace(AT_REST, **changes)))
