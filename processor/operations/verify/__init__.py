"""``processor verify``: both stores are read whole and compared, while the processor runs.

**The bounds.** Five things are read in this order, each only once the one before is there:

1. P of each partition; 2. K, stable; 3. one snapshot of Postgres: H, P again, the counters and the
   outbox; 4. the high watermark of each output partition; then the topics; 5. H again, whenever an
   output claims more than the H of the snapshot.

Why work in progress is no false alarm:

* P ≤ K ≤ H, and all of them only rise. A later reading is never below an earlier truth, so K below
  P or beyond H is a mismatch and not a matter of time.
* *Published* is the larger of K (where its metadata carries the row's lineage) and the snapshot's
  P. Both were read, stable, before (4). K becomes stable with the end of the Kafka transaction that
  holds the outputs below it, and by then these were acknowledged by their brokers: they lie below
  the high watermarks of (4). Their *markers* may come later, so the last stable offset at that
  moment would not do as an end: outputs below K could lie above it. Therefore each output partition
  is read, committed records only, up to the high watermark of (4), waiting for the transactions
  that are open below it. Every output below *published* is then seen, unless it is not there.
* Outputs from *published* to H are in the outbox of the snapshot (3), whole, and nothing else is
  demanded of them: Kafka may show them by now or not.
* The snapshot's counters belong to its H. Outputs beyond that H come from batches that were
  committed since; Postgres commits before Kafka shows anything, so H, read again after such an
  output was seen, covers it. One that is still beyond has no source.
* Input records are counted below H only, where the log does not change any more. Retention may
  move a log's start at any time; so the starts are read after the topics, and what lies below them
  is not verifiable.

**Memory** is bounded by the range, not by what is in it: see ``tally``.
"""

from __future__ import annotations

import time

from processor.operations.broker import Broker
from processor.operations.database import Notify, session, silent
from processor.operations.progress import Progress
from processor.operations.verify.bounds import read_bounds
from processor.operations.verify.report import Read, Report, verdict
from processor.operations.verify.run import Verification
from processor.operations.verify.scope import (
    Scope,
    chosen_topics,
    described,
    places_of,
    replays_of,
    require_partition,
)
from processor.pipeline import Pipeline
from processor.settings import Settings

__all__ = ["Report", "Scope", "verify"]


def verify(
    settings: Settings,
    pipeline: Pipeline,
    scope: Scope,
    progress: Progress,
    notify: Notify = silent,
) -> Report:
    """Reconcile a group's two stores.

    :raises ConfigurationError: for a topic, partition or range that is not there.
    :raises Unreachable: when a store does not answer, or an open transaction hides a topic's end.
    """
    began = time.monotonic()
    group = settings.group_id or pipeline.name
    broker = Broker(settings)
    with session(settings, notify=notify) as connection:
        broker.wait(notify=notify)
        replays = replays_of(broker, group)
        names, outputs = [*pipeline.routes, *replays], [*pipeline.outputs, *replays]
        chosen = chosen_topics(names, scope)
        inputs = described(broker, names, pipeline)
        require_partition(inputs, chosen, scope)
        bounds = read_bounds(broker, connection, group, inputs, names)
        bounds.topics |= described(broker, outputs, pipeline)
        # Not before the snapshot.
        ends = broker.log_ends(places_of(bounds.topics, outputs))
        verification = Verification(settings, group, broker, connection, bounds, scope)
        places = [
            place
            for place in sorted({*places_of(inputs, chosen), *bounds.partitions})
            if place[0] in chosen and scope.partition in (None, place[1])
        ]
        partitions = verification.run(places, ends, progress)
    said, code = verdict(partitions, scope.whole)
    seconds = time.monotonic() - began
    read, written = verification.input_messages, verification.output_messages
    return Report(
        group,
        said,
        code,
        tuple(pipeline.outputs),
        Read(read, written, round(seconds, 3), round((read + written) / max(seconds, 0.001), 1)),
        verification.outputs.others,
        tuple(partitions),
    )
