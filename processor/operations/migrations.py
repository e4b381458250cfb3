"""Bring the schema ``processor`` to this version's revision.

The same migrations run from the repository (``alembic upgrade head``) and from an installed
package (``processor migrate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text

from processor import revisions
from processor.dsn import place
from processor.errors import ConfigurationError, ProcessorError, SchemaMismatch, Unreachable
from processor.operations.database import (
    Notify,
    connect,
    session,
    silent,
    statement_error,
    url_of,
)
from processor.schema import REVISIONS, SCHEMA
from processor.settings import Settings, load

ADVISORY_LOCK = 0x70726F636573736F
"""Held while migrating, so that two at once do it one after the other."""

LOCK_TIMEOUT = "60s"
"""For the other migration to end."""

DDL_LOCK_TIMEOUT = "10s"
"""For each table: who waits for an exclusive lock keeps all later users of the table waiting."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One migration that was run."""

    revision: str
    title: str


@dataclass(frozen=True, slots=True)
class Migration:
    """What ``processor migrate`` did."""

    database: str
    before: str | None
    after: str
    applied: tuple[Applied, ...]


def folder() -> Path:
    """The migrations: inside the installed package, or beside it in the repository."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_migrations", package.parent / "migrations" / "processor"):
        if (candidate / "env.py").is_file():
            return candidate
    raise ConfigurationError("the migrations are missing; the package is not installed completely")


def migrate(settings: Settings, notify: Notify = silent) -> Migration:
    """Run the migrations that the database lacks.

    :raises Unreachable: when the database stays away for longer than ``start_timeout_seconds``.
    :raises SchemaMismatch: when it is further than this version can know.
    """
    patience = settings.start_timeout_seconds
    with session(settings, patience=patience, notify=notify) as connection:
        before = revisions.read_revision(connection)
    if before is not None and before not in REVISIONS:
        revisions.judge(before)
        return Migration(place(url_of(settings)), before, before, ())
    applied: list[Applied] = []
    _upgrade(settings, applied)
    after = applied[-1].revision if applied else revisions.LATEST
    return Migration(place(url_of(settings)), before, after, tuple(applied))


def check(settings: Settings, notify: Notify = silent) -> str:
    """The database's revision, if a worker of this version takes it.

    :raises SchemaMismatch: when it does not.
    """
    patience = settings.start_timeout_seconds
    with session(settings, patience=patience, notify=notify) as connection:
        return revisions.require_revision(connection)


def engine(settings: Settings | None) -> sqlalchemy.Engine:
    """An engine whose connections are made by libpq from the configured URL.

    SQLAlchemy's own parsing of URLs knows less than libpq's (several hosts, for example).
    """
    configured = settings or load()
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=partial(connect, configured, patience=configured.start_timeout_seconds),
        poolclass=sqlalchemy.NullPool,
    )


def prepare(connection: sqlalchemy.Connection) -> None:
    """Wait for other migrations and make the schema, in the migrations' own transaction."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{DDL_LOCK_TIMEOUT}'"))
    # Asked first: CREATE SCHEMA wants its privilege even where there is nothing to create.
    exists = connection.scalar(text("SELECT to_regnamespace(:name)::text"), {"name": SCHEMA})
    if exists is None:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))


def _upgrade(settings: Settings, applied: list[Applied]) -> None:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.attributes["settings"] = settings
    config.attributes["on_version_apply"] = partial(_note, applied)
    try:
        command.upgrade(config, "head")
    except sqlalchemy.exc.DBAPIError as error:
        raise _explained(error, settings) from error
    except CommandError as error:
        if isinstance(error.__cause__, ProcessorError):
            raise error.__cause__ from error
        raise SchemaMismatch(f"schema {SCHEMA!r}: {error}") from error


def _note(applied: list[Applied], *, step: Any, **_: Any) -> None:
    revision = step.up_revision
    applied.append(Applied(revision.revision, revision.doc))


def _explained(error: sqlalchemy.exc.DBAPIError, settings: Settings) -> Exception:
    if isinstance(error.orig, psycopg.errors.LockNotAvailable):
        return Unreachable("another migration or transaction holds the tables; try again")
    if isinstance(error.orig, psycopg.Error):
        return statement_error(error.orig, url_of(settings)) or error
    return error
