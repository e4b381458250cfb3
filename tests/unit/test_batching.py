"""Slices become what they cause: the whole batch at once, or message by message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table

from processor import Halt, Message, Output, Pipeline, Reject, Retry, Transaction
from processor.engine.admission import HALT_UNKNOWN_TYPE
from processor.engine.batch import Handled, Partition, Record, Slice, Tried
from processor.engine.dead_letter_topic import PREFIX, DeadLetterTopic
from processor.engine.decoding import Decoding
from processor.engine.failures import (
    DatabaseDoubt,
    Deadlock,
    Restart,
    StatementFailed,
    StatementRefused,
)
from processor.engine.handling import Handling
from processor.engine.isolation import Isolation
from processor.engine.sealing import Sealer
from processor.engine.triage import MAX_RETRY_SECONDS, Triage, back_off_seconds
from processor.errors import OutputTooLarge, PipelineError
from processor.writes import CopyWrite, UpsertWrite
from tests.support.engine import free_steps
from tests.support.messages import TIMESTAMP, Raw
from tests.support.stores import ListSession, ListStore

FIRST, SECOND, THIRD = (Partition("input", number) for number in range(3))
TABLE = Table("numbers", MetaData(), Column("n", Integer))
TOTALS = Table(
    "totals", MetaData(), Column("n", Integer, primary_key=True), Column("total", Integer)
)
NO_LIMIT = 10**9


class Add(msgspec.Struct, tag_field="type", tag="add"):
    n: int


class Remove(msgspec.Struct, tag_field="type", tag="remove"):
    n: int


def add(n: int) -> bytes:
    return msgspec.json.encode(Add(n))


@dataclass
class Bench:
    """A pipeline over the store of lists."""

    pipeline: Pipeline
    max_output_bytes: int = NO_LIMIT
    max_seconds: float = 1_000.0
    max_message_bytes: int = 1_000
    store: ListStore = field(default_factory=ListStore)
    now: float = 0.0

    def __post_init__(self) -> None:
        store: Any = self.store
        limits = dict.fromkeys(self.pipeline.outputs, self.max_message_bytes)
        sealer = Sealer(self.pipeline.outputs, limits)
        name = self.pipeline.dead_letter_topic
        topic = None if name is None else DeadLetterTopic(name, sealer)
        self.handling = Handling(
            Decoding(self.pipeline.routes),
            sealer,
            store,
            free_steps(),
            self.max_output_bytes,
            limit_seconds=30,
            max_seconds=self.max_seconds,
            clock=lambda: self.now,
            triage=Triage(self.pipeline.max_dead_letter_ratio, topic=topic),
        )
        self.isolation = Isolation(self.handling, free_steps())

    def careful(self, slices: Sequence[Slice]) -> list[Handled]:
        run = self.handling.handle(slices, careful=True)
        self.handling.flush(run)
        return run.handled

    def isolated(self, slices: Sequence[Slice]) -> list[Handled]:
        return self.isolation.run(slices)

    @property
    def rows(self) -> list[int]:
        """The numbers written, in order."""
        copies = [write for write in self.store.session.writes if write[0] == "copy"]
        return [row[0] for write in copies for row in write[2]]


def piece(values: Sequence[bytes | None], first: int = 0, partition: Partition = FIRST) -> Slice:
    """Messages at consecutive offsets."""
    messages = [Raw(offset, value, partition) for offset, value in enumerate(values, start=first)]
    return Slice(partition, first, messages)


def adding(**options: Any) -> Bench:
    """Inserts each number and tells it on; what a number does can be changed by ``acts``."""
    ratio: float = options.pop("max_dead_letter_ratio", 1)
    on_failure: Any = options.pop("on_failure", "dead-letter")
    session: ListSession | None = options.pop("session", None)
    pipeline = Pipeline(
        "numbers",
        outputs=["out"],
        unknown=options.pop("unknown", "dead-letter"),
        max_dead_letter_ratio=ratio,
        dead_letter_topic=options.pop("dead_letter_topic", None),
    )
    acts: dict[int, Any] = options.pop("acts", {})
    attempts: int = options.pop("max_attempts", 3)

    @pipeline.handler("input", max_attempts=attempts, on_failure=on_failure)
    def added(event: Add, tx: Transaction) -> Iterator[Output]:
        tx.insert(TABLE, {"n": event.n})
        yield Output("out", value=str(event.n).encode())
        if event.n in acts:
            acts[event.n]()

    bench = Bench(pipeline, **options)
    if session is not None:
        bench.store.session = session
    return bench


def raising(error: Exception, times: int = 10**6) -> Any:
    """Raises so many times, then no more."""
    left = [times]

    def act() -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return act


def values_of(handled: Handled) -> list[bytes | None]:
    return [record.value for record in handled.records]


# The fast path


def test_a_batch_is_handled_whole_and_flushed_once() -> None:
    bench = adding()
    first, second = bench.handling.run([piece([add(1), add(2)], 5), piece([add(3)], 9, SECOND)])
    assert (first.first, first.next, first.handled) == (5, 7, 2)
    assert (second.first, second.next, second.handled) == (9, 10, 1)
    assert values_of(first) == [b"1", b"2"]
    assert values_of(second) == [b"3"]
    assert first.leader_epoch == 7
    assert bench.store.session.writes == [("copy", "numbers", ((1,), (2,), (3,)))]


def test_outputs_carry_their_messages_offset_and_timestamp() -> None:
    [handled] = adding().handling.run([piece([add(1), add(2)], 5)])
    assert [record.source_offset for record in handled.records] == [5, 6]
    assert [record.timestamp for record in handled.records] == [TIMESTAMP + 5, TIMESTAMP + 6]


def test_gaps_belong_to_the_range_that_was_handled() -> None:
    slice_ = Slice(FIRST, 3, [Raw(5, add(1)), Raw(9, add(2))])
    [handled] = adding().handling.run([slice_])
    assert (handled.first, handled.next) == (3, 10)


def test_a_batch_is_cut_when_its_outputs_grow_too_large() -> None:
    bench = adding(max_output_bytes=20)
    big = 10**11  # 12 bytes each
    [first, second] = bench.handling.run(
        [piece([add(big), add(big + 1), add(big + 2)], 5), piece([add(3)], 9, SECOND)]
    )
    assert (first.next, values_of(first)) == (7, [b"%d" % big, b"%d" % (big + 1)])
    assert [raw.at for raw in first.rest] == [7]
    assert (second.next, second.records) == (9, [])
    assert [raw.at for raw in second.rest] == [9]
    assert bench.rows == [big, big + 1], "what is left for later is not written either"


def test_a_cut_batch_always_makes_progress() -> None:
    bench = adding(max_output_bytes=1)
    [handled] = bench.handling.run([piece([add(10**11), add(2)], 5)])
    assert handled.next == 6
    assert [raw.at for raw in handled.rest] == [6]


@pytest.mark.parametrize("path", ["handling", "isolation"])
def test_a_batch_is_cut_when_its_time_is_over(path: str) -> None:
    """Slow handlers make small batches, not a worker that seems to hang."""
    bench = passing(0.9)
    first, second, third = getattr(bench, path).run(
        [piece([add(n) for n in range(5)]), piece([add(7)], 0, SECOND), piece([add(8)], 0, THIRD)]
    )
    assert (first.next, [raw.at for raw in first.rest]) == (1, [1, 2, 3, 4])
    assert (second.next, second.rest) == (1, [])
    assert (third.next, third.rest) == (1, []), "there were 0.2 s left"
    assert [each.seconds for each in (first, second, third)] == pytest.approx([0.9, 0.9, 0.9])
    bench.now += 100
    slow = passing(3.0)
    first, second = getattr(slow, path).run(
        [piece([add(n) for n in range(5)]), piece([add(7)], 0, SECOND)]
    )
    assert (first.next, [raw.at for raw in first.rest]) == (1, [1, 2, 3, 4])
    assert (second.next, [raw.at for raw in second.rest]) == (0, [0]), "the time was over"


@pytest.mark.parametrize("path", ["handling", "isolation"])
def test_a_slice_alone_has_all_the_time(path: str) -> None:
    bench = passing(0.9)
    [first] = getattr(bench, path).run([piece([add(n) for n in range(5)])])
    assert (first.next, [raw.at for raw in first.rest]) == (3, [3, 4])
    bench.now += 100
    [handled] = getattr(bench, path).run([Slice(FIRST, 3, first.rest)])
    assert handled.next == 5, "each batch has its own time"


def passing(seconds: float) -> Bench:
    """Each message takes so long; a batch has two seconds."""
    acts: dict[int, Any] = {}
    bench = adding(max_seconds=2.0, acts=acts)

    def pass_time() -> None:
        bench.now += seconds

    acts.update(dict.fromkeys(range(10), pass_time))
    return bench


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=12), st.integers(1, 60))
def test_cutting_loses_and_repeats_nothing(numbers: list[int], room: int) -> None:
    bench = adding(max_output_bytes=room)
    slice_, found = piece([add(n) for n in numbers], 3), []
    while slice_.messages:
        [handled] = bench.handling.run([slice_])
        assert handled.next > handled.first == slice_.first
        found += values_of(handled)
        slice_ = Slice(FIRST, handled.next, handled.rest)
    assert found == [b"%d" % n for n in numbers]
    assert bench.rows == numbers
    assert slice_.first == 3 + len(numbers)


@pytest.mark.parametrize("value", [b"not json", b'{"type": "add"}', b"[]", None, b""])
def test_what_cannot_be_decoded_is_dead_lettered_alone(value: bytes | None) -> None:
    bench = adding()
    [handled] = bench.handling.run([piece([add(1), value, add(2)])])
    assert (handled.next, handled.handled, bench.rows) == (3, 2, [1, 2])
    [letter] = handled.dead_letters
    assert (letter.partition, letter.offset, letter.value, letter.attempts) == (FIRST, 1, value, 1)
    assert (letter.error, letter.handler, letter.trace) == ("DecodeError", None, None)
    assert letter.reason


def test_a_message_without_a_type_is_not_taken_for_the_only_type_there_is() -> None:
    """Else a second handler for another type would change what becomes of it."""
    bench = adding()
    [handled] = bench.handling.run([piece([b'{"n": 1}'])])
    assert bench.rows == []
    assert len(handled.dead_letters) == 1


def test_a_dead_letter_holds_the_message_as_it_came() -> None:
    raw = Raw(4, b"\xff\x00", name=b"\x00key", pairs=[("h", b"\xff"), ("h", None)])
    [handled] = adding().handling.run([Slice(FIRST, 4, [raw])])
    [letter] = handled.dead_letters
    assert (letter.key, letter.value) == (b"\x00key", b"\xff\x00")
    assert list(letter.headers) == [("h", b"\xff"), ("h", None)]
    assert letter.timestamp == TIMESTAMP + 4


def test_a_type_without_a_handler_is_dead_lettered() -> None:
    bench = adding()
    [handled] = bench.handling.run([piece([msgspec.json.encode(Remove(1)), add(2)])])
    [letter] = handled.dead_letters
    assert letter.error == "UnknownType"
    assert "'remove'" in letter.reason
    assert (handled.next, bench.rows) == (2, [2])


def test_a_type_without_a_handler_is_skipped_where_the_pipeline_says_so() -> None:
    bench = adding(unknown="skip")
    [handled] = bench.handling.run([piece([msgspec.json.encode(Remove(1)), add(2)])])
    assert (handled.skipped, handled.handled, handled.dead_letters) == (1, 1, [])
    assert (handled.next, bench.rows) == (2, [2])


def test_a_type_without_a_handler_halts_before_it_where_the_pipeline_says_so() -> None:
    bench = adding(unknown="halt")
    [handled] = bench.handling.run([piece([add(1), msgspec.json.encode(Remove(1)), add(2)])])
    assert (handled.next, bench.rows, handled.dead_letters) == (1, [1], [])
    assert handled.stop is not None
    assert (handled.stop.reason, handled.stop.retry_after_seconds) == (HALT_UNKNOWN_TYPE, None)


def test_undecodable_is_not_the_same_as_unknown() -> None:
    bench = adding(unknown="halt")
    [handled] = bench.handling.run([piece([b"{", add(2)])])
    assert handled.stop is None
    assert len(handled.dead_letters) == 1


@pytest.mark.parametrize("error", [ValueError("x"), Reject("x"), Retry("x"), Halt("x")])
def test_an_error_of_a_handler_ends_the_fast_path_as_it_is(error: Exception) -> None:
    bench = adding(acts={2: raising(error)})
    with pytest.raises(type(error)):
        bench.handling.run([piece([add(1), add(2)])])


def test_an_error_that_a_handler_swallows_is_not_forgotten() -> None:
    """Postgres has aborted the transaction: nothing of the batch may pass for fine."""
    pipeline = Pipeline("careless")

    @pipeline.handler("input")
    def careless(event: Add, tx: Transaction) -> None:
        try:
            tx.execute("SELECT 1/0")
        except StatementFailed:
            tx.insert(TABLE, {"n": event.n})

    bench = Bench(pipeline)
    bench.store.session.errors = [StatementFailed("division by zero")]
    with pytest.raises(StatementFailed):
        bench.handling.run([piece([add(1)])])


# Batch handlers


@dataclass
class Batches:
    """What a batch handler was called with."""

    seen: list[list[int]] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)

    def bench(self, **options: Any) -> Bench:
        pipeline = Pipeline("batches", outputs=["out"], unknown=options.pop("unknown", "skip"))

        @pipeline.batch_handler("input", max_attempts=2)
        def batch(messages: Sequence[Message[Add]], tx: Transaction) -> Iterator[Output]:
            self.seen.append([message.value.n for message in messages])
            for message in messages:
                tx.insert(TABLE, {"n": message.value.n})
                if message.value.n in self.bad:
                    raise ValueError(message.value.n)
            yield Output("out", value=b"%d" % len(messages))

        return Bench(pipeline, **options)


def test_a_batch_handler_gets_one_partitions_messages_together() -> None:
    batches = Batches()
    bench = batches.bench()
    first, second = bench.handling.run([piece([add(1), add(2)], 5), piece([add(3)], 9, SECOND)])
    assert batches.seen == [[1, 2], [3]]
    assert (first.next, first.handled, values_of(first)) == (7, 2, [b"2"])
    assert (second.next, second.handled, values_of(second)) == (10, 1, [b"1"])
    assert [record.source_offset for record in first.records] == [None]
    assert [record.timestamp for record in first.records] == [TIMESTAMP + 6]


def test_a_batch_handler_does_not_see_what_cannot_be_decoded() -> None:
    batches = Batches()
    [handled] = batches.bench().handling.run([piece([add(1), b"{", add(2)])])
    assert batches.seen == [[1, 2]]
    assert [letter.offset for letter in handled.dead_letters] == [1]
    assert handled.next == 3


def test_a_batch_handler_is_not_called_for_nothing() -> None:
    batches = Batches()
    [handled] = batches.bench().handling.run([piece([b"{", msgspec.json.encode(Remove(1))])])
    assert batches.seen == []
    assert (handled.next, handled.skipped, len(handled.dead_letters)) == (2, 1, 1)


def test_an_unknown_type_halts_a_batch_handler_without_passing_over_what_came_before() -> None:
    """H moves to ``next``: whatever is below it must have been handled."""
    batches = Batches()
    bench = batches.bench(unknown="halt")
    [handled] = bench.handling.run([piece([add(1), msgspec.json.encode(Remove(1)), add(2)])])
    assert handled.stop is not None
    seen = [n for batch in batches.seen for n in batch]
    assert seen == [1][: handled.next], "below next everything was handled"


def test_a_failed_batch_handler_gets_fewer_and_fewer_messages() -> None:
    batches = Batches(bad={2})
    bench = batches.bench()
    [handled] = bench.isolation.run([piece([add(1), add(2), add(3)])])
    assert batches.seen == [[1, 2, 3], [1], [2, 3], [2], [2], [3]]
    assert [letter.offset for letter in handled.dead_letters] == [1]
    assert (handled.next, handled.handled, bench.rows) == (3, 2, [1, 3])


# With care


def test_a_handler_that_fails_costs_its_message_alone_and_nothing_is_rolled_back() -> None:
    bench = adding(acts={2: raising(ValueError("bad")), 4: raising(Reject("no"))})
    [handled] = bench.careful([piece([add(1), add(2), add(3), add(4), add(5)])])
    assert (handled.next, handled.handled) == (5, 3)
    assert bench.rows == [1, 3, 5]
    assert values_of(handled) == [b"1", b"3", b"5"]
    assert [(each.offset, each.attempts) for each in handled.dead_letters] == [(1, 3), (3, 1)]
    assert bench.store.savepoints == 0
    assert len(bench.store.session.writes) == 1, "one flush"


def test_with_care_what_is_read_back_of_a_buffer_is_what_was_written() -> None:
    pipeline = Pipeline("merging")

    @pipeline.handler("input", max_attempts=1)
    def merging(event: Add, tx: Transaction) -> None:
        row = {"n": event.n % 2, "total": event.n}
        tx.upsert(TOTALS, row, add=["total"])
        row["total"] = 10**6
        if event.n == 3:
            raise ValueError(event.n)

    bench = Bench(pipeline)
    bench.careful([piece([add(n) for n in range(1, 6)])])
    [(_, _, rows)] = bench.store.session.writes
    assert rows == ((0, 6), (1, 6)), "without the 3, and as each row was at the call"


def test_a_handler_that_has_asked_postgres_and_fails_is_left_to_isolation() -> None:
    pipeline = Pipeline("asking")

    @pipeline.handler("input", max_attempts=1)
    def asking(event: Add, tx: Transaction) -> None:
        tx.insert(TABLE, {"n": event.n})
        if event.n == 2:
            tx.execute("UPDATE something")
            raise ValueError(event.n)

    bench = Bench(pipeline)
    with pytest.raises(ValueError, match="2"):
        bench.careful([piece([add(1), add(2), add(3)])])
    [handled] = bench.isolation.run([piece([add(1), add(2), add(3)])])
    assert [letter.offset for letter in handled.dead_letters] == [1]
    assert (handled.next, handled.handled) == (3, 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Halt("look at this"), "handler-halt"),
        (PipelineError("topic 'x' is not declared"), "pipeline-error"),
        (Retry("later"), "retry"),
    ],
)
def test_with_care_a_partition_stops_before_the_message(error: Exception, reason: str) -> None:
    bench = adding(acts={2: raising(error)})
    first, second = bench.careful([piece([add(1), add(2), add(3)]), piece([add(4)], 7, SECOND)])
    assert first.stop is not None
    assert (first.next, first.stop.reason, first.dead_letters) == (1, reason, [])
    assert second.next == 8
    assert bench.rows == [1, 4]


# What becomes of a message that is given up


@pytest.mark.parametrize("path", ["careful", "isolated"])
def test_a_failed_message_is_only_counted_where_it_is_to_be_skipped(path: str) -> None:
    bench = adding(acts={2: raising(ValueError("bad"))}, on_failure="skip")
    [handled] = getattr(bench, path)([piece([add(1), add(2), add(3)])])
    assert (handled.next, handled.handled, handled.skipped) == (3, 2, 1)
    assert (handled.dead_letters, bench.rows) == ([], [1, 3])


@pytest.mark.parametrize("path", ["careful", "isolated"])
def test_a_failed_message_stops_its_partition_where_it_is_to_halt(path: str) -> None:
    bench = adding(acts={2: raising(ValueError("bad"))}, on_failure="halt")
    [handled] = getattr(bench, path)([piece([add(1), add(2), add(3)])])
    assert handled.stop is not None
    assert (handled.stop.reason, handled.stop.retry_after_seconds) == ("message-failed", None)
    assert handled.stop.detail == "added at offset 1: bad"
    assert (handled.next, bench.rows) == (1, [1])


class TestTooManyDeadLetters:
    """A bad deployment must not dead-letter a topic."""

    def acts(self, *bad: int) -> dict[int, Any]:
        return {n: raising(Reject("bad")) for n in bad}

    @pytest.mark.parametrize("path", ["careful", "isolated"])
    def test_a_partition_halts_in_front_of_the_next_one(self, path: str) -> None:
        bench = adding(acts=self.acts(*range(500)), max_dead_letter_ratio=0.5)
        [handled] = getattr(bench, path)([piece([add(n) for n in range(500)])])
        assert handled.stop is not None
        assert handled.stop.reason == "too-many-dead-letters"
        assert handled.stop.retry_after_seconds is None
        assert (handled.next, len(handled.dead_letters)) == (100, 100)

    def test_what_cannot_be_decoded_counts(self) -> None:
        bench = adding(max_dead_letter_ratio=0.1)
        [handled] = bench.handling.run([piece([b"{"] * 50)])
        assert handled.stop is not None
        assert (handled.stop.reason, handled.next) == ("too-many-dead-letters", 20)

    @pytest.mark.parametrize("size", [1, 7, 200, 1_000])
    def test_only_the_last_200_messages_count_whatever_the_batches(self, size: int) -> None:
        every_second = adding(
            acts=self.acts(*range(0, 1_000, 2)), max_dead_letter_ratio=0.5, max_attempts=1
        )
        assert self.in_batches(every_second, 1_000, size) == (1_000, 500)
        first_half = adding(acts=self.acts(*range(150)), max_dead_letter_ratio=0.5)
        assert self.in_batches(first_half, 1_000, size) == (100, 100)

    def in_batches(self, bench: Bench, count: int, size: int) -> tuple[int, int]:
        letters = at = 0
        while at < count:
            values = [add(n) for n in range(at, min(at + size, count))]
            [handled] = bench.careful([piece(values, at)])
            letters += len(handled.dead_letters)
            at = handled.next
            if handled.stop is not None:
                break
        return at, letters

    def test_a_batch_that_is_handled_again_does_not_count_twice(self) -> None:
        bench = adding(acts=self.acts(*range(0, 60)), max_dead_letter_ratio=0.5)
        for _ in range(3):
            [handled] = bench.careful([piece([add(n) for n in range(60)])])
            assert (handled.stop, len(handled.dead_letters)) == (None, 60)
        [behind] = bench.careful([piece([add(n) for n in range(60, 120)], 60)])
        assert behind.stop is None

    def test_after_it_was_resumed_it_goes_on(self) -> None:
        bench = adding(acts=self.acts(*range(500)), max_dead_letter_ratio=0.5)
        assert self.in_batches(bench, 500, 500) == (100, 100)
        [handled] = bench.careful([piece([add(n) for n in range(100, 500)], 100)])
        assert handled.next == 200

    def test_partitions_are_counted_apart(self) -> None:
        bench = adding(acts=self.acts(*range(120)), max_dead_letter_ratio=0.5)
        values = [add(n) for n in range(60)]
        both = bench.careful([piece(values), piece(values, 0, SECOND)])
        assert [each.stop for each in both] == [None, None]

    def test_a_ratio_of_one_never_halts(self) -> None:
        bench = adding(acts=self.acts(*range(500)), max_dead_letter_ratio=1)
        assert self.in_batches(bench, 500, 100) == (500, 500)

    @pytest.mark.parametrize("ratio", [-0.1, 1.1])
    def test_a_ratio_is_a_ratio(self, ratio: float) -> None:
        with pytest.raises(PipelineError, match="between 0 and 1"):
            Pipeline("name", max_dead_letter_ratio=ratio)


def test_on_failure_names_what_there_is() -> None:
    with pytest.raises(PipelineError, match="not one of dead-letter, skip, halt"):
        adding(on_failure="explode")


# Isolation


class Violation(psycopg.errors.CheckViolation):
    """Told of by COPY, or without saying where."""

    def __init__(self, line: int | None) -> None:
        super().__init__("no")
        self.line = line

    @property
    def diag(self) -> Any:
        where = None if self.line is None else f"COPY numbers, line {self.line}: ..."
        return SimpleNamespace(context=where)


class Unacceptable(ListSession):
    """Refuses to copy some numbers, as a constraint would; COPY's context names the line."""

    def __init__(self, *bad: int, context: bool = True) -> None:
        super().__init__()
        self.bad, self.context = frozenset(bad), context

    def copy(self, write: CopyWrite) -> None:
        for line, row in enumerate(write.rows, start=1):
            if row[0] in self.bad:
                cause = Violation(line if self.context else None)
                raise StatementFailed("no (23514)") from cause
        super().copy(write)


