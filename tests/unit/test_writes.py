"""Merged and reordered writes must leave what the calls, one by one and in order, would leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    Interval,
    MetaData,
    Numeric,
    Table,
    Text,
)

from processor.errors import PipelineError
from processor.transaction import Transaction
from processor.writes import CopyWrite, Operation, UpsertWrite, WriteBuffer, fold

metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("region", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("mail", Text, unique=True),
    Column("views", BigInteger, server_default="0"),
    Column("score", Numeric, server_default="7"),
    Column("seen", Numeric),
    Column("name", Text),
    Column("ratio", Float),
    Column("spent", Interval),
)
orders = Table(
    "z_order",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("region", Text, ForeignKey("accounts.region")),
    Column("origin", Text, default="web"),
    Column("made_at", DateTime(timezone=True), default=lambda: datetime(2025, 1, 1, tzinfo=UTC)),
)
order_lines = Table(
    "a_line",
    metadata,
    Column("order_id", BigInteger, ForeignKey("z_order.id"), primary_key=True),
    Column("line", Integer, primary_key=True),
)
keyless = Table("b_log", metadata, Column("text", Text))

Row = dict[str, Any]
Write = CopyWrite | UpsertWrite
EXACT = Context(prec=500)


class Recorder:
    """A session that keeps what it is given, in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def copy(self, write: CopyWrite) -> None:
        self.seen.append(write)

    def upsert(self, write: UpsertWrite) -> None:
        self.seen.append(write)

    def execute(self, statement: Any, parameters: Any) -> int:
        self.seen.append(statement)
        return 3

    def fetch_one(self, statement: Any, parameters: Any) -> tuple[Any, ...] | None:
        self.seen.append(statement)
        return (1,)

    def fetch_all(self, statement: Any, parameters: Any) -> list[tuple[Any, ...]]:
        self.seen.append(statement)
        return [(1,), (2,)]


class Upsert:
    """One call: whom it is about, by which of the two keys, and what it does."""

    def __init__(
        self, who: int, by_mail: bool, changes: Mapping[str, tuple[Operation, Any]]
    ) -> None:
        identity = {"region": "eu", "id": who, "mail": f"{who}@example.org"}
        self.key = ("mail",) if by_mail else ("region", "id")
        self.row: Row = identity | {name: value for name, (_, value) in changes.items()}
        self.operations: dict[str, Operation] = {
            name: "set" for name in identity if name not in self.key
        }
        self.operations |= {name: operation for name, (operation, _) in changes.items()}

    def __repr__(self) -> str:
        return f"Upsert({self.row}, key={self.key}, {self.operations})"


class Database:
    """INSERT … ON CONFLICT … DO UPDATE for the table ``accounts``, told in Python."""

    DEFAULTS: ClassVar[Row] = {"views": 0, "score": Decimal(7)}

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def upsert(self, key: Sequence[str], row: Row, operations: Mapping[str, Operation]) -> None:
        for old in self.rows:
            if all(old[name] == row[name] for name in key):
                old |= {
                    name: changed(how, old[name], row[name]) for name, how in operations.items()
                }
                return
        empty: Row = dict.fromkeys(column.name for column in accounts.columns)
        self.rows.append(empty | self.DEFAULTS | row)

    def apply(self, writes: Iterable[Write]) -> list[Row]:
        for write in writes:
            assert isinstance(write, UpsertWrite)
            assert len({row[: len(write.key)] for row in write.rows}) == len(write.rows)
            for row in write.rows:
                values = dict(zip(write.columns, row, strict=True))
                self.upsert(write.key, values, dict(write.operations))
        return sorted(self.rows, key=lambda row: row["id"])


def changed(operation: Operation, old: Any, new: Any) -> Any:
    if operation == "set":
        return new
    if operation == "add":
        return EXACT.add(Decimal(old or 0), Decimal(new or 0))
    present = [value for value in (old, new) if value is not None]
    choose = max if operation == "max" else min
    return choose(present, key=collated) if present else None


def collated(value: Any) -> Any:
    """As a database does whose collation is not the order of code points."""
    return (value.casefold(), value) if isinstance(value, str) else value


def one_by_one(calls: Iterable[Upsert]) -> list[Row]:
    database = Database()
    for call in calls:
        database.upsert(call.key, call.row, call.operations)
    return database.apply([])


def merged(calls: Iterable[Upsert]) -> list[Row]:
    return Database().apply(drained(calls))


def drained(calls: Iterable[Upsert]) -> list[Write]:
    buffer = WriteBuffer()
    for call in calls:
        buffer.upsert(accounts, call.row, key=call.key, operations=call.operations)
    return list(buffer.drain())


