"""The framework's tables: progress, outbox, dead letters, slots, states, control, audit.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

# Numbered: a worker accepts the revision after its own (processor/revisions.py).
revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "processor"
TABLES = ("audit", "control", "partition_states", "slots", "dead_letters", "outbox", "progress")


def upgrade() -> None:
    create_progress()
    create_outbox()
    create_dead_letters()
    create_slots()
    create_partition_states()
    create_control()
    create_audit()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table, schema=SCHEMA)


def create_progress() -> None:
    op.create_table(
        "progress",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False, comment="H"),
        sa.Column("published_offset", sa.BigInteger(), nullable=False, comment="P, a floor of K"),
        sa.Column(
            "verified_offset",
            sa.BigInteger(),
            nullable=True,
            comment="V: the H before the last topic-id check",
        ),
        sa.Column("lineage", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("tokens_in_k", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("system_identifier", sa.BigInteger(), nullable=False),
        sa.Column(
            "intent",
            postgresql.JSONB(),
            nullable=True,
            comment="the K to be set, and what it replaces",
        ),
        sa.Column(
            "leader_epoch", sa.Integer(), nullable=True, comment="of the last handled message"
        ),
        sa.Column(
            "initial_partitions",
            sa.Integer(),
            nullable=False,
            comment="at the topic's first start",
        ),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        count("handled"),
        count("outputs"),
        count("dead_lettered"),
        count("skipped"),
        now("created_at"),
        now("updated_at"),
        sa.PrimaryKeyConstraint("id", name="progress_pkey"),
        sa.UniqueConstraint(
            "cluster_id",
            "group_id",
            "topic",
            "topic_id",
            "partition",
            name="progress_cluster_id_group_id_topic_topic_id_partition_key",
        ),
        sa.CheckConstraint(
            "published_offset <= next_offset", name=op.f("progress_published_offset_check")
        ),
        schema=SCHEMA,
        # Every batch updates its partitions' rows: leave room for updates within the page, and
        # vacuum after a number of dead rows, not after a share of a table this small.
        postgresql_with={
            "fillfactor": "50",
            "autovacuum_vacuum_scale_factor": "0",
            "autovacuum_vacuum_threshold": "1000",
            "autovacuum_analyze_scale_factor": "0",
            "autovacuum_analyze_threshold": "10000",
            "autovacuum_vacuum_cost_delay": "0",
        },
    )


def create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("progress_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("output_count", sa.Integer(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        now("created_at"),
        sa.PrimaryKeyConstraint("progress_id", "first_offset", name="outbox_pkey"),
        sa.CheckConstraint("first_offset < next_offset", name=op.f("outbox_range_check")),
        schema=SCHEMA,
        # A queue: rows live for about a second. Vacuum by number, without pauses, and keep the
        # emptied pages, which the next batch needs: truncation takes an exclusive lock.
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0",
            "autovacuum_vacuum_threshold": "1000",
            "autovacuum_vacuum_cost_delay": "0",
            "vacuum_truncate": "false",
            "toast.autovacuum_vacuum_scale_factor": "0",
            "toast.autovacuum_vacuum_threshold": "5000",
            "toast.autovacuum_vacuum_cost_delay": "0",
            "toast.vacuum_truncate": "false",
        },
    )
    # Written and read once, and often compressed by its codec: compressing it costs CPU only.
    op.execute("ALTER TABLE processor.outbox ALTER COLUMN payload SET STORAGE EXTERNAL")


def create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column(
            "headers",
            sa.LargeBinary(),
            nullable=False,
            comment="MessagePack: [[name, bytes], …]",
        ),
        sa.Column(
            "timestamp",
            sa.BigInteger(),
            nullable=True,
            comment="of the message, milliseconds since the epoch",
        ),
        sa.Column("handler", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        now("created_at"),
        sa.PrimaryKeyConstraint("id", name="dead_letters_pkey"),
        schema=SCHEMA,
    )
    op.create_index(
        "dead_letters_group_id_topic_partition_offset_idx",
        "dead_letters",
        ["group_id", "topic", "partition", "offset"],
        schema=SCHEMA,
    )


def create_slots() -> None:
    op.create_table(
        "slots",
        sa.Column("slot", sa.Text(), nullable=False, comment="group:instance:slot"),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("process_id", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        now("started_at"),
        now("seen_at"),
        sa.PrimaryKeyConstraint("slot", name="slots_pkey"),
        schema=SCHEMA,
    )
    op.create_index("slots_group_id_idx", "slots", ["group_id"], schema=SCHEMA)


def create_partition_states() -> None:
    op.create_table(
        "partition_states",
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("remedy", sa.Text(), nullable=True),
        now("since"),
        sa.PrimaryKeyConstraint(
            "cluster_id", "group_id", "topic", "partition", name="partition_states_pkey"
        ),
        schema=SCHEMA,
    )


def create_control() -> None:
    op.create_table(
        "control",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        now("requested_at"),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("id", name="control_pkey"),
        schema=SCHEMA,
    )
    op.create_index(
        "control_group_id_acknowledged_idx", "control", ["group_id", "acknowledged"], schema=SCHEMA
    )


def create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=True),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("partition", sa.Integer(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default="{}", nullable=False),
        now("at"),
        sa.PrimaryKeyConstraint("id", name="audit_pkey"),
        schema=SCHEMA,
    )


def count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
