"""What a database must be for the promise to hold on it. Facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from processor import revisions
from processor.errors import SchemaMismatch
from processor.operations.check.finding import Area, Finding
from processor.operations.database import Connection
from processor.schema import SCHEMA, metadata

OLDEST = 140_000
SETTINGS = (
    "server_version_num",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "max_connections",
    "superuser_reserved_connections",
)
SPARE_CONNECTIONS = 10
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")

SYSTEM_IDENTIFIER = "pg_control_system()"
"""Tells this database from a copy of it; open to everybody unless it was revoked."""

postgres = Area("postgres")


@dataclass(frozen=True)
class Facts:
    """What the server said of itself."""

    settings: Mapping[str, str]
    in_recovery: bool
    read_only: bool
    connections: int
    revision: str | None
    missing_rights: tuple[str, ...]
    """As ``UPDATE ON processor.progress``."""
    may_create: bool = True
    """Tables in the schema ``processor``."""


def gather(connection: Connection) -> Facts:
    """Ask for everything that :func:`judge` looks at."""
    rows = connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SETTINGS)]
    ).fetchall()
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool,"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    ).fetchone()
    assert row is not None
    revision = revisions.read_revision(connection)
    missing = () if revision is None else _missing_rights(connection)
    may_create = revision is None or _may_create(connection)
    return Facts(dict(rows), row[0], row[1], row[2], revision, missing, may_create)


def judge(facts: Facts, *, makes_tables: bool = False) -> Iterator[Finding]:
    """:param makes_tables: the pipeline looks for duplicates: it makes and drops tables of keys."""
    yield version(int(facts.settings["server_version_num"]))
    yield primary(facts)
    yield from durability(facts.settings)
    yield connections(facts)
    yield revision(facts.revision)
    for right in facts.missing_rights:
        yield postgres.error(f"the configured user lacks {right}", f"GRANT {right}")
    if makes_tables and not facts.may_create:
        yield postgres.error(
            f"the configured user may not create tables in the schema {SCHEMA}, as dedup does",
            f"GRANT CREATE ON SCHEMA {SCHEMA}",
        )


def version(number: int) -> Finding:
    told = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < OLDEST:
        return postgres.error(f"{told} is too old", f"PostgreSQL {OLDEST // 10_000} or later")
    return postgres.ok(told)


def primary(facts: Facts) -> Finding:
    if facts.in_recovery or facts.read_only:
        what = "a standby" if facts.in_recovery else "read-only"
        return postgres.error(
            f"the server is {what}",
            "database.url must lead to the primary (target_session_attrs=read-write picks it)",
        )
    return postgres.ok("the server is a read-write primary")


def durability(settings: Mapping[str, str]) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "on":
            yield postgres.ok(f"{name} is on")
        else:
            yield postgres.error(
                f"{name} is off: a power cut can undo or tear commits", f"{name}=on"
            )
    synchronous = settings["synchronous_commit"]
    if synchronous in ("off", "local"):
        yield postgres.ok(f"synchronous_commit is {synchronous} here; the processor turns it on")
    else:
        yield postgres.ok(f"synchronous_commit is {synchronous}")


def connections(facts: Facts) -> Finding:
    reserved = int(facts.settings["superuser_reserved_connections"])
    free = int(facts.settings["max_connections"]) - reserved - facts.connections
    if free < SPARE_CONNECTIONS:
        return postgres.warning(
            f"{free} connections are free; each worker takes one",
            "raise max_connections or use fewer workers",
        )
    return postgres.ok(f"{free} connections are free")


def revision(found: str | None) -> Finding:
    try:
        revisions.judge(found)
    except SchemaMismatch as error:
        return postgres.failed(error)
    return postgres.ok(f"the schema is at revision {found}")


def _missing_rights(connection: Connection) -> tuple[str, ...]:
    tables = [f"{table.schema}.{table.name}" for table in metadata.sorted_tables]
    rows = connection.execute(
        "SELECT r || ' ON ' || t FROM unnest(%s::text[]) t, unnest(%s::text[]) r"
        " WHERE to_regclass(t) IS NOT NULL AND NOT has_table_privilege(t, r)"
        " UNION ALL SELECT 'EXECUTE ON FUNCTION ' || f FROM unnest(%s::text[]) f"
        " WHERE NOT has_function_privilege(f, 'EXECUTE') ORDER BY 1",
        [tables, list(RIGHTS), [SYSTEM_IDENTIFIER]],
    ).fetchall()
    return tuple(row[0] for row in rows)


def _may_create(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT has_schema_privilege(current_user, %s, 'CREATE')", [SCHEMA]
    ).fetchone()
    return row is not None and bool(row[0])
