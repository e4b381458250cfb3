"""The row while its messages are handled again: claimed with a token of our own, handed back."""

from __future__ import annotations

from collections.abc import Mapping

from processor.engine.housekeeping import OPERATOR_HALT
from processor.engine.locked_rows import LockedRows, write_audit
from processor.engine.recovery import HaltAt, Row
from processor.errors import Refused
from processor.operations.remedies.change import write
from processor.operations.remedies.replay.plan import ACTION, Replay
from processor.operations.remedies.run import Remedies
from processor.operations.remedies.values import Change, Facts, Plan, replacing, unchanged


def claim(remedies: Remedies, facts: Facts, plan: Replay) -> Row:
    """The row under a new token: whoever holds another one moves it no more.

    :raises Refused: when the partition is not as the plan was made from.
    """
    partition, topic_id = facts.reading.partition, facts.reading.topic_id or ""
    with remedies.look.facts(partition) as (now, rows):
        unchanged(facts, now)
        if now.row is None:
            _insert(rows, now, plan)
        found = rows.connection.execute(
            _CLAIM,
            {
                "group": remedies.group,
                "cluster": remedies.cluster_id,
                "topic": partition.topic,
                "topic_id": topic_id,
                "partition": partition.number,
                "start": plan.start,
                "lineage": plan.lineage,
            },
        ).fetchone()
        assert found is not None, "the row is there and locked"
        progress_id, token, tokens = found
        # K lies beyond all of it, so all of it is published.
        rows.connection.execute(
            "DELETE FROM processor.outbox WHERE progress_id = %s", (progress_id,)
        )
        _audit(remedies, rows, facts, {**plan.detail, "stage": "begun"})
    return Row(
        progress_id, topic_id, plan.start, plan.start, None, plan.lineage, token, tuple(tokens),
        facts.reading.system_identifier, None, None, 0, False,
    )  # fmt: skip


def finish(
    remedies: Remedies, facts: Facts, plan: Replay, row: Row, detail: Mapping[str, object]
) -> None:
    """K keeps its offset and gets the row's token, by the partition's owner.

    Where the row lists K's token already the owner needs no more than H = K, and may have gone on.

    :raises Refused: when another one has moved the row or K.
    """
    partition, k = facts.reading.partition, plan.end
    with remedies.look.facts(partition) as (now, rows):
        if now.row is not None and _goes_on(now, now.row, k):
            # K was read as k or beyond: what was handled again is not to be published.
            where = {"progress": now.row.id, "k": k}
            rows.connection.execute(_RAISE, where)
            rows.connection.execute(_PRUNE, where)
            _audit(remedies, rows, facts, detail)
            return
        if now.row is None or (now.row.token, now.row.next_offset) != (row.token, k):
            raise Refused(f"{partition}: another one is at work on it; look, and try again")
        if now.reading.committed != facts.reading.committed:
            raise Refused(f"{partition}: K was changed meanwhile; status names what to do")
        done = Plan(ACTION, Change(k, k, replacing(now, k, ACTION)), (), detail)
        write(rows, now, done, remedies.cluster_id, remedies.group, remedies.actor)


def _goes_on(now: Facts, row: Row, k: int) -> bool:
    """Whether K and H, both just read, are beyond what was handled again, and nothing is to do."""
    committed = now.reading.committed.offset
    if row.next_offset < k or row.intent is not None:
        return False
    if committed is None or committed < k:
        return False
    return now.reason != OPERATOR_HALT and not isinstance(now.decision, HaltAt)


def _insert(rows: LockedRows, facts: Facts, plan: Replay) -> None:
    topic, reading = facts.reading.partition.topic, facts.reading
    assert reading.topic_id is not None
    initial = rows.initial_partitions(topic) or facts.partitions
    positions = {reading.partition.number: plan.start}
    rows.start(topic, reading.topic_id, positions, initial, ACTION, reading.committed)


def _audit(
    remedies: Remedies, rows: LockedRows, facts: Facts, detail: Mapping[str, object]
) -> None:
    write_audit(
        rows.connection,
        remedies.cluster_id,
        remedies.group,
        facts.reading.partition,
        ACTION,
        detail,
        remedies.actor,
    )


_CLAIM = """
UPDATE processor.progress SET
    next_offset = %(start)s, published_offset = %(start)s, lineage = %(lineage)s, intent = NULL,
    token = replace(gen_random_uuid()::text, '-', ''), token_ends = '{}',
    leader_epoch = NULL, verified_offset = NULL, updated_at = now()
WHERE group_id = %(group)s AND cluster_id = %(cluster)s AND topic = %(topic)s
    AND topic_id = %(topic_id)s AND partition = %(partition)s
RETURNING id, token, tokens_in_k
"""

_RAISE = """
UPDATE processor.progress SET published_offset = %(k)s WHERE id = %(progress)s
    AND published_offset < %(k)s
"""

_PRUNE = "DELETE FROM processor.outbox WHERE progress_id = %(progress)s AND next_offset <= %(k)s"
