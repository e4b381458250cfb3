"""What a test does to the stores in memory beside the worker, and what they could not do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table

from processor.engine.batch import Partition
from processor.engine.statements import insert_statement, plain_rows
from processor.engine.triggers import letter_trigger, queue_triggers, trigger_key
from processor.testing.declared import REAL
from processor.testing.driver import Replacement
from processor.testing.kafka.broker import Broker
from processor.testing.postgres import Server, UnknownStatement
from processor.testing.results import PipelineTestError
from processor.writes import CopyWrite, check_columns

RESUME = """
INSERT INTO processor.control (group_id, topic, partition, command, requested_by)
VALUES (%s, %s, %s, 'resume', 'a test')
"""

EDIT = """
UPDATE processor.dead_letters SET replacement = %s, edited_at = now()
WHERE group_id = %s AND id = %s AND state = 'failed'
"""
PENDING = """
UPDATE processor.dead_letters SET state = 'pending', requested_by = 'a test', requested_at = now()
WHERE group_id = %s AND id = %s AND state = 'failed' RETURNING topic, partition, key
"""
DISCARD = """
UPDATE processor.dead_letters SET state = 'discarded', resolved_by = 'a test', resolved_at = now()
WHERE group_id = %s AND id = %s AND state = 'failed'
RETURNING topic, partition, key, parked_behind
"""


def insert(server: Server, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows as the engine would, all or none.

    :raises PipelineError: for a column that the table does not have.
    :raises psycopg.Error: for a row that the table refuses.
    """
    connection: Any = server.connect()
    try:
        connection.execute("BEGIN")
        for row in rows:
            check_columns(table, tuple(row))
            write = CopyWrite(table, tuple(row), [tuple(row.values())])
            connection.cursor().executemany(
                insert_statement(table, write.columns), plain_rows(connection, write)
            )
        connection.execute("COMMIT")
    finally:
        connection.close()


def resume(server: Server, group: str, partitions: Collection[tuple[str, int]]) -> None:
    """Ask the worker to try the message at H again, as ``processor resume`` does."""
    connection: Any = server.connect()
    for topic, number in partitions:
        connection.execute(RESUME, (group, topic, number))
    connection.close()


def mark_pending(
    server: Server, group: str, letters: Sequence[int], replacement: Replacement | None
) -> list[tuple[bytes, bytes]]:
    """Letters are to be handled again; their triggers."""
    connection: Any = server.connect()
    found = []
    for number in letters:
        if replacement is not None:
            connection.execute(EDIT, (replacement.value, group, number))
        rows = connection.execute(PENDING, (group, number)).fetchall()
        found += [letter_trigger(Partition(*at), key, number) for *at, key in rows]
    connection.close()
    return found


def discard(server: Server, group: str, letters: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """Letters are given up; triggers for what is parked behind them."""
    connection: Any = server.connect()
    found = []
    for number in letters:
        rows = connection.execute(DISCARD, (group, number)).fetchall()
        for *at, key, parked_behind in rows:
            queue = number if parked_behind is None else parked_behind
            found += queue_triggers(trigger_key(Partition(*at), key), queue, 0)
    connection.close()
    return found


def heed(server: Server, broker: Broker) -> None:
    """:raises PipelineTestError: when the fakes could not do what was asked of them."""
    for error in server.failures:
        if isinstance(error, UnknownStatement):
            told = f"the in-memory database does not know {error}"
        else:
            told = f"the in-memory database cannot do this ({type(error).__name__}: {error})"
        raise PipelineTestError(f"{told}; {REAL}") from error
    for error in broker.failures:
        raise error


def told(levels: Iterable[tuple[Partition, int, int | None, int, int]]) -> str:
    """Where everything stands, in a line."""
    places = [f"{at}: log end {end}, K {k}, H {h}, P {p}" for at, end, k, h, p in levels]
    return ", ".join(places) or "no partition was taken"
