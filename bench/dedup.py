"""What looking for duplicates costs: every fifth message is one, three workers, a whole topic.

``BENCH_MESSAGES`` is how many messages; 500,000 unless given.
"""

from __future__ import annotations

import os
from dataclasses import replace

import psycopg

from bench.contenders import processor
from bench.ground import Ground, Shape
from bench.results import Result
from bench.throughput import Case, compared_whole, forget
from processor.engine.dedup import table_of
from processor.engine.periods import PARTS

MESSAGES = int(os.environ.get("BENCH_MESSAGES", "500000"))
WORKERS = 3
WARM_SECONDS = 2.0


def dedup(ground: Ground, count: int) -> Result:
    """Row, counter and output, of every message or of the first one of each order."""
    shape = Shape(MESSAGES, orders=True)
    plain = replace(processor("full", "every message", WORKERS), warm_seconds=WARM_SECONDS)
    once = replace(
        processor("once", "each order once", WORKERS), warm_seconds=WARM_SECONDS, once=True
    )
    late = replace(once, name="among older keys", prepare=fill_periods)
    cases = {each.name: Case(each, shape) for each in (plain, once, late)}
    title = f"With dedup, {MESSAGES:,} messages, every fifth a duplicate, {WORKERS} workers"
    result = compared_whole("dedup", title, ground, count, cases)
    result.ratio(once.name, plain.name, 0.6)
    result.ratio(late.name, plain.name)
    result.notes.append(f"among {PARTS} older periods of {MESSAGES:,} keys each")
    forget(ground, [shape])
    return result


def fill_periods(connection: psycopg.Connection, group: str) -> None:
    """As they are when the pipeline has run for as long as keys are kept."""
    for _ in range(PARTS):
        [[period]] = connection.execute(
            "INSERT INTO processor.dedup_periods (group_id, opened_at, closed_at)"
            " VALUES (%s, now(), now()) RETURNING id",
            [group],
        ).fetchall()
        table = table_of(period)
        connection.execute(f"CREATE TABLE {table} (key uuid PRIMARY KEY)".encode())
        connection.execute(
            f"INSERT INTO {table} SELECT gen_random_uuid() FROM generate_series(1, %s)".encode(),
            [MESSAGES],
        )
        connection.execute(f"VACUUM ANALYZE {table}".encode())
