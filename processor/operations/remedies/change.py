"""Writes a plan: the row, its outbox, a resume where one is needed, and the audit row, together."""

from __future__ import annotations

from secrets import token_hex

from processor.engine.batch import Partition, Source
from processor.engine.database import Connection
from processor.engine.housekeeping import OPERATOR_HALT
from processor.engine.locked_rows import LockedRows, intent_json, write_audit
from processor.engine.outbox import seal
from processor.engine.recovery import Row
from processor.operations.control import RESUMABLE, ask
from processor.operations.remedies.values import Change, Facts, Plan, Range


def write(
    rows: LockedRows, facts: Facts, plan: Plan, cluster_id: str, group: str, actor: str
) -> None:
    """Inside the transaction that holds the row's lock, and that the facts were read in."""
    connection, partition = rows.connection, facts.reading.partition
    if plan.change.insert:
        _insert(rows, facts, plan)
    else:
        row = facts.row
        assert row is not None, "a change of a row that is there"
        _update(connection, row, plan.change)
        _change_outbox(connection, row, partition, plan.change)
    write_audit(connection, cluster_id, group, partition, plan.action, plan.detail, actor)
    if facts.reason in RESUMABLE:
        ask(connection, group, partition, "resume", actor)


def _insert(rows: LockedRows, facts: Facts, plan: Plan) -> None:
    change, reading = plan.change, facts.reading
    assert reading.topic_id is not None
    assert change.intent is not None
    rows.connection.execute(
        "UPDATE processor.progress SET superseded_at = now() WHERE id = ANY(%s)",
        (list(change.supersedes),),
    )
    # Back in a cluster that was left once, its row is there.
    here = reading.partition, reading.topic_id, change.next_offset, plan.action, reading.committed
    if rows.revive(*here):
        return
    topic = reading.partition.topic
    rows.start(
        topic,
        reading.topic_id,
        {reading.partition.number: change.next_offset},
        rows.initial_partitions(topic) or facts.partitions,
        plan.action,
        reading.committed,
    )


def _update(connection: Connection, row: Row, change: Change) -> None:
    """A new token in any case: whoever holds the old one commits nothing more."""
    token = token_hex(8)
    tokens = [token] if change.intent is not None else [*row.tokens_in_k, token]
    moved = change.next_offset != row.next_offset
    connection.execute(
        _UPDATE,
        {
            "id": row.id,
            "h": change.next_offset,
            "p": change.published_offset,
            "intent": None if change.intent is None else intent_json(change.intent),
            "lineage": token_hex(8) if change.new_lineage else row.lineage,
            "token": token,
            "tokens": tokens,
            "moved": moved,
            "take_server": change.take_server,
        },
    )


def _change_outbox(connection: Connection, row: Row, partition: Partition, change: Change) -> None:
    if not change.keep_outbox:
        connection.execute("DELETE FROM processor.outbox WHERE progress_id = %s", (row.id,))
    for emptied in change.emptied:
        _empty(connection, row, partition, emptied)


def _empty(connection: Connection, row: Row, partition: Partition, emptied: Range) -> None:
    """One row without outputs in place of whatever is there of the range."""
    first, end = emptied
    entry = seal(row.id, Source(row.topic_id, partition.number, row.lineage, first, end), [])
    connection.execute(
        "DELETE FROM processor.outbox"
        " WHERE progress_id = %s AND first_offset < %s AND next_offset > %s",
        (row.id, end, first),
    )
    connection.execute(
        "INSERT INTO processor.outbox"
        " (progress_id, first_offset, next_offset, output_count, checksum, payload)"
        " VALUES (%s, %s, %s, 0, %s, %s)",
        (row.id, first, end, entry.checksum, entry.payload),
    )


assert OPERATOR_HALT in RESUMABLE, "a halt that a remedy has asked for ends with it"

_UPDATE = """
UPDATE processor.progress SET
    next_offset = %(h)s, published_offset = %(p)s, intent = %(intent)s::jsonb,
    lineage = %(lineage)s, token = %(token)s, tokens_in_k = %(tokens)s::text[],
    token_ends = CASE WHEN %(intent)s::jsonb IS NOT NULL THEN '{}'
        ELSE token_ends || jsonb_build_object(token, next_offset) END,
    leader_epoch = CASE WHEN %(moved)s THEN NULL ELSE leader_epoch END,
    verified_offset = CASE WHEN %(moved)s THEN NULL ELSE verified_offset END,
    system_identifier = CASE WHEN %(take_server)s
        THEN (SELECT system_identifier FROM pg_control_system()) ELSE system_identifier END,
    updated_at = now()
WHERE id = %(id)s
"""
