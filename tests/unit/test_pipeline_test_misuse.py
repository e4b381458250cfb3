"""``processor.testing``: what cannot be is told in one sentence, with the cure."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM, INET, TSTZRANGE, ExcludeConstraint

from processor import Message, Output, Pipeline, Transaction
from processor.errors import PipelineError
from processor.testing import PipelineTest, PipelineTestError, Step

metadata = MetaData()
items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("word", Text, server_default="none"),
)
REAL = "run this test on a real Postgres, with the fixture running_pipeline"


def asking(statement: str, parameters: Any = None) -> Pipeline:
    """A handler that runs one statement and sends what it finds."""
    pipeline = Pipeline("asking", outputs=["out"], tables=metadata)

    @pipeline.handler("in")
    def asked(_: Message[bytes], tx: Transaction) -> Output:
        return Output("out", value=[list(row) for row in tx.fetch_all(statement, parameters)])

    return pipeline


def writing(write: Callable[[Transaction], object], **named: Any) -> Pipeline:
    pipeline = Pipeline("writing", outputs=["out"], **{"tables": metadata, **named})

    @pipeline.handler("in")
    def written(message: Message[bytes], tx: Transaction) -> None:
        write(tx)

    return pipeline


def nothing(_: Transaction) -> None:
    """What most of these handlers do."""


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda test: test.send("out", b""),
            "topic 'out' is no input of pipeline 'writing'; it has: 'in'",
        ),
        (
            lambda test: test.outputs("in"),
            "topic 'in' is no output of pipeline 'writing'; it has: 'out'",
        ),
        (
            lambda test: test.send("in", b"", partition=1),
            "topic 'in' has 1 partitions and no 1; ask for more of them: partitions=2",
        ),
        (lambda test: test.send("in", object()), "topic 'in': its codec cannot encode object"),
        (
            lambda test: test.rows(Table("other", MetaData())),
            "table 'other' is not in the database, which has: items; name it: tables=metadata",
        ),
        (lambda test: test.insert(Table("other", MetaData()), {}), "table 'other' is not"),
        (lambda test: test.crash_at("comit"), "there is no step 'comit'; the steps: consume, "),
        (
            lambda test: test.crash_at(Step.COMMIT, "while"),
            "there is no edge 'while'; a step has: before, inside, after",
        ),
        (lambda test: test.crash_at(Step.COMMIT, visit=0), "visit is 0; the first one is 1"),
        (lambda test: test.resume(), "there is nothing to resume: no such partition has halted"),
    ],
)
def test_a_mistake_is_named(ask: Callable[[PipelineTest], object], sentence: str) -> None:
    with (
        PipelineTest(writing(nothing)) as test,
        pytest.raises(PipelineTestError, match=re.escape(sentence)),
    ):
        ask(test)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"partitions": {"elsewhere": 2}}, "topic 'elsewhere' is no topic of pipeline 'writing'"),
        ({"batch_max_mesages": 1}, "settings: batch_max_mesages: Extra inputs are not permitted"),
        ({"batch_max_messages": 0}, "settings: batch_max_messages: Input should be greater"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PipelineTestError, match=re.escape(sentence)):
        PipelineTest(writing(nothing), **arguments)


def test_a_pipeline_without_handlers_is_none() -> None:
    with pytest.raises(PipelineError, match="has no handler"):
        PipelineTest(Pipeline("empty"))


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"id": 1, "wrod": "x"}, PipelineError),
        ({"id": 1}, psycopg.errors.UniqueViolation),
        ({"id": "x"}, psycopg.errors.InvalidTextRepresentation),
    ],
)
def test_a_row_that_is_refused_leaves_nothing(row: dict[str, Any], error: type[Exception]) -> None:
    with PipelineTest(writing(nothing)) as test:
        test.insert(items, {"id": 1})
        with pytest.raises(error):
            test.insert(items, [{"id": 2}, row])
        assert test.rows(items) == [{"id": 1, "word": "none"}]


class TestStatements:
    """Of SQL that the database in memory has not learned."""

    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            ("SELECT word, count(*) FROM items GROUP BY word", "'GROUP' in: SELECT word, count(*)"),
            ("SELECT count(*) FROM items HAVING count(*) > 1", "'HAVING' in: SELECT count(*)"),
            ("SELECT id FROM items UNION SELECT 1", "'UNION' in: SELECT id FROM items"),
            ("SELECT count(*) OVER () FROM items", "'OVER' in: SELECT count(*) OVER ()"),
            ("SELECT md5(word) FROM items", "the function md5"),
            ("SELECT '1 day'::interval", "the interval 1 day"),
            ("SELECT '::1'::inet", "the type inet"),
            (
                "SELECT i.id FROM items i LEFT JOIN items o ON o.id = i.id",
                "'LEFT' in: SELECT i.id FROM items i",
            ),
            ("SELECT id::int4range FROM items", "the type int4range"),
            ("MERGE INTO items USING items AS i ON true", "'MERGE' in: MERGE INTO items"),
            ("SELECT id FROM items WHERE word ~ 'x'", "\"~ 'x'\" in: SELECT id FROM items"),
        ],
    )
    def test_it_is_named(self, statement: str, told: str) -> None:
        with PipelineTest(asking(statement)) as test:
            test.send("in", b"")
            sentence = re.escape(f"the in-memory database does not know {told}")
            with pytest.raises(PipelineTestError, match=f"{sentence}.*{REAL}"):
                test.outputs("out")
            with pytest.raises(PipelineTestError, match=sentence):
                test.dead_letters()

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            (
                "INSERT INTO items VALUES (2, 'x') ON CONFLICT (id) DO UPDATE"
                " SET word = items.word || EXCLUDED.word RETURNING id, word",
                [[2, "bx"]],
            ),
            (
                "UPDATE items SET word = o.word FROM items AS o WHERE o.id = 2 AND items.id = 1"
                " RETURNING items.word",
                [["b"]],
            ),
            (
                "DELETE FROM items USING items AS o WHERE o.id = items.id + 1 RETURNING items.id",
                [[1]],
            ),
            ("SELECT i.id FROM items i JOIN items o ON o.id = i.id + 1", [[1]]),
            ("SELECT id FROM items WHERE word IN ('b', 'c') FOR UPDATE", [[2]]),
            ("SELECT id FROM items ORDER BY word DESC LIMIT 1", [[2]]),
            ("WITH gone AS (DELETE FROM items RETURNING id) SELECT count(*) FROM gone", [[2]]),
            (
                "SELECT lower(upper(word)), length(word), abs(-id) FROM items WHERE id = 2",
                [["b", 1, 2]],
            ),
            ("SELECT count(*), sum(id), min(word), max(word) FROM items", [[2, 3, "a", "b"]]),
        ],
    )
    def test_what_it_has_learned(self, statement: str, found: list[Any]) -> None:
        with PipelineTest(asking(statement)) as test:
            test.insert(items, [{"id": 1, "word": "a"}, {"id": 2, "word": "b"}])
            test.send("in", b"")
            assert [each.json() for each in test.outputs("out")] == [found]

    def test_a_handler_cannot_swallow_it(self) -> None:
        def swallowing(tx: Transaction) -> None:
            try:
                tx.execute("SELECT md5('X')")
            except Exception:
                return

        with PipelineTest(writing(swallowing)) as test:
            test.send("in", b"")
            with pytest.raises(PipelineTestError, match="does not know the function md5"):
                test.rows(items)

    def test_a_comparison_that_python_cannot_make(self) -> None:
        with PipelineTest(asking("SELECT id FROM items WHERE id < 'x'")) as test:
            test.insert(items, {"id": 1})
            test.send("in", b"")
            with pytest.raises(PipelineTestError, match=f"cannot do this \\(TypeError.*{REAL}"):
                test.outputs("out")

    def test_a_percent_sign_is_written_twice_beside_parameters(self) -> None:
        with PipelineTest(
            asking("SELECT id FROM items WHERE word = '5%%' AND id = %s", [1])
        ) as test:
            test.insert(items, {"id": 1, "word": "5%"})
            test.send("in", b"")
            assert [each.json() for each in test.outputs("out")] == [[[1]]]


class TestTables:
    """Of tables that the database in memory cannot hold."""

    @pytest.mark.parametrize(
        ("parts", "told"),
        [
            ([Column("at", INET)], "the type inet of column 'at'"),
            ([Column("n", Integer, Computed("1 + 1"))], "the computed column 'n'"),
            (
                [Column("n", Integer, server_default=text("random()"))],
                "the default of column 'n'",
            ),
            (
                [
                    Column("n", Integer),
                    Index("of", "n", unique=True, postgresql_where=text("n > 1")),
                ],
                "the unique index 'of', partial or of expressions",
            ),
            (
                [Column("n", Text), Index("of", func.lower(text("n")), unique=True)],
                "the unique index 'of', partial or of expressions",
            ),
            (
                [Column("n", Text), CheckConstraint("md5(n) = n")],
                "its CHECK constraint: the function md5",
            ),
            (
                [Column("n", Text), ExcludeConstraint(("n", "="), name="ex")],
                "the exclusion constraint 'ex'",
            ),
            ([Column("during", TSTZRANGE)], "the type tstzrange of column 'during'"),
            ([Column("kind", ENUM("a", name="kind"))], "the type kind of column 'kind'"),
            ([Column("place", INET)], "the type inet of column 'place'"),
        ],
    )
    def test_they_are_named(self, parts: list[Any], told: str) -> None:
        table = Table("odd", MetaData(), *parts)
        sentence = f"table 'odd': the in-memory database does not know {told}; {REAL}"
        with pytest.raises(PipelineTestError, match=re.escape(sentence)):
            PipelineTest(writing(nothing), tables=[table])

    def test_defaults_and_unique_indexes_hold(self) -> None:
        table = Table(
            "held",
            MetaData(),
            Column("id", BigInteger, primary_key=True),
            Column("at", DateTime(timezone=True), server_default=func.now()),
            Column("then", DateTime(timezone=True), server_default=text("CURRENT_TIMESTAMP")),
            Column("word", Text, server_default=text("'it''s'::text")),
            Column("yes", Text, server_default="'"),
            Column("n", Integer, server_default=text("7")),
            Column("key", Text),
            Index("held_key", "key", unique=True),
            CheckConstraint("n > 0"),
        )

        def write(tx: Transaction) -> None:
            tx.insert(table, {"key": "k"})

        with PipelineTest(writing(write), tables=[table]) as test:
            test.send("in", b"")
            test.send("in", b"")
            [row] = test.rows(table)
            assert row["id"] > 0
            assert (row["word"], row["yes"], row["n"]) == ("it's", "'", 7)
            assert row["at"] == row["then"]
            assert test.now >= row["at"] >= test.now.replace(hour=0, minute=0, second=0)
            [letter] = test.dead_letters()
            assert (letter.offset, letter.error) == (1, "UniqueViolation")
            with pytest.raises(psycopg.errors.CheckViolation):
                test.insert(table, {"n": 0})


class TestForeignKeys:
    """What a row refers to has to be there."""

    @pytest.fixture
    def shelves(self) -> tuple[Table, Table, MetaData]:
        held = MetaData()
        shelf = Table(
            "shelf",
            held,
            Column("room", Integer, primary_key=True),
            Column("number", Integer, primary_key=True),
        )
        book = Table(
            "book",
            held,
            Column("title", Text, primary_key=True),
            Column("shelf", Integer),
            Column("room", Integer),
            ForeignKeyConstraint(["shelf", "room"], ["shelf.number", "shelf.room"]),
        )
        return shelf, book, held

    def test_a_table_that_is_not_there_is_named(
        self, shelves: tuple[Table, Table, MetaData]
    ) -> None:
        _, book, _ = shelves
        sentence = "table 'book' refers to 'shelf', which is not among the tables; name it as well"
        with pytest.raises(PipelineTestError, match=sentence):
            PipelineTest(writing(nothing), tables=[book])

    def test_a_row_without_it_is_refused(self, shelves: tuple[Table, Table, MetaData]) -> None:
        shelf, book, held = shelves
        pipeline = Pipeline("books", tables=held)

        @pipeline.handler("in")
        def put(message: Message[bytes], tx: Transaction) -> None:
            title = message.value.decode()
            tx.insert(book, {"title": title, "room": 1, "shelf": len(title)})
            if title == "new":
                tx.insert(shelf, {"room": 1, "number": len(title)})

        with PipelineTest(pipeline) as test:
            test.insert(shelf, {"room": 1, "number": 2})
            test.insert(book, {"title": "none", "room": 1, "shelf": None})
            for title in ("ab", "abcd", "new"):
                test.send("in", title)
            [letter] = test.dead_letters()
            assert (letter.value, letter.error) == (b"abcd", "ForeignKeyViolation")
            assert {row["title"] for row in test.rows(book)} == {"none", "ab", "new"}
            with pytest.raises(psycopg.errors.ForeignKeyViolation, match=r"\(9, 2\)|=\(2, 9\)"):
                test.insert(book, {"title": "x", "room": 9, "shelf": 2})


class TestRunning:
    """What can go wrong while the engine runs."""

    def test_a_crash_that_does_not_come(self) -> None:
        with PipelineTest(writing(nothing)) as test:
            test.crash_at(Step.ABORT)
            test.send("in", b"")
            with pytest.raises(PipelineTestError, match=r"did not come to abort\.before, where it"):
                test.rows(items)
            assert test.rows(items) == []

    def test_another_thread(self) -> None:
        found: list[BaseException] = []

        def send() -> None:
            try:
                test.send("in", b"")
            except PipelineTestError as error:
                found.append(error)

        with PipelineTest(writing(nothing)) as test:
            thread = threading.Thread(target=send)
            thread.start()
            thread.join()
        assert "works in the thread alone that has made it" in str(found)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_ends_a_process_ends_the_test(self, error: type[BaseException]) -> None:
        def end(_: Transaction) -> None:
            raise error("now")

        with PipelineTest(writing(end)) as test:
            test.send("in", b"")
            with pytest.raises(error, match="now"):
                test.rows(items)

    def test_without_end(self) -> None:
        """Nothing that a test can say makes it so; what the fakes can do does."""
        with PipelineTest(writing(nothing)) as test:
            test._world.network.cut.add(("worker", "kafka"))
            test.send("in", b"")
            with pytest.raises(PipelineTestError, match="'writing' does not come to rest within"):
                test.rows(items)
