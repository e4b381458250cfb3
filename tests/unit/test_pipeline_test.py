"""``processor.testing``: what a test can say and ask, over the engine itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from processor import Halt, Message, Output, Pipeline, Reject, Retry, Topic, Transaction, codecs
from processor.engine.steps import Edge
from processor.testing import (
    BATCH_STEPS,
    EDGES,
    Halted,
    PipelineTest,
    PipelineTestError,
    Sent,
    Step,
)
from processor.testing.values import murmur2
from tests.simulation.mutants import MUTANTS

metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("balance", BigInteger, nullable=False),
    Column("moves", Integer, nullable=False, server_default="0"),
    Column("most", BigInteger),
    Column("least", BigInteger),
)
journal = Table(
    "journal",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
)


class Move(msgspec.Struct, tag_field="type", tag="move"):
    name: str
    amount: int


class Booked(msgspec.Struct):
    name: str
    balance: int


bank = Pipeline("bank", outputs=["booked"], tables=metadata)


@bank.handler("moves")
def moved(move: Move, message: Message[Move], tx: Transaction) -> Iterator[Output]:
    if move.amount == 0:
        raise Reject("nothing to move")
    tx.upsert(
        accounts,
        {
            "name": move.name,
            "balance": move.amount,
            "moves": 1,
            "most": move.amount,
            "least": move.amount,
        },
        add=["balance", "moves"],
        max=["most"],
        min=["least"],
    )
    tx.insert(
        journal,
        {
            "partition": message.partition,
            "offset": message.offset,
            "name": move.name,
            "amount": move.amount,
        },
    )
    row = tx.fetch_one("SELECT balance FROM accounts WHERE name = %s", (move.name,))
    assert row is not None
    yield Output("booked", key=message.key, value=Booked(move.name, row[0]))


MOVES = [Move("ann", 5), Move("bob", 7), Move("ann", 0), Move("ann", -2), Move("bob", 1)]


def play(test: PipelineTest) -> None:
    for move in MOVES:
        test.send("moves", move, key=move.name)


def ledger(test: PipelineTest) -> dict[str, Any]:
    """All that the pipeline has done, in both stores."""
    return {
        "accounts": {row["name"]: row["balance"] for row in test.rows(accounts)},
        "journal": [(row["offset"], row["amount"]) for row in test.rows(journal)],
        "booked": [(each.key, each.json()) for each in test.outputs("booked")],
        "refused": [(each.offset, each.reason) for each in test.dead_letters()],
    }


def ledger_or_halt(test: PipelineTest) -> dict[str, Any] | str:
    try:
        return ledger(test)
    except PipelineTestError as error:
        return str(error)


PLAYED = {
    "accounts": {"ann": 3, "bob": 8},
    "journal": [(0, 5), (1, 7), (3, -2), (4, 1)],
    "booked": [
        (b"ann", {"name": "ann", "balance": 5}),
        (b"bob", {"name": "bob", "balance": 7}),
        (b"ann", {"name": "ann", "balance": 3}),
        (b"bob", {"name": "bob", "balance": 8}),
    ],
    "refused": [(2, "nothing to move")],
}


@pytest.fixture
def test() -> Iterator[PipelineTest]:
    with PipelineTest(bank) as made:
        yield made


class TestResults:
    """Of what was sent."""

    def test_both_stores_hold_what_the_handlers_did(self, test: PipelineTest) -> None:
        play(test)
        assert ledger(test) == PLAYED

    def test_upserts_add_and_keep_the_largest_and_the_smallest(self, test: PipelineTest) -> None:
        for amount in (5, -3, 4):
            test.send("moves", Move("ann", amount))
        assert test.rows(accounts) == [
            {"name": "ann", "balance": 6, "moves": 3, "most": 5, "least": -3}
        ]

    def test_results_are_followed_by_more(self, test: PipelineTest) -> None:
        test.send("moves", Move("ann", 1))
        assert len(test.outputs("booked")) == 1
        test.send("moves", Move("ann", 1))
        assert [each.decode(Booked) for each in test.outputs("booked")] == [
            Booked("ann", 1),
            Booked("ann", 2),
        ]

    def test_rows_can_be_there_before(self, test: PipelineTest) -> None:
        test.insert(accounts, {"name": "ann", "balance": 10})
        test.insert(accounts, [{"name": "bob", "balance": 1}, {"name": "cid", "balance": 2}])
        test.send("moves", Move("ann", 5))
        assert [(row["name"], row["balance"], row["moves"]) for row in test.rows(accounts)] == [
            ("ann", 15, 1),
            ("bob", 1, 0),
            ("cid", 2, 0),
        ]

    def test_a_dead_letter_says_all(self, test: PipelineTest) -> None:
        test.send("moves", Move("ann", 0), key="k", headers=[("about", "it"), ("none", None)])
        [letter] = test.dead_letters()
        assert (letter.topic, letter.partition, letter.offset) == ("moves", 0, 0)
        assert (letter.key, letter.value) == (b"k", b'{"type":"move","name":"ann","amount":0}')
        assert letter.headers == (("about", b"it"), ("none", None))
        assert (letter.handler, letter.error, letter.attempts) == ("moved", "Reject", 1)
        assert "nothing to move" in (letter.trace or "")
        assert test.outputs("booked") == []

    def test_what_cannot_be_decoded_has_no_handler(self, test: PipelineTest) -> None:
        test.send("moves", b"{")
        test.send("moves", {"type": "unheard of"})
        assert [(each.handler, each.error) for each in test.dead_letters()] == [
            (None, "DecodeError"),
            (None, "UnknownType"),
        ]

    def test_a_value_is_sent_in_any_form(self, test: PipelineTest) -> None:
        forms = [
            Move("ann", 1),
            {"type": "move", "name": "ann", "amount": 1},
            '{"type": "move", "name": "ann", "amount": 1}',
            b'{"type": "move", "name": "ann", "amount": 1}',
        ]
        sent = [test.send("moves", each) for each in forms]
        assert sent == [Sent("moves", 0, offset) for offset in range(4)]
        assert test.rows(accounts)[0]["balance"] == 4


class TestPassingOn:
    """Of bytes, keys, headers and times."""

    @pytest.fixture
    def passing(self) -> Pipeline:
        pipeline = Pipeline("passing", outputs=["out", Topic("packed", codec=codecs.msgpack)])

        @pipeline.handler("in")
        def passed(message: Message[bytes]) -> Iterator[Output]:
            yield Output("out", key=message.key, value=message.value, headers=message.headers)
            yield Output("packed", value={"size": len(message.value)})

        return pipeline

    def test_an_output_is_what_the_handler_made(self, passing: Pipeline) -> None:
        with PipelineTest(passing) as test:
            test.send("in", b"\x00\xff", key=b"k", headers=[("h", "v")], timestamp=1_234)
            [out] = test.outputs("out")
            assert (out.key, out.value, out.headers) == (b"k", b"\x00\xff", (("h", b"v"),))
            assert (out.topic, out.partition, out.offset) == ("out", 0, 0)
            assert out.timestamp == 1_234
            assert out.source is not None
            assert (out.source.partition, out.source.source_offset) == (0, 0)

    def test_values_are_decoded_by_the_topics_codec(self, passing: Pipeline) -> None:
        with PipelineTest(passing) as test:
            test.send("in", b"abc")
            assert [each.decode() for each in test.outputs("packed")] == [{"size": 3}]

    def test_a_message_has_the_virtual_time(self, passing: Pipeline) -> None:
        with PipelineTest(passing) as test:
            test.advance(60)
            before = test.now
            test.send("in", b"abc")
            [out] = test.outputs("out")
            assert before >= datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
            assert out.timestamp == round(before.timestamp() * 1_000)

    def test_keys_choose_partitions_as_kafka_does(self, passing: Pipeline) -> None:
        with PipelineTest(passing, partitions={"in": 12, "out": 12}) as test:
            chosen = [test.send("in", b"", key=key).partition for key in ("foobar", "abc")]
            assert chosen == [1_357_151_166 % 12, 479_470_107 % 12]
            assert sorted(each.partition for each in test.outputs("out")) == sorted(chosen)

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ],
    )
    def test_the_hash_is_the_one_of_kafkas_own_tests(self, key: str, expected: int) -> None:
        assert murmur2(key.encode()) == expected % 2**32

    def test_without_a_key_partitions_take_turns(self, passing: Pipeline) -> None:
        with PipelineTest(passing, partitions=3) as test:
            assert [test.send("in", b"").partition for _ in range(4)] == [0, 1, 2, 0]
            assert test.send("in", b"", partition=2) == Sent("in", 2, 1)
            assert len(test.outputs("out")) == 5


class TestBatches:
    """Handlers that get several messages at once."""

    @pytest.fixture
    def batching(self) -> Pipeline:
        pipeline = Pipeline("batching", outputs=["sizes"], tables=metadata)

        @pipeline.batch_handler("moves")
        def together(messages: Sequence[Message[Move]], tx: Transaction) -> Output:
            for each in messages:
                if each.value.amount == 0:
                    raise ValueError("nothing to move")
                tx.upsert(
                    accounts,
                    {"name": each.value.name, "balance": each.value.amount},
                    add=["balance"],
                )
            return Output("sizes", value=len(messages))

        return pipeline

    def test_what_was_sent_together_comes_together(self, batching: Pipeline) -> None:
        with PipelineTest(batching) as test:
            for amount in range(1, 5):
                test.send("moves", Move("ann", amount))
            assert [each.json() for each in test.outputs("sizes")] == [4]
            assert test.rows(accounts)[0]["balance"] == 10

    def test_a_setting_cuts_batches(self, batching: Pipeline) -> None:
        with PipelineTest(batching, batch_max_messages=3) as test:
            for amount in range(1, 5):
                test.send("moves", Move("ann", amount))
            assert sum(each.json() for each in test.outputs("sizes")) == 4
            assert max(each.json() for each in test.outputs("sizes")) <= 3

    def test_one_that_fails_is_given_up_alone(self, batching: Pipeline) -> None:
        with PipelineTest(batching) as test:
            for amount in (1, 0, 2):
                test.send("moves", Move("ann", amount))
            [letter] = test.dead_letters()
            assert (letter.offset, letter.error, letter.attempts) == (1, "ValueError", 3)
            assert test.rows(accounts)[0]["balance"] == 3

    @pytest.mark.parametrize("step", BATCH_STEPS)
    def test_a_crash_changes_nothing(self, batching: Pipeline, step: Step) -> None:
        with PipelineTest(batching) as test:
            test.crash_at(step)
            for amount in range(1, 5):
                test.send("moves", Move("ann", amount))
            assert test.rows(accounts)[0]["balance"] == 10
            assert sum(each.json() for each in test.outputs("sizes")) == 4


class TestStatements:
    """What a handler asks Postgres itself."""

    def test_execute_and_fetch(self) -> None:
        pipeline = Pipeline("asking", outputs=["told"], tables=metadata)

        @pipeline.handler("moves")
        def asked(move: Move, tx: Transaction) -> Output:
            touched = tx.execute(
                "UPDATE accounts SET balance = balance + %(amount)s WHERE name = %(name)s",
                {"amount": move.amount, "name": move.name},
            )
            poor = tx.fetch_all(
                accounts.select().where(accounts.c.balance < 5).order_by(accounts.c.name)
            )
            like = tx.fetch_one("SELECT count(*) FROM accounts WHERE name LIKE 'a%%'", ())
            return Output("told", value=[touched, [row[0] for row in poor], like])

        with PipelineTest(pipeline) as test:
            test.insert(accounts, [{"name": "ann", "balance": 1}, {"name": "bob", "balance": 2}])
            test.send("moves", Move("ann", 9))
            test.send("moves", Move("nobody", 9))
            assert [each.json() for each in test.outputs("told")] == [
                [1, ["bob"], [1]],
                [0, ["bob"], [1]],
            ]

    def test_what_postgres_refuses_is_a_dead_letter(self, test: PipelineTest) -> None:
        test.send("moves", Move("ann", 2**70))
        test.send("moves", Move("ann", 1))
        [letter] = test.dead_letters()
        assert (letter.offset, letter.error) == (0, "NumericValueOutOfRange")
        assert test.rows(accounts)[0]["balance"] == 1


class TestCrashes:
    """Wherever the worker dies, both stores end up as if it had not."""

    @pytest.mark.parametrize("edge", EDGES)
    @pytest.mark.parametrize("step", BATCH_STEPS)
    def test_at_every_step_of_a_batch(self, test: PipelineTest, step: Step, edge: Edge) -> None:
        test.crash_at(step, edge)
        play(test)
        assert ledger(test) == PLAYED

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("step", BATCH_STEPS)
    def test_in_the_middle_of_a_call_at_any_moment(self, step: Step, seed: int) -> None:
        with PipelineTest(bank, seed=seed) as test:
            test.crash_at(step, "inside")
            play(test)
            assert ledger(test) == PLAYED

    @pytest.mark.parametrize("edge", EDGES)
    @pytest.mark.parametrize(
        "step",
        [
            Step.CONSUME,
            Step.CONNECT,
            Step.INITIALISE,
            Step.READ_TOPICS,
            Step.READ_OFFSETS,
            Step.READ_LOG,
            Step.LOCK,
            Step.LOAD,
            Step.RENEW,
            Step.START,
            Step.CLEAR_INTENT,
            Step.RAISE,
            Step.REPORT,
        ],
    )
    def test_at_every_step_of_a_start(self, test: PipelineTest, step: Step, edge: Edge) -> None:
        test.crash_at(step, edge)
        play(test)
        assert ledger(test) == PLAYED

    def test_between_batches(self, test: PipelineTest) -> None:
        for move in MOVES:
            test.send("moves", move, key=move.name)
            test.run()
            test.crash()
        assert ledger(test) == PLAYED

    def test_twice_in_one_batch(self, test: PipelineTest) -> None:
        test.crash_at("commit", "after", visit=2)
        for move in MOVES:
            test.send("moves", move, key=move.name)
            if move is MOVES[0]:
                test.advance(5)
        assert ledger(test) == PLAYED
        test.crash_at("commit")
        test.send("moves", Move("cid", 1))
        assert len(test.rows(journal)) == 5

    def test_handlers_are_not_run_again_for_what_was_committed(self) -> None:
        runs: list[int] = []
        pipeline = Pipeline("counted", outputs=["out"])

        @pipeline.handler("in")
        def counted(message: Message[bytes]) -> Output:
            runs.append(message.offset)
            return Output("out", value=message.value)

        for edge, expected in (("before", [0, 0]), ("after", [0])):
            runs.clear()
            with PipelineTest(pipeline) as test:
                test.crash_at(Step.COMMIT, edge)
                test.send("in", b"x")
                assert [each.value for each in test.outputs("out")] == [b"x"]
            assert runs == expected

    @pytest.mark.parametrize(
        ("bug", "step", "edge"),
        [
            ("kafka-ends-before-postgres", Step.COMMIT, "before"),
            ("outbox-order-lost", Step.COMMIT, "after"),
            ("republished-without-its-key", Step.COMMIT, "after"),
            ("offsets-outside-the-transaction", Step.END, "before"),
        ],
    )
    def test_a_bug_of_the_engine_would_be_found(self, bug: str, step: Step, edge: str) -> None:
        """That is the engine at work, and it is what the crashes are aimed at."""
        with PipelineTest(bank) as test:
            test.crash_at(step, edge)
            play(test)
            with MUTANTS[bug].plant():
                told = ledger_or_halt(test)
        assert told != PLAYED
        assert isinstance(told, dict) or "has halted" in told

    def test_a_bug_of_a_handler_is_found(self) -> None:
        """It keeps a count beside the transaction: a run that took no effect has left its mark."""
        numbers: dict[str, int] = {}
        pipeline = Pipeline("numbering", outputs=["numbered"])

        @pipeline.handler("moves")
        def numbered(move: Move) -> Output:
            numbers[move.name] = numbers.get(move.name, 0) + 1
            return Output("numbered", value=numbers[move.name])

        def told(step: Step | None, edge: str = "before") -> list[int]:
            numbers.clear()
            with PipelineTest(pipeline) as test:
                if step is not None:
                    test.crash_at(step, edge)
                for _ in range(3):
                    test.send("moves", Move("ann", 1))
                return [each.json() for each in test.outputs("numbered")]

        assert told(None) == [1, 2, 3]
        assert told(Step.COMMIT, "before") == [4, 5, 6]
        assert told(Step.COMMIT, "after") == [1, 2, 3]


class TestTime:
    """It is virtual: nobody waits for it."""

    @pytest.fixture
    def retrying(self) -> Iterator[tuple[PipelineTest, list[datetime]]]:
        """The message says for how long its handler is not ready."""
        tried: list[datetime] = []
        pipeline = Pipeline("retrying", outputs=["out"])

        @pipeline.handler("in", max_attempts=3)
        def tries(message: Message[bytes]) -> Output:
            if test.now not in tried:  # a batch that fails is run again at once, with care
                tried.append(test.now)
            if test.now < tried[0] + timedelta(seconds=int(message.value)):
                raise Retry("not yet", after=60)
            return Output("out", value=message.value)

        with PipelineTest(pipeline) as test:
            yield test, tried

    def test_retries_wait_in_it(self, retrying: tuple[PipelineTest, list[datetime]]) -> None:
        test, tried = retrying
        test.send("in", "150")
        assert [each.value for each in test.outputs("out")] == [b"150"]
        waits = [after - before for before, after in pairwise(tried)]
        minute = timedelta(seconds=60)
        assert len(waits) == 2
        assert minute <= waits[0] <= 1.25 * minute
        assert 2 * minute <= waits[1] <= 2.5 * minute

    def test_retries_end(self, retrying: tuple[PipelineTest, list[datetime]]) -> None:
        test, _ = retrying
        test.send("in", "9999")
        [letter] = test.dead_letters()
        assert (letter.error, letter.attempts) == ("Retry", 3)

    def test_it_passes_when_told_to(self, retrying: tuple[PipelineTest, list[datetime]]) -> None:
        test, tried = retrying
        test.send("in", "50")
        began = test.now
        test.advance(30)
        assert (test.now - began, len(tried)) == (timedelta(seconds=30), 1)
        test.advance(60)
        assert len(tried) == 2

    def test_now_of_the_database_is_the_same(self) -> None:
        pipeline = Pipeline("timed", outputs=["out"])

        @pipeline.handler("in")
        def timed(_: Message[bytes], tx: Transaction) -> Output:
            row = tx.fetch_one("SELECT now()")
            return Output("out", value=row and row[0])

        with PipelineTest(pipeline) as test:
            test.advance(3_600)
            test.send("in", b"")
            [out] = test.outputs("out")
            assert out.json().startswith("2026-01-01T01:00:0")


class TestStops:
    """Partitions that go no further."""

    @pytest.fixture
    def gate(self) -> Iterator[tuple[PipelineTest, list[bool]]]:
        is_open = [False]
        pipeline = Pipeline("gate", outputs=["out"])

        @pipeline.handler("in")
        def passed(message: Message[bytes]) -> Output:
            if message.value == b"gate" and not is_open[0]:
                raise Halt("the gate is shut")
            return Output("out", value=message.value)

        with PipelineTest(pipeline, partitions={"in": 2}) as test:
            for value in (b"first", b"gate", b"last"):
                test.send("in", value, partition=0)
            test.send("in", b"beside", partition=1)
            yield test, is_open

    def test_a_halt_is_told(self, gate: tuple[PipelineTest, list[bool]]) -> None:
        test, _ = gate
        [halted] = test.halted()
        assert isinstance(halted, Halted)
        assert (halted.topic, halted.partition, halted.offset) == ("in", 0, 1)
        assert halted.reason == "handler-halt"
        assert "the gate is shut" in halted.detail
        assert "processor resume" in (halted.remedy or "")
        assert not halted.waits
        assert sorted(each.value or b"" for each in test.outputs("out")) == [b"beside", b"first"]

    def test_a_halt_that_nobody_expects_is_an_error(
        self, gate: tuple[PipelineTest, list[bool]]
    ) -> None:
        test, _ = gate
        for ask in (test.dead_letters, lambda: test.outputs("out")):
            with pytest.raises(PipelineTestError, match=r"in/0 has halted .* the gate is shut"):
                ask()
        test.halted()
        assert test.dead_letters() == []

    def test_it_is_resumed(self, gate: tuple[PipelineTest, list[bool]]) -> None:
        test, is_open = gate
        assert len(test.halted()) == 1
        test.resume()
        assert len(test.halted()) == 1
        is_open[0] = True
        test.resume("in", 0)
        assert test.halted() == []
        assert len(test.outputs("out")) == 4

    def test_it_stays_after_a_crash(self, gate: tuple[PipelineTest, list[bool]]) -> None:
        test, _ = gate
        assert len(test.halted()) == 1
        test.crash()
        assert [each.offset for each in test.halted()] == [1]

    def test_an_undeclared_output_halts(self) -> None:
        pipeline = Pipeline("undeclared", outputs=["out"])

        @pipeline.handler("in")
        def undeclared(_: Message[bytes]) -> Output:
            return Output("elsewhere", value=b"")

        with PipelineTest(pipeline) as test:
            test.send("in", b"")
            [halted] = test.halted()
            assert (halted.reason, halted.waits) == ("pipeline-error", False)
            assert "'elsewhere' is not declared" in halted.detail

    def test_a_table_that_is_missing_is_waited_for(self) -> None:
        pipeline = Pipeline("missing")

        @pipeline.handler("in")
        def asked(_: Message[bytes], tx: Transaction) -> None:
            tx.execute("DELETE FROM elsewhere")

        with PipelineTest(pipeline) as test:
            test.send("in", b"")
            with pytest.raises(PipelineTestError, match='relation "elsewhere" does not exist'):
                test.dead_letters()
            [halted] = test.halted()
            assert (halted.reason, halted.waits, halted.offset) == ("database-refused", True, 0)


class TestWorld:
    """What a test leaves, and what it follows from."""

    def test_a_seed_goes_the_same_way(self) -> None:
        def told(seed: int) -> list[Any]:
            with PipelineTest(bank, seed=seed) as test:
                test.crash_at(Step.END, "inside")
                play(test)
                records = test.outputs("booked")
                return [test.now, *((each.source, each) for each in records)]

        assert told(1) == told(1)
        assert told(1)[1][0] != told(2)[1][0]

    def test_nothing_is_left(self) -> None:
        before = threading.enumerate()
        made = PipelineTest(bank)
        with made as test:
            play(test)
            test.run()
            assert made._world.time.tasks
        assert not made._world.time.tasks
        assert threading.enumerate() == before
        made.close()
        with pytest.raises(PipelineTestError, match="closed"):
            test.send("moves", Move("ann", 1))

    def test_the_engine_has_its_own_chance_again(self) -> None:
        import random
        import secrets

        from processor.engine import locked_rows, triage, worker

        before = worker.IDLE_SECONDS
        with PipelineTest(bank) as test:
            play(test)
            assert test.dead_letters()
        assert triage.random is random
        assert locked_rows.token_hex is secrets.token_hex
        assert before == worker.IDLE_SECONDS

    def test_two_at_once_do_not_see_each_other(self) -> None:
        with PipelineTest(bank) as one, PipelineTest(bank) as other:
            one.send("moves", Move("ann", 1))
            other.send("moves", Move("bob", 1))
            assert [row["name"] for row in one.rows(accounts)] == ["ann"]
            assert [row["name"] for row in other.rows(accounts)] == ["bob"]

    def test_the_environment_has_no_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROCESSOR_START_FROM", "latest")
        monkeypatch.setenv("PROCESSOR_BATCH_MAX_MESSAGES", "nonsense")
        with PipelineTest(bank, batch_max_seconds=1.0) as test:
            test.send("moves", Move("ann", 1))
            assert len(test.rows(journal)) == 1
