"""What is known of failures: tries across restarts, dead letters that are replayed, parked keys.

And the periods of business keys, whose tables come and go while workers run.

The version before writes dead letters without the new columns: their defaults say that a letter has
failed and waits. It neither parks nor replays.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "processor"
STATES = "state IN ('failed', 'parked', 'pending', 'replayed', 'discarded')"


def upgrade() -> None:
    extend_progress()
    extend_dead_letters()
    create_parked_keys()
    create_dedup_periods()


def downgrade() -> None:
    drop_dedup_periods()
    op.drop_table("parked_keys", schema=SCHEMA)
    op.drop_index("dead_letters_parked_behind_idx", "dead_letters", schema=SCHEMA)
    op.drop_index("dead_letters_group_id_fingerprint_idx", "dead_letters", schema=SCHEMA)
    op.drop_constraint(op.f("dead_letters_state_check"), "dead_letters", schema=SCHEMA)
    for column in reversed(LETTER_COLUMNS):
        op.drop_column("dead_letters", column.name, schema=SCHEMA)
    for column in reversed(PROGRESS_COLUMNS):
        op.drop_column("progress", column.name, schema=SCHEMA)


def _moment(name: str, comment: str | None = None) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), comment=comment)


PROGRESS_COLUMNS = (
    sa.Column("duplicates", sa.BigInteger(), server_default="0", nullable=False),
    sa.Column("tried_offset", sa.BigInteger(), comment="of the message that is tried again"),
    sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="at it"),
    _moment("first_failed_at"),
    _moment("retry_at", "not tried before"),
)

LETTER_COLUMNS = (
    sa.Column("state", sa.Text(), server_default="failed", nullable=False),
    sa.Column("fingerprint", sa.Text(), server_default="", nullable=False),
    sa.Column(
        "first_failed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
    ),
    sa.Column(
        "last_failed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
    ),
    sa.Column("parked_behind", sa.BigInteger(), comment="the letter that its key waits for"),
    sa.Column("replacement", sa.LargeBinary(), comment="a repaired value"),
    _moment("edited_at", "the value is replaced"),
    sa.Column("replays", sa.Integer(), server_default="0", nullable=False),
    sa.Column("requested_by", sa.Text()),
    _moment("requested_at"),
    sa.Column("resolved_by", sa.Text()),
    _moment("resolved_at"),
)


def extend_progress() -> None:
    for column in PROGRESS_COLUMNS:
        op.add_column("progress", column, schema=SCHEMA)


def extend_dead_letters() -> None:
    for column in LETTER_COLUMNS:
        op.add_column("dead_letters", column, schema=SCHEMA)
    op.create_check_constraint(
        op.f("dead_letters_state_check"), "dead_letters", STATES, schema=SCHEMA
    )
    op.create_index(
        "dead_letters_group_id_fingerprint_idx",
        "dead_letters",
        ["group_id", "fingerprint"],
        schema=SCHEMA,
    )
    op.create_index(
        "dead_letters_parked_behind_idx",
        "dead_letters",
        ["parked_behind", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text("parked_behind IS NOT NULL"),
    )


def create_parked_keys() -> None:
    op.create_table(
        "parked_keys",
        sa.Column("progress_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key_digest", sa.Text(), nullable=False, comment="SHA-256, hexadecimal"),
        sa.Column("letter_id", sa.BigInteger(), nullable=False, comment="what the key waits for"),
        sa.Column(
            "since", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("progress_id", "key_digest", name="parked_keys_pkey"),
        schema=SCHEMA,
    )


def create_dedup_periods() -> None:
    op.create_table(
        "dedup_periods",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        _moment("closed_at", "takes no keys any more; they are looked at"),
        sa.Column(
            "expired",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="to be dropped",
        ),
        sa.PrimaryKeyConstraint("id", name="dedup_periods_pkey"),
        schema=SCHEMA,
    )
    op.create_index("dedup_periods_group_id_idx", "dedup_periods", ["group_id"], schema=SCHEMA)


def drop_dedup_periods() -> None:
    op.execute(DROP_KEYS)
    op.drop_table("dedup_periods", schema=SCHEMA)


DROP_KEYS = """
DO $$ DECLARE t text; BEGIN
    FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname = 'processor' AND tablename LIKE 'dedup\\_keys\\_%'
    LOOP EXECUTE 'DROP TABLE ' || t; END LOOP;
END $$
"""
