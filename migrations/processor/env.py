"""Alembic's entry for the schema ``processor``.

It touches that schema only and keeps its version table there. Runs from ``alembic`` in the
repository, and from ``processor migrate``, which brings its own settings and listener.
"""

from __future__ import annotations

from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError

from processor.errors import ProcessorError
from processor.operations import migrations
from processor.revisions import VERSION_TABLE
from processor.schema import DEDUP_TABLES, SCHEMA, metadata

config = context.config
configured: dict[str, Any] = config.attributes


def only_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Autogenerate and ``alembic check`` look at nobody else's schema, nor at what workers make."""
    if kind == "table" and f"{SCHEMA}.{name}".startswith(DEDUP_TABLES):
        return False
    return kind != "schema" or name == SCHEMA


OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_name": only_ours,
    "on_version_apply": configured.get("on_version_apply"),
    # One transaction for the whole upgrade: it happens, or it does not.
    "transaction_per_migration": False,
}


def online() -> None:
    try:
        with migrations.engine(configured.get("settings")).connect() as connection:
            context.configure(connection=connection, **OPTIONS)
            with context.begin_transaction():
                migrations.prepare(connection)
                context.run_migrations()
    except ProcessorError as error:
        # The one kind of error that the command ``alembic`` tells in a line.
        raise CommandError(str(error)) from error


def offline() -> None:
    """``alembic upgrade head --sql``: a script for whoever may not connect."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.run_migrations()


if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    offline()
else:
    online()
