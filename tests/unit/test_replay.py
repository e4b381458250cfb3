"""Outputs of a replay against those that were published, and how its messages are cut."""

from __future__ import annotations

from typing import Any

import pytest

from processor.engine.batch import Handled, Partition, Record, Slice
from processor.engine.outbox import Provenance
from processor.operations.progress import Silent
from processor.operations.remedies.replay.compare import Comparison, Outputs
from processor.operations.remedies.replay.feed import Feed

PARTITION = Partition("input", 0)


def source(first: int, end: int, ordinal: int, offset: int | None) -> Provenance:
    return Provenance("id", 0, first, end, ordinal, 9, "lineage", offset)


def record(value: bytes, offset: int | None, topic: str = "out") -> Record:
    return Record(topic, b"k", value, (("h", b"x"),), 5, None, offset)


def published(*outputs: tuple[int, int, int, int | None, bytes]) -> Outputs:
    found = Outputs(0)
    for first, end, ordinal, offset, value in outputs:
        found.add(source(first, end, ordinal, offset), ("out", b"k", value, [("h", b"x")]))
    return found


def compared(records: list[Record], before: Outputs, *incomplete: str) -> Comparison:
    comparison = Comparison()
    comparison.compare(0, 4, records, before, incomplete)
    return comparison


def test_the_same_outputs_in_the_same_order_are_equal_whatever_the_batches() -> None:
    before = published((0, 1, 0, 0, b"a"), (1, 4, 1, 1, b"c"), (1, 4, 0, 1, b"b"))
    found = compared([record(b"a", 0), record(b"b", 1), record(b"c", 1)], before)
    assert (found.equal, found.different, found.incomparable) == (3, 0, 0)


@pytest.mark.parametrize(
    "records",
    [
        [record(b"other", 0)],
        [],
        [record(b"a", 0), record(b"a", 0)],
        [record(b"a", 0, "elsewhere")],
        [record(b"a", 0), record(b"new", 2)],
    ],
    ids=["value", "none", "one more", "topic", "another message"],
)
def test_anything_else_is_a_difference(records: list[Record]) -> None:
    found = compared(records, published((0, 4, 0, 0, b"a")))
    assert found.different == 1
    assert found.examples


def test_what_retention_may_have_taken_is_no_difference() -> None:
    found = compared([record(b"a", 0)], published(), "out")
    assert (found.different, found.incomparable) == (0, 1)


def test_outputs_of_a_batch_handler_are_compared_by_their_batch() -> None:
    before = published((0, 4, 0, None, b"a"))
    assert compared([record(b"a", None)], before).equal == 1
    assert compared([record(b"b", None)], before).different == 1


class Message:
    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset


class Told(Silent):
    def __init__(self) -> None:
        self.moves: list[int] = []

    def moved(self, offsets: int) -> None:
        self.moves.append(offsets)


def fed(feed: Feed, runs: list[list[int]], most: int) -> list[tuple[int, list[int]]]:
    """The slices, from messages that come in runs."""
    slices = []

    def handle(each: Slice) -> Handled:
        offsets = [message.offset() for message in each.messages]
        slices.append((each.first, offsets))
        return Handled(PARTITION, each.first, offsets[-1] + 1)

    for number, run in enumerate(runs):
        feed._pending += [Message(offset) for offset in run]
        feed._drain(handle, most, last=number == len(runs) - 1)
    return slices


def test_messages_are_cut_by_their_number() -> None:
    feed = Feed(PARTITION, 0, 9, Outputs(0), batches=False)
    assert fed(feed, [[0, 1, 2], [3, 5]], 2) == [(0, [0, 1]), (2, [2]), (3, [3, 5])]


def test_a_batch_handler_gets_the_same_batches_again() -> None:
    before = published((0, 4, 0, None, b"a"), (6, 8, 0, None, b"b"))
    feed = Feed(PARTITION, 0, 9, before, batches=True)
    runs = [[0, 1], [2, 4], [5, 6, 7], [8]]
    assert fed(feed, runs, 100) == [(0, [0, 1, 2]), (3, [4, 5]), (6, [6, 7]), (8, [8])]


def test_what_was_handled_is_told_and_not_what_was_read() -> None:
    told = Told()
    feed = Feed(PARTITION, 0, 9, Outputs(0), batches=False, progress=told)
    fed(feed, [[0, 1, 2], [5]], 2)
    assert told.moves == [2, 1, 3]


def test_what_lies_below_the_start_is_not_compared() -> None:
    found = Outputs(4)
    content: Any = ("out", b"k", b"a", [])
    found.add(source(0, 4, 0, 1), content)
    assert found.by_key == {}