@pytest.mark.parametrize("context", [True, False], ids=["the line is known", "it is not"])
def test_what_the_database_refuses_is_found_in_few_tries(context: bool) -> None:
    bench = adding(session=Unacceptable(30, 31, 350, context=context))
    [handled] = bench.isolation.run([piece([add(n) for n in range(400)])])
    assert [letter.offset for letter in handled.dead_letters] == [30, 31, 350]
    good = [n for n in range(400) if n not in (30, 31, 350)]
    assert bench.rows == good
    assert values_of(handled) == [b"%d" % n for n in good]
    assert bench.store.open_savepoints == 0
    assert bench.isolation.failures <= (6 if context else 24)


OTHERS = Table("others", MetaData(), Column("n", Integer))


def test_a_line_of_one_of_several_copies_is_a_guess_and_sets_nobody_aside_by_itself() -> None:
    """The second table's first line is of the thirtieth message."""

    class OfOneTable(Unacceptable):
        def copy(self, write: CopyWrite) -> None:
            if write.table is OTHERS:
                super().copy(write)
            else:
                ListSession.copy(self, write)

    pipeline = Pipeline("two-tables", max_dead_letter_ratio=1)

    @pipeline.handler("input")
    def added(event: Add, tx: Transaction) -> None:
        tx.insert(TABLE, {"n": event.n})
        if event.n == 30:
            tx.insert(OTHERS, {"n": event.n})

    bench = Bench(pipeline)
    bench.store.session = OfOneTable(30)
    [handled] = bench.isolation.run([piece([add(n) for n in range(100)])])
    assert [letter.offset for letter in handled.dead_letters] == [30]
    assert bench.rows == [n for n in range(100) if n != 30]


