"""``processor.testing``: dead letters handled again, keys parked and drained, with crashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table

from processor import Message, Output, Pipeline, Transaction
from processor.engine.steps import Step
from processor.testing import BATCH_STEPS, EDGES, PipelineTest, PipelineTestError

metadata = MetaData()
done = Table(
    "done",
    metadata,
    Column("at", BigInteger, primary_key=True, autoincrement=True),
    Column("n", BigInteger, nullable=False),
)
once = Table("once", metadata, Column("n", BigInteger, primary_key=True))


class Job(msgspec.Struct):
    n: int


mended: set[int] = set()


def worked(job: Job, message: Message[Job], tx: Transaction) -> Iterator[Output]:
    if job.n < 0 and job.n not in mended:
        raise ValueError(f"{job.n} is not mended")
    tx.insert(done, {"n": job.n})
    yield Output("told", key=message.key, value=job)


keyed = Pipeline("keyed", outputs=["told"], tables=metadata, max_dead_letter_ratio=1)
keyed.handler("jobs", on_failure="park-key")(worked)
told_of = Pipeline(
    "told-of", outputs=["told"], tables=metadata, max_dead_letter_ratio=1, dead_letter_topic="dead"
)
told_of.handler("jobs", on_failure="park-key")(worked)
plain = Pipeline("plain", outputs=["told"], tables=metadata, max_dead_letter_ratio=1)
plain.handler("jobs")(worked)


@pytest.fixture(autouse=True)
def nothing_is_mended() -> None:
    mended.clear()


def numbers(test: PipelineTest) -> list[int]:
    return [row["n"] for row in test.rows(done)]


def told(test: PipelineTest, key: bytes | None = None) -> list[Any]:
    return [each.json()["n"] for each in test.outputs("told") if key in (None, each.key)]


def test_a_letter_is_handled_again_once_it_is_mended() -> None:
    with PipelineTest(plain) as test:
        for n in (1, -2, 3):
            test.send("jobs", Job(n), key="a")
        [letter] = test.dead_letters()
        assert (letter.state, letter.attempts) == ("failed", 3)
        test.replay()
        [letter] = test.dead_letters()
        assert (letter.state, letter.attempts) == ("failed", 6)
        mended.add(-2)
        test.replay(letter)
        assert [each.state for each in test.dead_letters()] == ["replayed"]
        assert numbers(test) == told(test) == [1, 3, -2]


def test_a_letter_is_handled_with_another_value() -> None:
    with PipelineTest(plain) as test:
        test.send("jobs", b"no job")
        test.replay(value=Job(7))
        assert numbers(test) == told(test) == [7]
        [letter] = test.dead_letters()
        assert (letter.state, letter.value) == ("replayed", b"no job")


def test_parked_messages_follow_in_the_order_of_their_key() -> None:
    with PipelineTest(keyed, batch_max_messages=3) as test:
        for n in (1, -2, 3, 4):
            test.send("jobs", Job(n), key="a")
            test.send("jobs", Job(n * 10 if n > 0 else 20), key="b")
        states = [each.state for each in test.dead_letters()]
        assert states == ["failed", "parked", "parked"]
        assert told(test, b"b") == [10, 20, 30, 40]
        assert told(test, b"a") == [1]
        mended.add(-2)
        test.replay()
        test.send("jobs", Job(5), key="a")
        assert told(test, b"a") == [1, -2, 3, 4, 5]
        assert [n for n in numbers(test) if n < 10] == [1, -2, 3, 4, 5]
        assert {each.state for each in test.dead_letters()} == {"replayed"}


def test_what_fails_while_it_is_drained_stops_its_key_again() -> None:
    with PipelineTest(keyed) as test:
        for n in (-1, 2, -3, 4):
            test.send("jobs", Job(n), key="a")
        test.discard()
        states = [each.state for each in test.dead_letters()]
        assert states == ["discarded", "replayed", "failed", "parked"]
        assert told(test) == [2]
        mended.add(-3)
        test.replay()
        assert told(test) == numbers(test) == [2, -3, 4]


def test_each_first_failure_is_produced_to_the_topic_of_dead_letters() -> None:
    """Also of a message that was parked before it failed; not one that has failed before."""
    with PipelineTest(told_of) as test:
        for n in (-1, 2, -3, 4):
            test.send("jobs", Job(n), key="a")
        assert [each.json()["n"] for each in test.outputs("dead")] == [-1]
        test.replay()
        assert [each.json()["n"] for each in test.outputs("dead")] == [-1]
        test.discard()
        record = test.outputs("dead")[-1]
        headers = dict(record.headers)
        assert (record.json()["n"], headers["processor.errors.offset"]) == (-3, b"2")
        assert headers["processor.errors.topic"] == b"jobs"
        assert len(test.outputs("dead")) == 2


def test_a_message_without_a_key_parks_nothing() -> None:
    with PipelineTest(keyed) as test:
        for n in (-1, 2):
            test.send("jobs", Job(n))
        assert [each.state for each in test.dead_letters()] == ["failed"]
        assert told(test) == [2]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("step", [*BATCH_STEPS, Step.ASK])
@pytest.mark.parametrize("visit", [1, 2])
def test_a_crash_while_keys_are_drained_changes_nothing(step: Step, edge: str, visit: int) -> None:
    """At the first batch of the drain, and at the one that releases the key or goes on."""
    with PipelineTest(keyed) as test:
        for n in (-1, 2, 3):
            test.send("jobs", Job(n), key="a")
        letters = test.dead_letters()
        assert [each.state for each in letters] == ["failed", "parked", "parked"]
        mended.add(-1)
        test.crash_at(step, edge, visit=visit)
        test.replay(letters[0])
        test.send("jobs", Job(4), key="a")
        assert told(test) == numbers(test) == [-1, 2, 3, 4]
        assert {each.state for each in test.dead_letters()} == {"replayed"}


def test_what_there_is_not_cannot_be_replayed() -> None:
    with PipelineTest(plain) as test:
        test.send("jobs", Job(1))
        with pytest.raises(PipelineTestError, match="no dead letter that has failed"):
            test.replay()
        test.send("jobs", Job(-1))
        [letter] = test.dead_letters()
        test.discard(letter)
        with pytest.raises(PipelineTestError, match="no failed dead letter of jobs/0 at 1"):
            test.replay(letter)
