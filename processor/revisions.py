"""Which revisions of the schema this version works with.

A worker takes the latest revision that it knows and that one's direct successor, so that the
schema is migrated first and the workers follow one by one. Revisions are numbered ("0001",
"0002", …): that is how an unknown one is known to be the direct successor.

>>> known = ("0001", "0002")
>>> judge("0002", known)
>>> judge("0003", known)
>>> judge("0004", known)
Traceback (most recent call last):
    ...
processor.errors.SchemaMismatch: schema 'processor' is at revision 0004, this version takes 0002 \
or 0003; install a newer version of processor
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from processor.errors import SchemaMismatch
from processor.schema import REVISIONS, SCHEMA

if TYPE_CHECKING:
    import psycopg

VERSION_TABLE = "alembic_version"
"""Lives in the framework's schema, apart from the version tables of pipelines."""

LATEST = REVISIONS[-1]


def successor(revision: str) -> str:
    """
    >>> successor("0009")
    '0010'
    """
    return f"{int(revision) + 1:04}"


def judge(found: str | None, known: tuple[str, ...] = REVISIONS) -> None:
    """Whether a worker that knows these revisions may run on that one (None: no schema at all).

    :raises SchemaMismatch: naming both revisions and the command to run.
    """
    latest = known[-1]
    if found in (latest, successor(latest)):
        return
    if found is None:
        raise SchemaMismatch(
            f"the database has no schema {SCHEMA!r}, this version needs revision {latest};"
            " run: processor migrate"
        )
    if found in known:
        raise SchemaMismatch(
            f"schema {SCHEMA!r} is at revision {found}, this version needs {latest};"
            " run: processor migrate"
        )
    raise SchemaMismatch(
        f"schema {SCHEMA!r} is at revision {found}, this version takes {latest} or"
        f" {successor(latest)}; install a newer version of processor"
    )


def read_revision(connection: psycopg.Connection[Any]) -> str | None:
    """The database's revision, None where the schema or its version table is missing.

    :raises SchemaMismatch: when the version table holds several revisions.
    """
    if _value(connection, "SELECT to_regclass('processor.alembic_version')::text") is None:
        return None
    found = _value(
        connection, "SELECT string_agg(version_num, ', ') FROM processor.alembic_version"
    )
    if found is not None and ", " in found:
        raise SchemaMismatch(f"schema {SCHEMA!r} is at several revisions ({found}), not at one")
    return found


def require_revision(connection: psycopg.Connection[Any]) -> str:
    """Read and judge; returns the revision.

    :raises SchemaMismatch: naming both revisions and the command to run.
    """
    found = read_revision(connection)
    judge(found)
    assert found is not None
    return found


def _value(connection: psycopg.Connection[Any], statement: LiteralString) -> str | None:
    """One value, whatever row factory the connection has."""
    from psycopg.rows import tuple_row

    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statement).fetchone()
    return None if row is None or row[0] is None else str(row[0])
