"""Quix Streams, exactly-once, in a venv of its own: ``python quix_app.py WORK``.

``transform``  Kafka to Kafka.
``rows``       a row by its PostgreSQLSink and an output; no counters, which a sink that sets
               columns cannot add to. Rows are upserted: a crash writes some of them again.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from psycopg2.extensions import parse_dsn
from quixstreams import Application, message_context
from quixstreams.sinks.community.postgresql import PostgreSQLSink

INPUT, OUTPUT, GROUP = (os.environ[f"BENCH_{n}"] for n in ("INPUT", "OUTPUT", "GROUP"))
INTERVALS_SECONDS = {"transform": 0.1, "rows": 1.0}
"""0.1 is Kafka Streams' own; a sink writes a batch for each partition, and gains by larger ones."""
LINGER_MS = 100
"""Also as Kafka Streams has it: a commit does not wait for it, and the default of 5 ms makes many
small requests, which take the broker's time."""


def application(interval_seconds: float) -> Application:
    return Application(
        broker_address=os.environ["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"],
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=interval_seconds,
        auto_create_topics=False,
        producer_extra_config={"compression.type": "lz4", "linger.ms": LINGER_MS},
    )


def sink() -> PostgreSQLSink:
    """Into the table of the other contenders, which is there already."""
    place = parse_dsn(os.environ["PROCESSOR_DATABASE__URL"])
    return PostgreSQLSink(
        host=place["host"],
        port=int(place["port"]),
        dbname=place["dbname"],
        user=place["user"],
        password=place.get("password", ""),
        schema_name="bench",
        table_name="rows",
        schema_auto_update=False,
        primary_key_columns=["partition", "offset"],
        upsert_on_primary_key=True,
        include_metadata=False,
    )


def done(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "user_id": event["user_id"],
        "kind": event["kind"],
        "doubled": 2 * event["amount"],
        "note": event["note"],
    }


def row(event: dict[str, Any]) -> dict[str, Any]:
    message = message_context()
    return {
        "partition": message.partition,
        "offset": message.offset,
        "user_id": event["user_id"],
        "amount": event["amount"],
        "kind": event["kind"],
    }


def main(work: str) -> None:
    app = application(INTERVALS_SECONDS[work])
    events = app.dataframe(app.topic(INPUT))
    if work == "rows":
        events.apply(row).sink(sink())
    events.apply(done).to_topic(app.topic(OUTPUT))
    app.run()


if __name__ == "__main__":
    main(sys.argv[1])
