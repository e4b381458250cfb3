"""The same random statements on the real and on the simulated Postgres: the same answers."""

from __future__ import annotations

from random import Random
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from processor.testing.postgres.tables import DIALECT
from tests.support.databases import PostgresWorld
from tests.support.simulated_database import SimulatedWorld

TABLE = "CREATE TABLE alike (n int PRIMARY KEY, text text, total bigint UNIQUE)"
STATEMENTS = (
    "BEGIN; SET LOCAL lock_timeout = 15",
    "BEGIN; SET LOCAL lock_timeout = 15",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT message",
    "RELEASE SAVEPOINT message",
    "ROLLBACK TO SAVEPOINT message",
    "INSERT INTO alike VALUES ({n}, '{word}')",
    "INSERT INTO alike VALUES ({n}, '{word}', {m}), ({m}, NULL, {n})",
    "INSERT INTO alike VALUES ({n}, '{word}', {m}) ON CONFLICT DO NOTHING",
    "INSERT INTO alike AS t (n, total) SELECT * FROM unnest('{{{n},{m}}}'::int[],"
    " '{{{m},NULL}}'::bigint[]) ON CONFLICT (n) DO UPDATE"
    " SET total = COALESCE(t.total, 0) + COALESCE(EXCLUDED.total, 0)",
    "INSERT INTO alike AS t (n, total) VALUES ({n}, {m}) ON CONFLICT (total) DO UPDATE"
    " SET text = GREATEST(t.text, '{word}') RETURNING t.n, text",
    "UPDATE alike SET text = text || '{word}' WHERE n <= {n}",
    "UPDATE alike SET n = {m} WHERE n = {n} RETURNING n, total",
    "UPDATE alike SET text = 'c' WHERE n = {n} OR total < {m} AND NOT (total = {n} OR text = 'a')",
    "UPDATE alike a SET total = b.t FROM unnest('{{{n}}}'::int[], '{{{m}}}'::bigint[]) AS b (n, t)"
    " WHERE a.n = b.n AND a.total IS NULL",
    "UPDATE alike SET total = NULLIF(total, {m}), text = CASE WHEN total < {n} THEN '{word}' END",
    "DELETE FROM alike WHERE n = {n}",
    "DELETE FROM alike WHERE NOT total = {m} AND text LIKE '{word}%' RETURNING n",
    "SELECT * FROM alike ORDER BY n",
    "SELECT n, total FROM alike WHERE total >= {n} ORDER BY total DESC LIMIT 2 FOR UPDATE",
    "SELECT count(*), max(total), min(text), sum(total)::bigint, count(text) FROM alike",
    "SELECT n FROM alike WHERE (n, total) IN (SELECT * FROM unnest('{{{n},{m}}}'::int[],"
    " '{{{m},{n}}}'::bigint[])) ORDER BY n FOR UPDATE NOWAIT",
    "WITH gone AS (DELETE FROM alike WHERE n = {n} RETURNING n, text) SELECT * FROM gone",
    "SELECT 7 / ({n} - {m}), -7 / {n}",
    "SELECT n FROM alike a WHERE total > {n} AND NOT EXISTS"
    " (SELECT FROM alike b WHERE b.n = a.total AND text = '{word}') ORDER BY n",
    "UPDATE alike SET text = '{word}' WHERE EXISTS (SELECT 1 FROM alike b, unnest('{{{m}}}'::int[])"
    " AS k WHERE b.total = alike.n AND b.n <> k)",
    "INSERT INTO alike (n) SELECT k FROM unnest('{{{n},{m}}}'::int[]) AS k WHERE true AND"
    " NOT EXISTS (SELECT FROM alike o WHERE o.total = k) ORDER BY k ON CONFLICT DO NOTHING",
    "SELECT n, text FROM alike WHERE total >= {n} ORDER BY n FOR SHARE",
    "SELECT pg_advisory_xact_lock_shared({n})",
    "SELECT pg_advisory_xact_lock({n})",
    "CREATE TABLE fleeting_{n} (n int PRIMARY KEY)",
    "DROP TABLE IF EXISTS fleeting_{n}",
    "DROP TABLE fleeting_{n}",
    "INSERT INTO fleeting_{n} VALUES ({m}) ON CONFLICT DO NOTHING",
    "SELECT n, to_regclass('fleeting_{n}') IS NULL FROM fleeting_{m}",
    "SELECT * FROM alike WHERE n = ANY ('{{{n},{m}}}'::int[]) AND (total IS NULL OR total > 1)"
    " ORDER BY n",
)


def script(seed: int, length: int) -> list[tuple[int, str]]:
    """Statements, each with the number of the connection that sends it."""
    random = Random(seed)
    return [
        (
            random.randrange(3),
            random.choice(STATEMENTS).format(
                n=random.randint(1, 4), m=random.randint(1, 4), word=random.choice("ab")
            ),
        )
        for _ in range(length)
    ]


