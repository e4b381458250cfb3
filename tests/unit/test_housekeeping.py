"""P is what was read back, and a row that refuses it is a doubt."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from processor.engine.batch import Committed, Partition
from processor.engine.failures import Doubt
from processor.engine.housekeeping import OPERATOR_HALT, Housekeeping
from processor.engine.ledger import Claim
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


class Ledger:
    def __init__(self, *, accepts: bool) -> None:
        self._accepts = accepts

    def raise_published(self, claims: list[Claim]) -> dict[int, int]:
        return {each.progress_id: each.offset for each in claims if self._accepts}


def finish(ledger: Ledger) -> Partitions:
    """A partition whose K is H and whose P is not, as it is given away."""
    partitions = Partitions()
    partitions.replace([PARTITION])
    owned = partitions[PARTITION]
    owned.move(State.RUNNING)
    owned.row = ROW
    owned.next_offset = owned.sent_offset = H
    owned.token_in_k = ROW.token
    unused: Any = None
    cluster: Any = Kafka()
    raises: Any = ledger
    housekeeping = Housekeeping(
        cluster,
        raises,
        unused,
        unused,
        unused,
        partitions,
        unused,
        unused,
        lambda: 0.0,
        60.0,
        "incarnation",
    )
    housekeeping.finish([PARTITION])
    return partitions


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