class Unmergeable(ListSession):
    """Refuses to upsert the rows of some keys, without a word on which."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = frozenset(bad)

    def upsert(self, write: UpsertWrite) -> None:
        if any(row[0] in self.bad for row in write.rows):
            self.refused_upsert = write
            self.failure = StatementFailed("out of range (22003)")
            raise self.failure
        super().upsert(write)


def totalling(session: ListSession, key: Callable[[int], int]) -> Bench:
    pipeline = Pipeline("totals", max_dead_letter_ratio=1)

    @pipeline.handler("input")
    def added(event: Add, tx: Transaction) -> None:
        tx.upsert(TOTALS, {"n": key(event.n), "total": 1}, add=["total"])

    bench = Bench(pipeline)
    bench.store.session = session
    return bench


def test_whose_row_of_an_upsert_is_refused_is_found_without_flushing_the_rest_again() -> None:
    bench = totalling(Unmergeable(30, 31, 350), key=lambda n: n)
    [handled] = bench.isolation.run([piece([add(n) for n in range(400)])])
    assert [letter.offset for letter in handled.dead_letters] == [30, 31, 350]
    merged = [row[0] for write in bench.store.session.writes for row in write[2]]
    assert sorted(merged) == [n for n in range(400) if n not in (30, 31, 350)]
    assert bench.store.open_savepoints == 0
    assert bench.isolation.failures <= 6


def test_a_row_that_several_messages_have_written_is_no_guess() -> None:
    """Each of them is tried by itself then, and all of this key are refused."""
    bench = totalling(Unmergeable(0), key=lambda n: n % 40)
    [handled] = bench.isolation.run([piece([add(n) for n in range(100)])])
    assert [letter.offset for letter in handled.dead_letters] == [0, 40, 80]
    assert handled.handled == 97


def test_handlers_that_ask_nothing_run_once_however_often_their_group_is_parted() -> None:
    seen: list[int] = []
    acts = {n: partial(seen.append, n) for n in range(100)}
    bench = adding(session=Unacceptable(30, 31, 70, context=False), acts=acts)
    [handled] = bench.isolation.run([piece([add(n) for n in range(100)])])
    good = [n for n in range(100) if n not in (30, 31, 70)]
    assert seen == list(range(100))
    assert bench.rows == good
    assert values_of(handled) == [b"%d" % n for n in good]
    assert (handled.next, handled.handled) == (100, 97)
    assert handled.output_bytes == sum(each.output_bytes for each in alone(good))


def alone(numbers: Sequence[int]) -> list[Handled]:
    """Each by itself."""
    return [adding().isolation.run([piece([add(n)])])[0] for n in numbers]


def test_a_bad_message_is_set_aside_alone_with_nothing_of_it_left() -> None:
    bench = adding(acts={2: raising(ValueError("bad"))})
    [handled] = bench.isolation.run([piece([add(1), add(2), add(3)])])
    assert (handled.next, handled.handled) == (3, 2)
    assert bench.rows == [1, 3]
    assert values_of(handled) == [b"1", b"3"]
    [letter] = handled.dead_letters
    assert (letter.offset, letter.attempts, letter.handler) == (1, 3, "added")
    assert (letter.error, letter.reason) == ("ValueError", "bad")
    assert "ValueError: bad" in (letter.trace or "")
    assert bench.store.open_savepoints == 0


def test_an_error_that_passes_leaves_one_effect() -> None:
    bench = adding(acts={2: raising(ValueError("at first"), times=2)})
    [handled] = bench.isolation.run([piece([add(1), add(2)])])
    assert handled.dead_letters == []
    assert bench.rows == [1, 2]
    assert values_of(handled) == [b"1", b"2"]


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_attempts_are_bounded_by_the_handlers_number(max_attempts: int) -> None:
    bench = adding(acts={1: raising(ValueError("bad"))}, max_attempts=max_attempts)
    [handled] = bench.isolation.run([piece([add(1)])])
    assert [letter.attempts for letter in handled.dead_letters] == [max_attempts]


def test_reject_is_not_tried_again() -> None:
    bench = adding(acts={1: raising(Reject("no such user"))})
    [handled] = bench.isolation.run([piece([add(1)])])
    [letter] = handled.dead_letters
    assert (letter.attempts, letter.error, letter.reason) == (1, "Reject", "no such user")


def test_a_violated_constraint_is_the_messages_fault() -> None:
    bench = adding()
    duplicate = StatementFailed("duplicate key (23505)")
    bench.store.session.errors = [duplicate, None, duplicate, duplicate, None]
    [handled] = bench.isolation.run([piece([add(1), add(1), add(2)])])
    [letter] = handled.dead_letters
    assert (letter.offset, letter.attempts) == (1, 1), "the same data again would fail again"
    assert bench.rows == [1, 2]


def test_an_output_that_is_too_large_is_dead_lettered_with_the_reason() -> None:
    bench = adding(max_message_bytes=260)
    [handled] = bench.isolation.run([piece([add(1), add(10**18), add(2)])])
    assert bench.rows == [1, 2]
    [letter] = handled.dead_letters
    assert letter.error == OutputTooLarge.__name__
    assert "'out' takes 260" in letter.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Halt("look at this"), "handler-halt"),
        (PipelineError("topic 'x' is not declared"), "pipeline-error"),
    ],
)
def test_what_stops_a_partition_stops_it_before_the_message(error: Exception, reason: str) -> None:
    bench = adding(acts={2: raising(error)})
    first, second = bench.isolation.run(
        [piece([add(1), add(2), add(3)]), piece([add(4)], 7, SECOND)]
    )
    assert (first.next, first.dead_letters) == (1, [])
    assert first.stop is not None
    assert (first.stop.reason, first.stop.detail) == (reason, f"added at offset 1: {error}")
    assert first.stop.retry_after_seconds is None
    assert second.next == 8, "the other partition goes on"
    assert bench.rows == [1, 4]


def test_retry_waits_for_as_long_as_it_says_and_a_little() -> None:
    bench = adding(acts={2: raising(Retry("later", after=7.5))})
    [handled] = bench.isolation.run([piece([add(1), add(2), add(3)])])
    assert handled.stop is not None
    assert handled.stop.reason == "retry"
    assert 7.5 <= (handled.stop.retry_after_seconds or 0) <= 9
    assert (handled.next, bench.rows) == (1, [1])


@pytest.mark.parametrize(("after", "waits"), [(-1, 0), (10**9, MAX_RETRY_SECONDS)])
def test_retry_is_kept_within_reason(after: float, waits: float) -> None:
    bench = adding(acts={1: raising(Retry(after=after))})
    [handled] = bench.isolation.run([piece([add(1)])])
    assert handled.stop is not None
    assert waits <= (handled.stop.retry_after_seconds or 0) <= 1.2 * waits


@pytest.mark.parametrize("after", [None, True, "5", timedelta(seconds=5), float("nan")])
def test_retry_wants_a_number_of_seconds(after: Any) -> None:
    with pytest.raises(ValueError, match="not a number of seconds"):
        Retry(after=after)


def test_retries_are_counted_across_batches_and_then_dead_lettered() -> None:
    bench = adding(acts={1: raising(Retry("later"))}, max_attempts=3)
    outcomes = [bench.isolation.run([piece([add(1)], 5)])[0] for _ in range(3)]
    assert [handled.stop is not None for handled in outcomes] == [True, True, False]
    first, second = (each.stop.retry_after_seconds or 0 for each in outcomes if each.stop)
    assert 1 <= first <= 1.2
    assert 2 <= second <= 2.4
    assert [letter.attempts for letter in outcomes[-1].dead_letters] == [3]


def test_attempts_of_another_worker_count_as_well() -> None:
    bench = adding(acts={1: raising(Retry("later"))}, max_attempts=3)
    bench.handling.triage.remember(FIRST, Tried(5, 1, 60.0))
    [handled] = bench.isolation.run([piece([add(1)], 5)])
    assert handled.stop is not None
    assert handled.stop.tried is not None
    assert (handled.stop.tried.offset, handled.stop.tried.attempts) == (5, 2)
    [handled] = bench.isolation.run([piece([add(1)], 5)])
    [letter] = handled.dead_letters
    assert letter.attempts == 3
    assert 60 <= letter.failing_seconds < 61


class TestFingerprint:
    """Errors of one kind have the same one, whatever their messages hold."""

    @staticmethod
    def of(*errors: Exception, topic: str = "input") -> list[str]:
        acts = {n: raising(error) for n, error in enumerate(errors)}
        bench = adding(acts=acts, max_attempts=1)
        [handled] = bench.handling.handle([piece(list(map(add, acts)))], careful=True).handled
        assert [letter.partition.topic for letter in handled.dead_letters] == [topic] * len(errors)
        return [letter.fingerprint for letter in handled.dead_letters]

    def test_what_varies_with_the_message_does_not_count(self) -> None:
        one, other = self.of(
            ValueError("order 17 of 'ann' (id 1f) has no amount"),
            ValueError("order 18 of 'bob' (id 2f) has no amount"),
        )
        assert one == other
        assert re.fullmatch("[0-9a-f]{16}", one)

    def test_class_and_words_count(self) -> None:
        assert len(set(self.of(ValueError("a"), KeyError("a"), ValueError("b")))) == 3


class TestDeadLetterTopic:
    """One record for each dead letter, in its place among the outputs."""

    TEXTS = ("exception", "message", "handler", "attempts", "topic", "partition", "offset")

    @staticmethod
    def bench(error: Exception, **options: Any) -> Bench:
        return adding(acts={2: raising(error)}, max_attempts=1, dead_letter_topic="dead", **options)

    @staticmethod
    def told(record: Record) -> dict[str, str]:
        pairs = [(name, value or b"") for name, value in record.headers]
        return {name.removeprefix(PREFIX): value.decode() for name, value in pairs}

    @pytest.mark.parametrize("path", ["careful", "isolated"])
    def test_a_record_says_what_went_wrong(self, path: str) -> None:
        bench = self.bench(ValueError("no amount"), max_message_bytes=9_000)
        [handled] = getattr(bench, path)([piece([add(1), add(2), add(3)], 5)])
        assert [record.topic for record in handled.records] == ["out", "dead", "out"]
        record, [letter] = handled.records[1], handled.dead_letters
        assert (record.key, record.value, record.source_offset) == (b"key", add(2), 6)
        assert record.timestamp == TIMESTAMP + 6
        told = self.told(record)
        assert [told[each] for each in self.TEXTS] == [
            *("ValueError", "no amount", "added", "1", "input", "0", "6")
        ]
        assert told["stacktrace"].strip().endswith("ValueError: no amount")
        assert told["fingerprint"] == letter.fingerprint

    def test_what_cannot_be_decoded_goes_there_too_with_its_headers(self) -> None:
        bench = self.bench(ValueError(), max_message_bytes=9_000)
        message = Raw(0, b"{", pairs=[("a", b"1"), ("processor-source", b"of another")])
        [handled] = bench.handling.run([Slice(FIRST, 0, [message])])
        [record] = handled.records
        assert (record.topic, record.value) == ("dead", b"{")
        assert record.headers[0] == ("a", b"1")
        assert "processor-source" not in dict(record.headers)

    @pytest.mark.parametrize(
        ("room", "omitted", "has_value"),
        [(2_100, None, True), (1_800, "value", False), (1_690, "value, headers", False)],
    )
    def test_what_the_topic_does_not_take_is_left_out(
        self, room: int, omitted: str | None, has_value: bool
    ) -> None:
        bench = self.bench(ValueError("x" * 9_000), max_message_bytes=room)
        message = Raw(0, add(2) + b" " * 200, pairs=[("long", b"y" * 60)])
        [handled] = bench.handling.handle([Slice(FIRST, 0, [message])], careful=True).handled
        [record], [letter] = handled.records, handled.dead_letters
        assert self.told(record).get("omitted") == omitted
        assert (record.value == message.body) is has_value
        assert letter.value == message.body

    def test_where_it_takes_none_the_partition_halts(self) -> None:
        bench = self.bench(ValueError(), max_message_bytes=300)
        [handled] = bench.careful([piece([add(1), add(2)])])
        assert handled.stop is not None
        assert (handled.stop.reason, handled.next) == ("pipeline-error", 1)
        assert "dead-letter topic 'dead'" in handled.stop.detail
        assert handled.dead_letters == []


def test_a_retry_that_succeeds_is_forgotten() -> None:
    bench = adding(acts={1: raising(Retry("later"), times=2)}, max_attempts=3)
    for _ in range(3):
        [handled] = bench.isolation.run([piece([add(1)], 5)])
    bench.handling.triage.settled(FIRST, 6)
    assert (handled.stop, handled.dead_letters, handled.next) == (None, [], 6)
    assert bench.rows == [1]


def test_what_the_database_refuses_is_never_the_messages_fault() -> None:
    bench = adding(max_attempts=1)
    waits = []
    for _ in range(4):
        bench.store.session.errors = [StatementRefused("no such table (42P01)")] * 2
        [handled] = bench.isolation.run([piece([add(1), add(2)])])
        assert handled.dead_letters == []
        assert handled.next == 0
        assert handled.stop is not None
        assert handled.stop.reason == "database-refused"
        waits.append(handled.stop.retry_after_seconds)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    [handled] = bench.isolation.run([piece([add(1), add(2)])])
    assert (handled.stop, bench.rows) == (None, [1, 2])


@pytest.mark.parametrize("error", [DatabaseDoubt("gone"), Restart("serialization")])
def test_a_lost_connection_or_a_lost_race_concerns_the_whole_batch(error: Exception) -> None:
    bench = adding()
    bench.store.session.errors = [StatementFailed("bad"), None, error]
    with pytest.raises(type(error)):
        bench.isolation.run([piece([add(1), add(2)])])


@pytest.mark.parametrize("error", [DatabaseDoubt("gone"), Restart("serialization")])
def test_a_lost_connection_or_a_lost_race_is_no_attempt_of_the_message(error: Exception) -> None:
    """Infrastructure must not use up a good message's attempts."""
    bench = adding(max_attempts=2, acts={2: raising(ValueError("passes"), times=1)})
    for _ in range(3):
        bench.store.session.errors = [error]
        with pytest.raises(type(error)):
            bench.isolation.run([piece([add(2)], 0)])
        bench.store.session.failure = None  # the batch is rolled back
    [handled] = bench.isolation.run([piece([add(2)], 0)])
    assert handled.dead_letters == []
    assert bench.rows == [2]