def answers(world: PostgresWorld, statements: list[tuple[int, str]]) -> list[Any]:
    world.observed.execute(TABLE)
    connections = [world.connection() for _ in range(3)]
    for connection in connections:
        connection.execute("SET lock_timeout = 15")
    told: list[Any] = []
    for number, statement in statements:
        connection = connections[number]
        try:
            cursor = connection.execute(statement.encode())
        except psycopg.Error as error:
            told.append((number, statement, error.sqlstate))
        else:
            rows = None if "RETURNING" in statement else _rows(cursor)
            told.append((number, statement, cursor.statusmessage, rows))
        told.append(connection.info.transaction_status.name)
    for connection in connections:
        connection.execute("ROLLBACK")
    told.append(world.observed.rows("SELECT * FROM alike ORDER BY n"))
    return told


def _rows(cursor: Any) -> list[Any] | None:
    try:
        rows: list[Any] = cursor.fetchall()
    except psycopg.ProgrammingError:
        return None
    return rows


FUNCTIONS = (
    "SELECT lower('Ab'), upper('Ab'), length('äb'), length('\\x0102'::bytea), abs(-7), abs(2.5)",
    "SELECT lower(NULL), upper(NULL::text), length(NULL), abs(NULL::int)",
    *(
        f"SELECT {left} AND {right}, {left} OR {right}, NOT ({left} OR {right} AND {left})"
        for left in ("true", "false", "NULL::bool")
        for right in ("true", "false", "NULL::bool")
    ),
    "SELECT encode(uuid_send('6b1c3a66-0c0e-4d3a-8a53-0a5d63ea1b2f'::uuid), 'hex'),"
    " encode('\\x00ff'::bytea, 'hex'), uuid_send(NULL::uuid)",
    "SELECT string_agg(encode(uuid_send(k), 'hex'), ',') FROM"
    " unnest('{00000000-0000-0000-0000-000000000002,NULL}'::uuid[]) AS k",
    "SELECT string_agg(k::text, ',') FROM unnest('{}'::int[]) AS k",
    "SELECT clock_timestamp() >= now()",
    "SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock_shared(1, 2)",
    "SELECT coalesce(NULL, 1), nullif(2, 2), greatest(1, NULL, 3), least(4, NULL, 2)",
)


@pytest.mark.parametrize("statement", FUNCTIONS)
def test_functions_answer_alike(real_world: PostgresWorld, group: str, statement: str) -> None:
    simulated = SimulatedWorld(group)
    expected, found = (
        world.connection().execute(statement.encode()).fetchall()
        for world in (real_world, simulated)
    )
    assert found == expected
    simulated.close()


shelves = MetaData()
shelf = Table("shelf", shelves, Column("room", Integer, primary_key=True), Column("n", Integer))
book = Table(
    "book",
    shelves,
    Column("title", Text, primary_key=True),
    Column("room", Integer, ForeignKey("shelf.room")),
    Column("word", Text, server_default=text("'it''s'::text")),
    Column("at", DateTime(timezone=True), server_default=text("CURRENT_TIMESTAMP")),
    Index("book_word", "word", unique=True),
)


def test_tables_of_sqlalchemy_answer_alike(real_world: PostgresWorld, group: str) -> None:
    """Foreign keys, unique indexes and defaults, as a pipeline declares them."""
    simulated = SimulatedWorld(group)
    for table in shelves.sorted_tables:
        real_world.observed.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        simulated.server.create_table(table)
    [unique] = book.indexes
    real_world.observed.execute(str(CreateIndex(unique).compile(dialect=DIALECT)))
    statements = (
        "INSERT INTO book (title, room) VALUES ('a', 1)",
        "INSERT INTO book (title, room) VALUES ('a', NULL)",
        "INSERT INTO shelf VALUES (1, 5)",
        "INSERT INTO book (title, room, word) VALUES ('b', 1, 'b')",
        "INSERT INTO book (title, room) VALUES ('c', 1)",
        "INSERT INTO book (title, room, word) VALUES ('c', 2, 'c'), ('d', 1, 'd')",
        "UPDATE book SET room = 2 WHERE title = 'a'",
        "UPDATE book SET room = 1 WHERE title = 'a'",
        "SELECT title, room, word, at IS NULL, at <= now() FROM book ORDER BY title",
    )
    real, found = (
        [answer(world, each) for each in statements] for world in (real_world, simulated)
    )
    assert found == real
    assert real[:6] == ["23503", "INSERT 0 1", "INSERT 0 1", "INSERT 0 1", "23505", "23503"]
    simulated.close()


def answer(world: PostgresWorld, statement: str) -> Any:
    connection = world.connection()
    try:
        cursor = connection.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    rows = _rows(cursor)
    return cursor.statusmessage if rows is None else rows


@pytest.mark.parametrize("seed", range(20))
def test_they_answer_alike(real_world: PostgresWorld, group: str, seed: int) -> None:
    simulated = SimulatedWorld(group)
    statements = script(seed, 80)
    real = answers(real_world, statements)
    for at, (expected, found) in enumerate(zip(real, answers(simulated, statements), strict=True)):
        assert found == expected, f"answer {at} to {statements[: at // 2 + 1]}"
    simulated.close()
