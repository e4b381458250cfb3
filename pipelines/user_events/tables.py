"""The pipeline's own tables, in their own schema and with their own Alembic history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect

SCHEMA = "user_events"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)


class JsonText(TypeDecorator[Any]):
    """jsonb, written from JSON text as it is instead of from values to be made JSON again."""

    impl = JSONB
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:  # noqa: ARG002
        return None


user_analytics = Table(
    "user_analytics",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("page_views", BigInteger, nullable=False),
    Column("total_duration_seconds", Numeric, nullable=False),
    Column("last_seen", DateTime(timezone=True), nullable=False),
    postgresql_with={"fillfactor": "80"},
)
"""One row per user."""

purchases = Table(
    "purchases",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Uuid),
    Column("user_id", BigInteger, nullable=False),
    Column("product", Text),
    Column("quantity", Integer, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("currency", Text),
    Column("purchased_at", DateTime(timezone=True), nullable=False),
    Index(None, "event_id"),
)
"""One row per purchase, known by the message that brought it."""

processed_events = Table(
    "processed_events",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("event_type", Text, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("event_time", DateTime(timezone=True), nullable=False),
    Column("event", JsonText, nullable=False),
)
"""One row per event of whatever type: the proof that it took effect, and did so once."""
