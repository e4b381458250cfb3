"""A test's own rows, written as the engine would write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table

from processor.engine.statements import insert_statement, plain_rows
from processor.testing.postgres import Server
from processor.writes import CopyWrite, check_columns


def inserted(server: Server, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all or none.

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
