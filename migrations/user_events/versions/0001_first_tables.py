"""The pipeline's tables: user_analytics, purchases, processed_events.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "user_events"


def upgrade() -> None:
    op.create_table(
        "user_analytics",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("page_views", sa.BigInteger(), nullable=False),
        sa.Column("total_duration_seconds", sa.Numeric(), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="user_analytics_pkey"),
        schema=SCHEMA,
        # A user's row is changed over and over: leave room to do it within the page.
        postgresql_with={"fillfactor": "80"},
    )
    op.create_table(
        "purchases",
        *message(),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("product", sa.Text(), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("purchased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", name="purchases_pkey"),
        schema=SCHEMA,
    )
    op.create_index("purchases_event_id_idx", "purchases", ["event_id"], schema=SCHEMA)
    op.create_table(
        "processed_events",
        *message(),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", name="processed_events_pkey"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("processed_events", schema=SCHEMA)
    op.drop_table("purchases", schema=SCHEMA)
    op.drop_table("user_analytics", schema=SCHEMA)


def message() -> list[sa.Column[object]]:
    """The message that brought a row: its topic, partition and offset."""
    return [
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
    ]
