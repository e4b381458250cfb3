"""A partition at rest as recovery reads it; tests change what they are about."""

from __future__ import annotations

from processor.engine.batch import Committed, LogRange, Partition
from processor.engine.recovery import Reading, Row, make_metadata

LINEAGE, TOKEN, EARLIER = "lineage", "token", "earlier"
KNOWN = make_metadata(LINEAGE, TOKEN)
STALE = make_metadata(LINEAGE, "of-a-lost-history")
FOREIGN = make_metadata("another-lineage", TOKEN)
SYSTEM = 7_000_000_000_000_000_001

ROW = Row(
    id=1,
    topic_id="topic-id",
    next_offset=10,
    published_offset=10,
    verified_offset=10,
    lineage=LINEAGE,
    token=TOKEN,
    tokens_in_k=(EARLIER, TOKEN),
    system_identifier=SYSTEM,
    intent=None,
    leader_epoch=3,
    initial_partitions=4,
    untouched=False,
)
READING = Reading(
    partition=Partition("input", 0),
    topic_id="topic-id",
    system_identifier=SYSTEM,
    row=ROW,
    older=None,
    superseded=False,
    other_cluster=False,
    outbox=(),
    committed=Committed(10, KNOWN),
    log=LogRange(0, 20),
)