whole = st.none() | st.integers(-5, 5)
exact = st.none() | st.sampled_from([Decimal(n) for n in ("0", "-3", "1e29", "0.01", "7")])
texts = st.none() | st.sampled_from(["a", "B", "b", "C"])
arithmetic = st.sampled_from(["add", "max", "min", "set"])
columns = {
    "views": st.tuples(arithmetic, whole),
    "score": st.tuples(arithmetic, exact),
    "seen": st.tuples(arithmetic, exact),
    "name": st.tuples(st.sampled_from(["max", "min", "set"]), texts),
}
upserts = st.builds(
    Upsert,
    st.integers(1, 3),
    st.booleans(),
    st.fixed_dictionaries({}, optional=columns),
)


@given(st.lists(upserts, max_size=12))
def test_merged_upserts_equal_the_calls_one_by_one(calls: list[Upsert]) -> None:
    assert merged(calls) == one_by_one(calls)


@given(st.lists(upserts, max_size=12))
def test_rows_of_a_write_are_sorted_by_key(calls: list[Upsert]) -> None:
    for write in drained(calls):
        keys = [row[: len(write.key)] for row in write.rows]
        assert keys == sorted(keys)


@given(st.lists(upserts, min_size=1, max_size=12))
@example([Upsert(1, False, {"views": ("add", 1)})] * 5)
def test_a_drained_buffer_is_empty(calls: list[Upsert]) -> None:
    buffer = WriteBuffer()
    for call in calls:
        buffer.upsert(accounts, call.row, key=call.key, operations=call.operations)
    assert buffer
    assert list(buffer.drain())
    assert not buffer
    assert list(buffer.drain()) == []


def upsert(who: int, **changes: tuple[Operation, Any]) -> Upsert:
    return Upsert(who, False, changes)


def test_calls_for_one_key_become_one_row() -> None:
    calls = [upsert(n % 3, views=("add", 1), seen=("max", n)) for n in range(300)]
    (write,) = drained(calls)
    assert [row[2:] for row in write.rows] == [
        ("0@example.org", 297, 100),
        ("1@example.org", 298, 100),
        ("2@example.org", 299, 100),
    ]
    assert write.columns == ("region", "id", "mail", "seen", "views")


def test_a_set_absorbs_what_came_before_it() -> None:
    calls = [upsert(1, seen=("add", 5)), upsert(1, seen=("set", 1)), upsert(1, seen=("add", 2))]
    (write,) = drained(calls)
    assert write.rows == [("eu", 1, "1@example.org", 3)]
    assert dict(write.operations)["seen"] == "set"


def test_what_no_statement_can_say_takes_a_second_round() -> None:
    calls = [upsert(1, seen=("add", 5)), upsert(1, seen=("max", 9)), upsert(2, seen=("add", 1))]
    first, second = drained(calls)
    assert [row[1] for row in first.rows] == [1, 2]
    assert [row[1] for row in second.rows] == [1]


def test_a_change_by_another_key_keeps_its_place() -> None:
    calls = [
        Upsert(1, False, {"seen": ("set", Decimal(1))}),
        Upsert(1, True, {"seen": ("set", Decimal(2))}),
        Upsert(1, False, {"seen": ("set", Decimal(3))}),
    ]
    assert merged(calls)[0]["seen"] == 3


def test_a_default_of_the_database_takes_part() -> None:
    calls = [upsert(1), upsert(1, score=("add", Decimal(1)))]
    assert merged(calls)[0]["score"] == 8


def test_text_is_compared_by_the_database() -> None:
    calls = [upsert(1, name=("max", "a")), upsert(1, name=("max", "B"))]
    assert len(drained(calls)) == 2
    assert merged(calls)[0]["name"] == "B"


def test_not_a_number_is_compared_by_the_database() -> None:
    calls = [upsert(1, ratio=("max", 1.0)), upsert(1, ratio=("max", float("nan")))]
    assert len(drained(calls)) == 2


def test_what_python_cannot_add_is_left_to_the_database() -> None:
    calls = [upsert(1, seen=("add", Decimal(1))), upsert(1, seen=("add", 0.5))]
    assert len(drained(calls)) == 2
    kept = [upsert(1, spent=("max", timedelta(0))), upsert(1, spent=("max", timedelta(1)))]
    assert [row[-1] for write in drained(kept) for row in write.rows] == [timedelta(1)]


def test_decimals_are_added_without_rounding() -> None:
    assert fold("add", Decimal("1e40"), Decimal("0.01")) == Decimal(10**42 + 1).scaleb(-2, EXACT)


