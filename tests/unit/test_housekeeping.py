"""P is what was read back, and a row that refuses it is a doubt."""

from __future__ import annotations

from typing import Any

import pytest

from processor.engine.batch import Committed, Partition
from processor.engine.failures import Doubt
from processor.engine.housekeeping import Housekeeping
from processor.engine.ledger import Claim
from processor.engine.partitions import Partitions, State
from processor.engine.recovery import Row, make_metadata

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