def test_a_deadlock_is_tried_again_and_then_stops_the_partition_of_its_message_alone() -> None:
    bench = adding()
    deadlock = Deadlock("deadlock detected (40P01)")
    bench.store.session.errors = [deadlock, deadlock, None]
    [handled] = bench.isolation.run([piece([add(1)])])
    assert (handled.stop, bench.rows) == (None, [1])
    bench = adding()
    bench.store.session.errors = [deadlock] * 4
    first, second = bench.isolation.run([piece([add(1), add(2)]), piece([add(3)], 0, SECOND)])
    assert first.stop is not None
    assert (first.stop.reason, first.next, first.dead_letters) == ("database-refused", 0, [])
    assert (second.stop, bench.rows) == (None, [3])


def test_a_swallowed_error_undoes_its_message() -> None:
    pipeline = Pipeline("careless")

    @pipeline.handler("input", max_attempts=1)
    def careless(event: Add, tx: Transaction) -> None:
        tx.insert(TABLE, {"n": event.n})
        try:
            tx.execute("SELECT 1")
        except StatementFailed:
            return

    bench = Bench(pipeline)
    bench.store.session.errors = [None, StatementFailed("bad")] * 2
    [handled] = bench.isolation.run([piece([add(1), add(2)])])
    assert [letter.offset for letter in handled.dead_letters] == [0]
    assert bench.rows[-1:] == [2]
    assert 1 not in bench.rows


