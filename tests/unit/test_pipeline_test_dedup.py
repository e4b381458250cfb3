"""Business keys in memory: what users' tests see of ``dedup=``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from processor import Halt, Header, Message, Output, Pipeline, Reject, Retry, Transaction
from processor.testing import BATCH_STEPS, EDGES, PipelineTest, Step

RETENTION = timedelta(minutes=10)
STEPS = (Step.ASK, *BATCH_STEPS)

metadata = MetaData()
shelf = Table(
    "shelf",
    metadata,
    Column("id", Text, primary_key=True),
    Column("amount", Integer, nullable=False),
)

shop = Pipeline("shop", outputs=["told"], tables=metadata, dedup_retention=RETENTION)
unwell: set[str] = set()
"""Orders that fail."""


@shop.handler("orders", dedup="id")
def ordered(order: dict[str, Any], tx: Transaction) -> Output:
    if order["id"] in unwell:
        raise Reject("not now")
    if order.get("waits") and tx.fetch_one("SELECT 1 FROM shelf WHERE id = 'gate'") is None:
        raise Halt("the gate is shut")
    tx.upsert(shelf, {"id": order["id"], "amount": 1}, add=["amount"])
    return Output("told", value=order["id"])


@shop.handler("marked", dedup=Header("id"))
def marked(value: bytes) -> Output:
    return Output("told", value=value.decode())


@pytest.fixture
def test() -> Iterator[PipelineTest]:
    unwell.clear()
    with PipelineTest(shop, partitions={"orders": 3}) as made:
        yield made


def order(test: PipelineTest, *ids: str, **more: Any) -> None:
    for each in ids:
        test.send("orders", {"id": each, **more})


def told(test: PipelineTest) -> list[str]:
    return sorted(each.json() for each in test.outputs("told"))


def amounts(test: PipelineTest) -> dict[str, int]:
    return {row["id"]: row["amount"] for row in test.rows(shelf)}


def test_the_first_message_of_a_key_takes_effect(test: PipelineTest) -> None:
    order(test, "a", "b", "a", "a", "c")
    assert told(test) == ["a", "b", "c"]
    order(test, "c", "d")
    assert told(test) == ["a", "b", "c", "d"]
    assert amounts(test) == dict.fromkeys("abcd", 1)
    assert test.dead_letters() == []


def test_a_header_is_a_key_and_none_is_no_key(test: PipelineTest) -> None:
    for mark, value in ((b"1", b"x"), (b"1", b"y"), (None, b"z"), (None, b"z")):
        headers = [] if mark is None else [("id", mark)]
        test.send("marked", value, headers=headers)
    assert told(test) == ["x", "z", "z"]


def test_a_rejected_message_gives_its_key_back(test: PipelineTest) -> None:
    unwell.add("a")
    order(test, "a", "b")
    assert told(test) == ["b"]
    unwell.clear()
    order(test, "a", "a", "b")
    assert told(test) == ["a", "b"]
    test.replay()
    assert told(test) == ["a", "b"]
    assert [each.state for each in test.dead_letters()] == ["replayed"]


def test_a_message_that_stops_its_partition_gives_its_key_back(test: PipelineTest) -> None:
    test.send("orders", {"id": "a", "waits": True}, partition=0)
    assert [each.reason for each in test.halted()] == ["handler-halt"]
    test.send("orders", {"id": "a"}, partition=1)
    assert told(test) == ["a"]
    test.insert(shelf, {"id": "gate", "amount": 0})
    test.resume()
    assert test.halted() == []
    assert amounts(test) == {"gate": 0, "a": 1}


def test_a_key_is_forgotten_after_the_retention(test: PipelineTest) -> None:
    order(test, "a")
    assert amounts(test) == {"a": 1}
    test.advance(RETENTION.total_seconds() - 60)
    order(test, "a")
    assert amounts(test) == {"a": 1}
    test.advance(RETENTION.total_seconds() / 2 + 90)
    order(test, "a", "a")
    assert amounts(test) == {"a": 2}


def test_a_message_that_is_tried_again_keeps_its_turn() -> None:
    patient = Pipeline("patient", outputs=["told"], dedup_retention=RETENTION)
    tries: list[str] = []

    @patient.handler("orders", dedup="id")
    def tried(order: dict[str, Any]) -> Output:
        tries.append(order["id"])
        if len(tries) < 3:
            raise Retry("not yet", after=30)
        return Output("told", value=order["id"])

    with PipelineTest(patient) as test:
        order(test, "a", "a")
        assert told(test) == ["a"]
    assert tries == ["a", "a", "a"]


def test_a_batch_handler_gets_the_first_ones_only() -> None:
    batched = Pipeline("batched", outputs=["told"])

    @batched.batch_handler("orders", dedup="id")
    def gathered(orders: Sequence[Message[dict[str, Any]]]) -> Iterable[Output]:
        for each in orders:
            yield Output("told", value=each.value["id"])

    with PipelineTest(batched) as test:
        order(test, "a", "b", "a")
        assert told(test) == ["a", "b"]
        order(test, "b")
        assert told(test) == ["a", "b"]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_stronger_isolation_skips_the_same(isolation: str) -> None:
    strict = Pipeline("strict", outputs=["told"], isolation=isolation, dedup_retention=RETENTION)

    @strict.handler("orders", dedup="id")
    def kept(order: dict[str, Any]) -> Output:
        return Output("told", value=order["id"])

    with PipelineTest(strict, partitions=2) as test:
        order(test, "a", "b", "a")
        assert told(test) == ["a", "b"]
        test.advance(RETENTION.total_seconds() / 2 + 30)
        order(test, "b", "c")
        assert told(test) == ["a", "b", "c"]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_every_step_changes_nothing(step: Step, edge: str) -> None:
    unwell.clear()
    unwell.add("x")
    with PipelineTest(shop, partitions={"orders": 3}, batch_max_messages=3) as test:
        order(test, "a", "x")
        assert told(test) == ["a"]
        test.crash_at(step, edge)
        order(test, "b", "a", "x", "b", "c")
        assert told(test) == ["a", "b", "c"]
        unwell.clear()
        order(test, "b", "x", "x")
        assert told(test) == ["a", "b", "c", "x"]
        assert amounts(test) == dict.fromkeys("abcx", 1)
        assert [each.reason for each in test.dead_letters()] == ["not now"] * 2


def test_keys_outlive_a_worker_and_a_period(test: PipelineTest) -> None:
    order(test, "a")
    assert told(test) == ["a"]
    test.crash()
    test.advance(RETENTION.total_seconds() / 2 + 30)
    test.crash()
    order(test, "a", "b")
    assert amounts(test) == {"a": 1, "b": 1}
    test.advance(RETENTION.total_seconds())
    order(test, "a", "b")
    assert amounts(test) == {"a": 2, "b": 1}
