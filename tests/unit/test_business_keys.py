"""Business keys: how they are told, and which of a batch's messages take effect under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table

from processor import Dedup, Halt, Header, Message, Pipeline, Reject, Retry, Transaction
from processor.dedup import By, bind_key, encoded
from processor.engine.batch import Handled, Partition, Slice
from processor.engine.decoding import Decoding
from processor.engine.dedup import Keys, lock_number
from processor.engine.failures import DatabaseDoubt, StatementFailed
from processor.engine.handling import Handling
from processor.engine.intake import Intake
from processor.engine.isolation import Isolation
from processor.engine.parking import Parking
from processor.engine.partitions import Partitions
from processor.engine.replays import Replays
from processor.engine.sealing import Sealer
from processor.engine.triage import Triage
from processor.errors import PipelineError
from tests.support.engine import free_steps
from tests.support.messages import Raw
from tests.support.stores import KeyedStore

FIRST, SECOND = (Partition("orders", number) for number in range(2))
PLAIN = Partition("plain", 0)
TABLE = Table("numbers", MetaData(), Column("n", Integer), Column("order", Integer))


class Order(msgspec.Struct, tag_field="type", tag="order"):
    n: int
    order_id: int | None = None
    act: str = ""


class Return(msgspec.Struct, tag_field="type", tag="return"):
    n: int


def order(n: int, order_id: int | None, act: str = "") -> bytes:
    return msgspec.json.encode(Order(n, order_id, act))


def do(event: Order, tx: Transaction) -> None:
    tx.insert(TABLE, {"n": event.n, "order": event.order_id})
    if event.act == "reject":
        raise Reject("as it asks for")
    if event.act == "halt":
        raise Halt("as it asks for")
    if event.act == "clash":
        tx.insert(TABLE, {"n": -1, "order": event.order_id})


@dataclass
class Bench:
    """A pipeline over the store of lists, with keys that have been taken before."""

    dedup: By | Dedup = "order_id"
    batch: bool = False
    on_failure: Any = "dead-letter"
    seconds: float = 0.0
    """That each message takes; a batch has two."""
    store: KeyedStore = field(default_factory=KeyedStore)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.pipeline = Pipeline("orders", max_dead_letter_ratio=1)

        def ordered(event: Order, tx: Transaction) -> None:
            self.now += self.seconds
            do(event, tx)

        def together(messages: Sequence[Message[Order]], tx: Transaction) -> None:
            for message in messages:
                do(message.value, tx)

        options: Any = {"dedup": self.dedup, "on_failure": self.on_failure}
        if self.batch:
            self.pipeline.batch_handler("orders", **options)(together)
        else:
            self.pipeline.handler("orders", **options)(ordered)

            @self.pipeline.handler("orders")
            def returned(event: Return, tx: Transaction) -> None:
                tx.insert(TABLE, {"n": event.n, "order": None})

        @self.pipeline.handler("plain")
        def plain(event: Order, tx: Transaction) -> None:
            tx.insert(TABLE, {"n": event.n, "order": None})

        store: Any = self.store
        decoding = Decoding(self.pipeline.routes)
        parking, replays = Parking(Partitions()), Replays("group")
        self.handling = Handling(
            decoding,
            Sealer({}, {}),
            store,
            free_steps(),
            10**9,
            limit_seconds=30,
            clock=lambda: self.now,
            triage=Triage(),
            intake=Intake(decoding, free_steps(), Keys("group"), parking, replays),
        )
        self.isolation = Isolation(self.handling, free_steps())

    def run(self, path: str, *slices: Slice) -> list[Handled]:
        """One batch, as far as ``path`` leads, and its commit."""
        if path == "fast":
            handled = self.handling.run(slices)
        elif path == "careful":
            run = self.handling.handle(slices, careful=True)
            self.handling.flush(run)
            handled = run.handled
        else:
            handled = self.isolation.run(slices)
        self.store.commit()
        return handled

    @property
    def rows(self) -> list[int]:
        return [row[0] for row in self.store.rows]


def piece(values: Sequence[bytes], first: int = 0, partition: Partition = FIRST) -> Slice:
    return Slice(
        partition, first, [Raw(at, value, partition) for at, value in enumerate(values, first)]
    )


PATHS = ("fast", "careful", "isolated")


@pytest.mark.parametrize("batch", [False, True], ids=["handler", "batch handler"])
@pytest.mark.parametrize("path", PATHS)
def test_the_first_message_of_a_key_takes_effect(path: str, batch: bool) -> None:
    bench = Bench(batch=batch)
    first, second = bench.run(
        path,
        piece([order(1, 7), order(2, 8), order(3, 7)]),
        piece([order(4, 8), order(5, 9)], 0, SECOND),
    )
    assert bench.rows == [1, 2, 5]
    assert (first.next, first.handled, first.skipped, first.duplicates) == (3, 2, 1, 1)
    assert (second.next, second.handled, second.skipped, second.duplicates) == (2, 1, 1, 1)
    [again] = bench.run(path, piece([order(6, 9), order(7, 10)], 3))
    assert bench.rows == [1, 2, 5, 7]
    assert (again.next, again.handled, again.duplicates) == (5, 1, 1)


@pytest.mark.parametrize("path", PATHS)
def test_a_message_without_a_key_is_handled_each_time(path: str) -> None:
    bench = Bench()
    returned = msgspec.json.encode(Return(3))
    [handled] = bench.run(path, piece([order(1, None), order(2, None), returned, returned]))
    assert bench.rows == [1, 2, 3, 3]
    assert handled.duplicates == 0


@pytest.mark.parametrize("path", ["careful", "isolated"])
@pytest.mark.parametrize("on_failure", ["dead-letter", "skip"])
def test_a_key_goes_with_its_rejected_message(path: str, on_failure: str) -> None:
    bench = Bench(on_failure=on_failure)
    [handled] = bench.run(
        path, piece([order(1, 7, "reject"), order(2, 7), order(3, 7), order(4, 8, "reject")])
    )
    assert bench.rows == [2]
    assert (handled.handled, handled.duplicates) == (1, 1)
    [again] = bench.run(path, piece([order(5, 8), order(6, 7)], 4))
    assert bench.rows == [2, 5]
    assert (again.handled, again.duplicates) == (1, 1)


@pytest.mark.parametrize("batch", [False, True], ids=["handler", "batch handler"])
def test_a_key_goes_with_a_message_that_postgres_refuses(batch: bool) -> None:
    bench = Bench(batch=batch)
    bench.store.refuse(-1)
    bad = [order(n, n) for n in range(20)]
    bad[7] = order(7, 7, "clash")
    first, second = bench.run(
        "isolated", piece(bad), piece([order(20, 7), order(21, 6)], 0, SECOND)
    )
    assert [each.offset for each in first.dead_letters] == [7]
    assert (first.handled, second.handled, second.duplicates) == (19, 1, 1)
    assert 20 in bench.rows
    assert bench.store.open_savepoints == 0


@pytest.mark.parametrize("path", ["careful", "isolated"])
def test_keys_of_messages_behind_a_halt_are_given_back(path: str) -> None:
    bench = Bench()
    first, second = bench.run(
        path,
        piece([order(1, 1), order(2, 2, "halt"), order(3, 3)]),
        piece([order(4, 3)], 0, SECOND),
    )
    assert (first.next, second.next) == (1, 1)
    assert bench.rows == [1, 4], "the key belongs to the first one that takes effect"
    assert len(bench.store.keys) == 2
    [again] = bench.run(path, piece([order(2, 2), order(3, 3)], 1))
    assert (again.handled, again.duplicates) == (1, 1)


@pytest.mark.parametrize("path", PATHS)
def test_keys_beyond_a_limit_are_given_back(path: str) -> None:
    bench = Bench(seconds=3.0)
    [handled] = bench.run(path, piece([order(n, n) for n in range(5)]))
    assert (handled.next, len(handled.rest)) == (1, 4)
    assert len(bench.store.keys) == 1
    [rest] = bench.run(path, Slice(FIRST, 1, handled.rest))
    assert (rest.handled, rest.duplicates) == (1, 0)


def test_waiting_for_keys_is_not_the_handlers_time() -> None:
    bench = Bench()
    bench.store.session.on_ask = lambda: setattr(bench, "now", bench.now + 100)
    [handled] = bench.run("fast", piece([order(1, 1), order(2, 2)]))
    assert handled.next == 2


@pytest.mark.parametrize("path", PATHS)
def test_a_topic_without_dedup_asks_nothing(path: str) -> None:
    bench = Bench()
    [handled] = bench.run(path, piece([order(1, 7), order(2, 7)], 0, PLAIN))
    assert (bench.rows, handled.duplicates, bench.store.session.asked) == ([1, 2], 0, 0)


def test_one_question_is_asked_for_all_of_a_batch() -> None:
    bench = Bench()
    bench.run("fast", *(piece([order(n, n) for n in range(50)], 0, p) for p in (FIRST, SECOND)))
    assert bench.store.session.asked == 3, "the lock, the periods, the keys"


def test_without_a_period_the_batch_is_in_doubt() -> None:
    bench = Bench(store=KeyedStore(period=None))
    with pytest.raises(DatabaseDoubt, match="no period"):
        bench.run("fast", piece([order(1, 1)]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("error", [ValueError("no"), Reject("no")])
def test_a_function_that_fails_costs_its_message_alone(path: str, error: Exception) -> None:
    def key(event: Order) -> int | None:
        if event.n == 2:
            raise error
        return event.order_id

    bench = Bench(dedup=key)
    [handled] = bench.run(path, piece([order(1, 1), order(2, 2), order(3, 2)]))
    assert bench.rows == [1, 3]
    [letter] = handled.dead_letters
    assert (letter.offset, letter.error) == (1, type(error).__name__)
    assert "no" in letter.reason


@pytest.mark.parametrize("path", PATHS)
def test_a_value_that_is_no_key_is_the_messages_failure(path: str) -> None:
    bench = Bench(dedup=lambda event: 1.5 if event.n == 1 else event.n)
    [handled] = bench.run(path, piece([order(1, 1), order(2, 2)]))
    assert bench.rows == [2]
    assert "float" in handled.dead_letters[0].reason


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("error", [Retry("later"), Halt("no more"), PipelineError("wrong")])
def test_a_function_may_say_what_is_to_be_done(path: str, error: Exception) -> None:
    def key(event: Order) -> int:
        if event.n == 2:
            raise error
        return event.n

    bench = Bench(dedup=key)
    [handled] = bench.run(path, piece([order(n, n) for n in (1, 2, 3)]))
    assert (handled.next, bench.rows) == (1, [1])
    assert handled.stop is not None
    assert len(bench.store.keys) == 1


@pytest.mark.parametrize("path", PATHS)
def test_what_cannot_be_decoded_is_set_aside_in_its_turn(path: str) -> None:
    bench = Bench()
    [handled] = bench.run(path, piece([order(1, 1), b"{", order(2, 1)]))
    assert [each.offset for each in handled.dead_letters] == [1]
    assert (handled.handled, handled.duplicates, handled.next) == (1, 1, 3)


def test_a_header_is_a_key() -> None:
    bench = Bench(dedup=Header("id"))

    def raw(at: int, *pairs: tuple[str, bytes | None]) -> Raw:
        return Raw(at, order(at, None), FIRST, pairs=pairs)

    messages = [
        raw(0, ("id", b"a")),
        raw(1, ("other", b"a"), ("id", b"b")),
        raw(2, ("id", b"b"), ("id", b"a")),
        raw(3, ("id", None)),
        raw(4),
    ]
    [handled] = bench.run("fast", Slice(FIRST, 0, list(messages)))
    assert bench.rows == [0, 1, 3, 4]
    assert handled.duplicates == 1, "of several headers the last counts"


def test_a_function_may_be_of_the_message() -> None:
    def key(message: Message[Any]) -> tuple[bytes | None, int]:
        return message.key, message.value.order_id

    bench = Bench(dedup=key)
    bench.run("fast", piece([order(1, 1), order(2, 1), order(3, 2)]))
    assert bench.rows == [1, 3]


@pytest.mark.parametrize("by", [attrgetter("order_id"), lambda event: event.order_id])
def test_a_function_needs_no_annotation(by: Any) -> None:
    bench = Bench(dedup=by)
    bench.run("fast", piece([order(1, 1), order(2, 1)]))
    assert bench.rows == [1]


# A model: any batches, on any path


@dataclass
class Model:
    """Two logs, how far they are handled, and what must have come of it."""

    log: dict[Partition, list[Order]] = field(default_factory=lambda: {FIRST: [], SECOND: []})
    done: dict[Partition, int] = field(default_factory=lambda: {FIRST: 0, SECOND: 0})
    effects: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def produce(self, partition: Partition, new: Sequence[tuple[int | None, str]]) -> None:
        for order_id, act in new:
            number = sum(map(len, self.log.values()))
            self.log[partition].append(Order(number, order_id, act))

    def slices(self) -> list[Slice]:
        """What is still to be handled; after a stop that is the same again."""
        return [
            piece([msgspec.json.encode(each) for each in log[self.done[p] :]], self.done[p], p)
            for p, log in self.log.items()
            if len(log) > self.done[p]
        ]

    def handled(self, handled: Handled) -> None:
        log = self.log[handled.partition]
        for each in log[handled.first : handled.next]:
            if each.act == "" and each.order_id not in self.seen:
                self.effects.append(each.n)
                self.seen |= set() if each.order_id is None else {each.order_id}
        self.done[handled.partition] = handled.next
        if handled.stop is not None:
            assert log[handled.next].act == "halt"
            log[handled.next].act = ""  # somebody mends it


messages = st.tuples(
    st.integers(0, 5) | st.none(), st.sampled_from(["", "", "", "reject", "clash", "halt"])
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(messages, max_size=8)] * 2), max_size=6),
    st.sampled_from(["handler", "batch handler"]),
)
def test_each_key_takes_effect_once_and_none_is_lost(
    batches: Sequence[Sequence[Sequence[tuple[int | None, str]]]], kind: str
) -> None:
    """With care where that is enough, else in groups."""
    bench, model = Bench(batch=kind == "batch handler"), Model()
    bench.store.refuse(-1)
    for batch in batches:
        for partition, new in zip(model.log, batch, strict=True):
            model.produce(partition, new)
        slices = model.slices()
        clashes = any(b"clash" in raw.value() for each in slices for raw in each.messages)
        for handled in bench.run("isolated" if clashes or bench.batch else "careful", *slices):
            model.handled(handled)
    assert sorted(bench.rows) == sorted(model.effects)
    assert len(bench.store.keys) == len(model.seen)


# Keys


@pytest.mark.parametrize(
    "value",
    ["", "a", b"\x00\xff", 0, -(2**80), UUID(int=5), ("a", 1, None, ("b",)), "\ud800", "x" * 10**5],
)
def test_any_usual_value_is_a_key(value: Any) -> None:
    digest = bind_key(lambda _: value, "t/h", (dict,)).digest({})
    assert digest is not None
    assert len(digest) == 32


keys = st.recursive(
    st.text(max_size=3) | st.integers(-20, 20) | st.uuids(), lambda k: st.tuples(k, k), max_leaves=4
)


@given(keys, keys)
def test_different_keys_have_different_bytes(one: Any, other: Any) -> None:
    assert (encoded(one) == encoded(other)) == (one == other)


@pytest.mark.parametrize("value", [1.5, True, [1], {"a": 1}, object()])
def test_other_values_are_none(value: Any) -> None:
    with pytest.raises(TypeError, match="a key is"):
        encoded(value)


def test_handlers_have_keys_of_their_own_unless_they_share_a_scope() -> None:
    def digest(dedup: By | Dedup, place: str) -> str | None:
        return bind_key(dedup, place, (dict,)).digest({"id": 1})

    assert digest("id", "a/f") == digest("id", "a/f")
    assert digest("id", "a/f") != digest("id", "a/g") != digest("id", "b/f")
    assert digest(Dedup("id", scope="ids"), "a/f") == digest(Dedup("id", scope="ids"), "b/g")
    assert digest(Dedup("id", scope="a/f"), "a/f") != digest("id", "a/f")


def test_groups_do_not_wait_for_each_other() -> None:
    assert lock_number("one") == lock_number("one") != lock_number("other")


# Registration


class Plain(msgspec.Struct):
    id: int


async def later(event: Plain) -> int:
    return event.id


@pytest.mark.parametrize(
    ("kind", "dedup", "told"),
    [
        (Plain, "order_id", "no field of Plain"),
        (bytes, "id", "has no fields"),
        (int, "id", "has no fields"),
        (None, "id", "tombstone"),
        (Plain, lambda: 1, "one value"),
        (Plain, lambda a, b: 1, "one value"),
        (Plain, later, "async"),
        (Plain, 7, "neither"),
        (Plain | Return, "id", "no field"),
    ],
)
def test_what_cannot_be_a_key_is_told_at_registration(kind: Any, dedup: Any, told: str) -> None:
    def handle(event: Any) -> None: ...

    handle.__annotations__["event"] = kind
    with pytest.raises(PipelineError, match=told):
        Pipeline("p").handler("t", dedup=dedup)(handle)


@pytest.mark.parametrize("retention", [timedelta(0), timedelta(days=-1), timedelta(days=4_000)])
def test_a_retention_has_limits(retention: timedelta) -> None:
    with pytest.raises(PipelineError, match="retention"):
        Pipeline("p", dedup_retention=retention)


def test_a_field_may_be_an_item() -> None:
    key = bind_key("id", "t/h", (dict,))
    assert key.digest({"id": 1}) == bind_key(itemgetter("id"), "t/h", (dict,)).digest({"id": 1})
    assert key.digest({}) is None


def test_a_refusal_of_postgres_is_kept_apart_from_keys() -> None:
    """The store of lists refuses as Postgres does."""
    store = KeyedStore()
    store.refuse(1)
    assert isinstance(store.refusal, StatementFailed)
