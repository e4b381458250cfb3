"""What the output topics show of one input partition's batches, by their provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Message

from processor.engine.batch import Partition
from processor.engine.outbox import PROVENANCE_HEADER, Provenance, read_provenance
from processor.errors import ConfigurationError
from processor.operations.broker import Broker, Place
from processor.operations.progress import SILENT, Progress
from processor.operations.remedies.resolve import Published
from processor.operations.scan import Scan
from processor.settings import Settings

Take = Callable[[Place, Message, Provenance], None]


class OutputTopics:
    """Reads a group's output topics whole, committed records only."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        broker: Broker,
        topics: Sequence[str],
        progress: Progress = SILENT,
    ) -> None:
        self._settings = settings
        self._group = group
        self._broker = broker
        self._topics = topics
        self._progress = progress

    def read(self, topic_id: str, partition: Partition, lineage: str, take: Take) -> None:
        """Hand over each output that says it is of this history of this partition.

        Up to the high watermarks of this moment; transactions that are open there are waited for.

        :raises ConfigurationError: for an output topic that does not exist.
        """
        wanted = (topic_id, partition.number, lineage)
        ranges = {topic: self._ranges(topic) for topic in self._topics}
        offsets = sum(end - begin for each in ranges.values() for begin, end in each.values())
        self._progress.stage(f"{partition}: reading the outputs", offsets)
        for topic in self._topics:

            def sort(number: int, run: list[Message], topic: str = topic) -> None:
                for message in run:
                    source = provenance_of(message)
                    if source is None:
                        continue
                    if (source.topic_id, source.partition, source.lineage) == wanted:
                        take((topic, number), message, source)

            scan = Scan(
                self._settings,
                self._group,
                lambda place: self._broker.log_ends([place])[place],
                self._progress.moved,
            )
            scan.read(topic, ranges[topic], sort)

    def incomplete(self) -> dict[Place, str]:
        """Output partitions that may not hold all that was ever in them, and why."""
        found = {}
        for topic in self._topics:
            policy = self._broker.topic_configs([topic])[topic].get("cleanup.policy", "")
            for place, start in self._broker.log_starts(self._places(topic)).items():
                name = f"{place[0]}/{place[1]}"
                if "compact" in policy:
                    found[place] = f"{name} is compacted"
                elif start > 0:
                    found[place] = f"{name} begins at {start}"
        return found

    def _ranges(self, topic: str) -> dict[int, tuple[int, int]]:
        places = self._places(topic)
        begins, ends = self._broker.log_starts(places), self._broker.log_ends(places)
        return {place[1]: (begins[place], ends[place]) for place in places}

    def _places(self, topic: str) -> list[Place]:
        found = self._broker.topics([topic])[topic]
        if found is None:
            raise ConfigurationError(f"Kafka has no output topic {topic!r}")
        return [(topic, number) for number in range(found.partitions)]


def published(
    outputs: OutputTopics, topic_id: str, partition: Partition, lineage: str, p: int
) -> Published:
    """How far the outputs of a partition have got; ``p`` is known to be published."""
    ends: list[int] = []
    anchored: set[Place] = set()

    def take(place: Place, message: Message, source: Provenance) -> None:
        del message
        anchored.add(place)
        if source.next > p:
            ends.append(source.next)

    outputs.read(topic_id, partition, lineage, take)
    return Published(
        max(ends, default=None), len(ends), tuple(doubtful(outputs.incomplete(), anchored))
    )


def doubtful(incomplete: dict[Place, str], anchored: Iterable[Place]) -> list[str]:
    """Where an output that is not found could have been.

    Retention takes from the front, and within an output partition the outputs of one input
    partition keep their order: where any of them is left, all later ones are. Compaction takes from
    everywhere.
    """
    kept = set(anchored)
    return [
        why for place, why in incomplete.items() if place not in kept or why.endswith("compacted")
    ]


def provenance_of(message: Message) -> Provenance | None:
    """Of the last header of that name: a handler may pass on those of its input."""
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError):
        return None
    for name, value in reversed(headers or ()):
        if name == PROVENANCE_HEADER:
            try:
                return read_provenance(value or b"")
            except ValueError:
                return None
    return None
