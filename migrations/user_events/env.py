"""Alembic's entry for the pipeline's schema: ``alembic -n user_events upgrade head``.

It touches the schema ``user_events`` only and keeps its version table there, apart from the
framework's.
"""

from __future__ import annotations

from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from pipelines.user_events.tables import SCHEMA, metadata
from processor.errors import ProcessorError
from processor.operations import migrations

ADVISORY_LOCK = 0x757365725F657674
"""Held while migrating, so that two at once do it one after the other."""


def only_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Autogenerate and ``alembic check`` look at nobody else's schema."""
    return kind != "schema" or name == SCHEMA


OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_name": only_ours,
}


def online() -> None:
    """Migrate the configured database, all of it in one transaction."""
    try:
        with migrations.engine(None).connect() as connection:
            context.configure(connection=connection, **OPTIONS)
            with context.begin_transaction():
                prepare(connection)
                context.run_migrations()
    except ProcessorError as error:
        # The one kind of error that the command ``alembic`` tells in a line.
        raise CommandError(str(error)) from error


def prepare(connection: sa.Connection) -> None:
    """Wait for another migration to end, and make the schema."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    # Asked first: CREATE SCHEMA wants its privilege even where there is nothing to create.
    exists = connection.scalar(sa.text("SELECT to_regnamespace(:name)::text"), {"name": SCHEMA})
    if exists is None:
        connection.execute(sa.schema.CreateSchema(SCHEMA))


def offline() -> None:
    """``alembic -n user_events upgrade head --sql``: a script for whoever may not connect."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    offline()
else:
    online()