def test_message_by_message_a_batch_is_cut_for_its_outputs_as_well() -> None:
    """Else one bad message would make a transaction that takes too long to publish."""
    bench = adding(max_output_bytes=20, acts={7: raising(ValueError("bad"))})
    [handled] = bench.isolation.run([piece([add(10**11 + n) for n in range(10)])])
    assert 0 < handled.next < 10
    assert [raw.at for raw in handled.rest] == list(range(handled.next, 10))


@pytest.mark.parametrize("result", [Output("out", value=b"one"), 5, "text"], ids=repr)
def test_a_handler_that_returns_no_sequence_of_outputs_dead_letters_nothing(result: Any) -> None:
    """A bad deployment must not dead-letter a topic; one output alone is taken as it is."""
    pipeline = Pipeline("returning", outputs=["out"])

    @pipeline.handler("input")
    def returning(event: Add) -> Any:
        return result

    [handled] = Bench(pipeline).isolation.run([piece([add(1)])])
    assert handled.dead_letters == []
    if handled.stop is None:
        assert values_of(handled) == [b"one"]
    else:
        assert handled.stop.reason == "pipeline-error"


def test_the_back_off_doubles_up_to_a_limit() -> None:
    waits = [back_off_seconds(attempt) for attempt in range(1, 12)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


@pytest.mark.parametrize("path", ["handling", "isolation"])
def test_a_transaction_is_the_handlers_for_its_call_alone(path: str) -> None:
    """Later the connection may be at work for another batch."""
    kept: list[Transaction] = []
    pipeline = Pipeline("keeping")

    @pipeline.handler("input")
    def keeps(event: Add, tx: Transaction) -> None:
        assert event.n == 1
        kept.append(tx)

    getattr(Bench(pipeline), path).run([piece([add(1)])])
    [tx] = kept
    for use in (
        lambda: tx.insert(TABLE, {"n": 1}),
        lambda: tx.upsert(TABLE, {"n": 1}, key=["n"]),
        lambda: tx.execute("SELECT 1"),
        lambda: tx.fetch_one("SELECT 1"),
        tx.flush,
    ):
        with pytest.raises(PipelineError, match="after its handler's call"):
            use()
