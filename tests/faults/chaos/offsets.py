"""K and the ends of the input's logs, asked for over connections that no fault touches."""

from __future__ import annotations

import time
from collections.abc import Iterable

from processor.engine.batch import Committed, Partition
from processor.engine.clients import KafkaClients
from processor.engine.cluster import Cluster
from processor.settings import Kafka as KafkaSettings
from tests.faults.chaos.pipeline import GROUP, NUMBERS
from tests.support.engine import free_steps

PENDING_SECONDS = 0.5
"""How long to ask for offsets that a transaction is about to move."""
PENDING_POLL_SECONDS = 0.01


class Offsets:
    """For one thread."""

    def __init__(self, servers: str) -> None:
        clients = KafkaClients(KafkaSettings(bootstrap_servers=servers), GROUP, "chaos")
        self._cluster = Cluster(clients.admin, GROUP, free_steps())

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """K of those whose K is stable."""
        wanted = [Partition(NUMBERS, number) for number in partitions]
        found: dict[int, Committed] = {}
        deadline = time.monotonic() + PENDING_SECONDS
        while wanted and time.monotonic() < deadline:
            answer = self._cluster.committed(wanted)
            known = {p.number: k for p, k in answer.items() if isinstance(k, Committed)}
            found |= known
            wanted = [partition for partition in wanted if partition.number not in known]
            time.sleep(PENDING_POLL_SECONDS)
        return found

    def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The high watermarks; control records count."""
        ranges = self._cluster.log_ranges([Partition(NUMBERS, n) for n in partitions])
        return {partition.number: log.high_watermark for partition, log in ranges.items()}