def test_keys_that_do_not_compare_have_an_order_all_the_same() -> None:
    calls = [upsert(2), upsert(1)]
    for call in calls:
        call.row["region"] = None if call.row["id"] == 1 else "eu"
    orders_seen = {tuple(drained(each)[0].rows) for each in (calls, calls[::-1])}
    assert len(orders_seen) == 1


def test_parents_are_written_before_children() -> None:
    tx, session = transaction()
    tx.insert(order_lines, {"order_id": 1, "line": 1})
    tx.insert(keyless, {"text": "beside it all"})
    tx.insert(orders, {"id": 1, "region": "eu"})
    tx.upsert(accounts, {"region": "eu", "id": 1, "views": 1}, add=["views"])
    tx.flush()
    written = [write.table.name for write in session.seen]
    assert sorted(written) == ["a_line", "accounts", "b_log", "z_order"]
    assert written.index("accounts") < written.index("z_order") < written.index("a_line")


def test_inserts_keep_their_order_and_get_their_defaults() -> None:
    tx, session = transaction()
    tx.insert(orders, {"id": 2, "region": "us"})
    tx.insert(orders, {"id": 1, "region": "eu", "origin": "shop"})
    tx.insert(orders, {"id": 0, "region": "eu"})
    tx.flush()
    made = datetime(2025, 1, 1, tzinfo=UTC)
    (write,) = session.seen
    assert write.columns == ("id", "region", "origin", "made_at")
    assert write.rows == [
        (2, "us", "web", made),
        (1, "eu", "shop", made),
        (0, "eu", "web", made),
    ]


def test_inserts_go_before_upserts_of_the_same_table() -> None:
    tx, session = transaction()
    tx.insert(accounts, {"region": "eu", "id": 1})
    tx.upsert(accounts, {"region": "eu", "id": 1, "views": 1}, add=["views"])
    tx.flush()
    assert [type(write) for write in session.seen] == [CopyWrite, UpsertWrite]


@pytest.mark.parametrize("method", ["execute", "fetch_one", "fetch_all"])
def test_a_statement_sees_what_was_written_before_it(method: str) -> None:
    tx, session = transaction()
    tx.insert(orders, {"id": 1})
    result = getattr(tx, method)("SELECT 1")
    assert result == {"execute": 3, "fetch_one": (1,), "fetch_all": [(1,), (2,)]}[method]
    copied, statement = session.seen
    assert isinstance(copied, CopyWrite)
    assert statement == "SELECT 1"
    tx.flush()
    assert len(session.seen) == 2


def test_the_primary_key_is_the_key_and_the_rest_is_set() -> None:
    tx, session = transaction()
    tx.upsert(accounts, {"region": "eu", "id": 1, "name": "a", "views": 2}, add=["views"])
    tx.flush()
    (write,) = session.seen
    assert write.key == ("region", "id")
    assert write.operations == (("name", "set"), ("views", "add"))


ROW: Row = {"region": "eu", "id": 1, "views": 1, "seen": Decimal(1)}


@pytest.mark.parametrize(
    ("table", "row", "how", "complaint"),
    [
        (accounts, ROW | {"vews": 1}, {}, "table accounts has no column 'vews'"),
        (accounts, ROW, {"key": ["e-mail"]}, "table accounts has no column 'e-mail'"),
        (accounts, ROW, {"add": ["vews"]}, "the row lacks 'vews'"),
        (accounts, {"region": "eu", "views": 1}, {"add": ["views"]}, "the row lacks 'id'"),
        (accounts, ROW, {"add": ["views"], "max": ["views"]}, "'views' is named twice"),
        (accounts, ROW, {"min": ["id"]}, "'id' is named twice"),
        (accounts, ROW, {"add": ["views"], "set": []}, "what to do with 'seen'?"),
        (keyless, {"text": "x"}, {}, "it has no primary key, name key="),
    ],
)
def test_an_upsert_that_makes_no_sense_is_refused(
    table: Table, row: Row, how: dict[str, Any], complaint: str
) -> None:
    tx, session = transaction()
    with pytest.raises(PipelineError, match=r"^[^\n]*$") as refused:
        tx.upsert(table, row, **how)
    assert complaint in str(refused.value)
    tx.flush()
    assert session.seen == []


def test_an_insert_into_an_unknown_column_is_refused() -> None:
    tx, session = transaction()
    with pytest.raises(PipelineError, match="table z_order has no column 'amuont'"):
        tx.insert(orders, {"id": 1, "amuont": 3})
    tx.flush()
    assert session.seen == []


def transaction() -> tuple[Transaction, Recorder]:
    session = Recorder()
    return Transaction(session), session
