"""The framework's tables, defined once. The names are those of docs/architecture.md.

They live in the schema ``processor``; a pipeline keeps its own tables elsewhere.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "processor"
DEDUP_TABLES = "processor.dedup_keys_"
"""Tables of business keys, one for each period: they come and go while workers run."""
REVISIONS = ("0001", "0002", "0003")
"""All revisions, oldest first; a worker takes the last of them and its direct successor."""

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _moment(name: str, comment: str | None = None) -> Column[object]:
    return Column(name, DateTime(timezone=True), comment=comment)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


progress = Table(
    "progress",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("cluster_id", Text, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("next_offset", BigInteger, nullable=False, comment="H"),
    Column("published_offset", BigInteger, nullable=False, comment="P, a floor of K"),
    Column("verified_offset", BigInteger, comment="V: the H before the last topic-id check"),
    Column("lineage", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("tokens_in_k", ARRAY(Text), nullable=False),
    Column(
        "token_ends",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="of the tokens before: the H at which each was replaced",
    ),
    Column("system_identifier", BigInteger, nullable=False),
    Column("intent", JSONB, comment="the K to be set, and what it replaces"),
    Column("leader_epoch", Integer, comment="of the last handled message"),
    Column("initial_partitions", Integer, nullable=False, comment="at the topic's first start"),
    Column("superseded_at", DateTime(timezone=True)),
    _count("handled"),
    _count("outputs"),
    _count("dead_lettered"),
    _count("skipped"),
    _count("duplicates"),
    Column("tried_offset", BigInteger, comment="of the message that is tried again"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="at it"),
    _moment("first_failed_at"),
    _moment("retry_at", "not tried before"),
    _now("created_at"),
    _now("updated_at"),
    UniqueConstraint("cluster_id", "group_id", "topic", "topic_id", "partition"),
    CheckConstraint("published_offset <= next_offset", name="published_offset"),
    postgresql_with={"fillfactor": "50"},
)

outbox = Table(
    "outbox",
    metadata,
    Column("progress_id", BigInteger, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("output_count", Integer, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    _now("created_at"),
    CheckConstraint("first_offset < next_offset", name="range"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False, comment="MessagePack: [[name, bytes], …]"),
    Column("timestamp", BigInteger, comment="of the message, milliseconds since the epoch"),
    Column("handler", Text),
    Column("error", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("trace", Text),
    Column("attempts", Integer, nullable=False),
    _now("created_at"),
    Column("state", Text, nullable=False, server_default="failed"),
    Column("fingerprint", Text, nullable=False, server_default=""),
    _now("first_failed_at"),
    _now("last_failed_at"),
    Column("parked_behind", BigInteger, comment="the letter that its key waits for"),
    Column("replacement", LargeBinary, comment="a repaired value"),
    _moment("edited_at", "the value is replaced"),
    Column("replays", Integer, nullable=False, server_default="0"),
    Column("requested_by", Text),
    _moment("requested_at"),
    Column("resolved_by", Text),
    _moment("resolved_at"),
    CheckConstraint(
        "state IN ('failed', 'parked', 'pending', 'replayed', 'discarded')", name="state"
    ),
    Index(None, "group_id", "topic", "partition", "offset"),
    Index(None, "group_id", "fingerprint"),
    Index(
        "dead_letters_parked_behind_idx",
        "parked_behind",
        "id",
        postgresql_where=text("parked_behind IS NOT NULL"),
    ),
)

parked_keys = Table(
    "parked_keys",
    metadata,
    Column("progress_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key_digest", Text, primary_key=True, comment="SHA-256, hexadecimal"),
    Column("letter_id", BigInteger, nullable=False, comment="what the key waits for"),
    _count("parked"),
    _now("since"),
    UniqueConstraint("letter_id"),
)

dedup_periods = Table(
    "dedup_periods",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    _moment("closed_at", "takes no keys any more; they are looked at"),
    Column("expired", Boolean, nullable=False, server_default="false", comment="to be dropped"),
    Index(None, "group_id"),
)

slots = Table(
    "slots",
    metadata,
    Column("slot", Text, primary_key=True, comment="group:instance:slot"),
    Column("group_id", Text, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    Column("host", Text, nullable=False),
    _now("started_at"),
    _now("seen_at"),
    Index(None, "group_id"),
)

partition_states = Table(
    "partition_states",
    metadata,
    Column("cluster_id", Text, primary_key=True),
    Column("group_id", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("slot", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("detail", Text),
    Column("remedy", Text),
    _now("since"),
)

control = Table(
    "control",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("command", Text, nullable=False),
    Column("requested_by", Text, nullable=False),
    _now("requested_at"),
    Column("acknowledged_at", DateTime(timezone=True)),
    Column("acknowledged", Boolean, nullable=False, server_default="false"),
    Index(None, "group_id", "acknowledged"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("cluster_id", Text),
    Column("group_id", Text, nullable=False),
    Column("topic", Text),
    Column("partition", Integer),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("detail", JSONB, nullable=False, server_default="{}"),
    _now("at"),
)
