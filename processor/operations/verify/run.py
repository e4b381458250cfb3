"""One verification: inputs, then outputs, then the judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Message

from processor.errors import ConfigurationError
from processor.operations.broker import Broker, Place
from processor.operations.database import Connection
from processor.operations.progress import Progress
from processor.operations.scan import Scan
from processor.operations.verify.bounds import Bound, Bounds, Live
from processor.operations.verify.judge import ALWAYS, NEVER, Circumstances, judge
from processor.operations.verify.outputs import Outputs, Work
from processor.operations.verify.report import Book, Kind, PartitionReport
from processor.operations.verify.scope import Scope
from processor.settings import Settings

Range = tuple[int, int]


class Verification:
    """Reads the topics once and keeps what the judgement needs."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        broker: Broker,
        connection: Connection,
        bounds: Bounds,
        scope: Scope,
    ) -> None:
        self._settings = settings
        self._group = group
        self._broker = broker
        self._live = Live(connection, group)
        self._bounds = bounds
        self._scope = scope
        self._starts: dict[Place, int | None] = {}
        self._policies: dict[str, bool] = {}
        self.works: dict[Place, Work] = {}
        self.outputs = Outputs(bounds, {}, self._live)
        self.input_messages = self.output_messages = 0

    def run(
        self, places: Sequence[Place], ends: Mapping[Place, int], progress: Progress
    ) -> list[PartitionReport]:
        """The report of each partition, and of those that outputs only claim."""
        known = [place for place in places if place in self._bounds.partitions]
        self._open(known)
        self._read_inputs(progress)
        self.outputs = Outputs(self._bounds, self.works, self._live)
        self._read_outputs(ends, progress)
        reports = self._judged(ends)
        for place in places:
            if place not in self.works:
                reports[place] = _empty(place, Book())
        for place, book in self.outputs.strays.items():
            reports[place] = _empty(place, book)
        return [reports[place] for place in sorted(reports)]

    def _open(self, places: Sequence[Place]) -> None:
        begins = self._broker.log_starts(self._existing(places))
        for place in places:
            bound = self._bounds.partitions[place]
            self._starts[place] = start = self._start_of(bound)
            begin = max(start or 0, begins.get(place, 0), self._scope.start or 0)
            end = min(bound.row.next_offset, self._scope.end or ALWAYS)
            work = self.works[place] = Work(bound, begin, end, self._live)
            work.sources_known = self._gone(bound) is None
        if places and not self._scope.whole and all(w.begin >= w.end for w in self.works.values()):
            h = max(work.bound.row.next_offset for work in self.works.values())
            lowest = min(work.begin for work in self.works.values())
            raise ConfigurationError(
                f"nothing was handled in [{self._scope.start or 0}, {self._scope.end or '…'}):"
                f" choose --from and --to between {lowest if lowest < h else 0} and {h}"
            )

    def _start_of(self, bound: Bound) -> int | None:
        """Where the group began: no table keeps it, so it follows from the configuration."""
        if bound.moved_start is not None:
            return bound.moved_start
        late = bound.row.partition >= bound.row.initial_partitions
        recreated = any(each.action == "topic-recreated" for each in bound.recorded)
        return 0 if late or recreated or self._settings.start_from == "earliest" else None

    def _read_inputs(self, progress: Progress) -> None:
        places = self._existing(list(self.works))
        ranges = {place: (self.works[place].begin, self.works[place].end) for place in places}
        progress.stage("reading the inputs", _length(ranges))
        scan = Scan(self._settings, self._group, self._log_end, progress.moved)
        for topic in sorted({topic for topic, _ in places}):

            def take(number: int, run: list[Message], topic: str = topic) -> None:
                present = self.works[topic, number].present
                first, end = run[0].offset(), run[-1].offset() + 1
                if end - first == len(run):
                    present.fill(first, end)
                else:
                    for offset in map(Message.offset, run):
                        present.add(offset)

            short = scan.read(topic, _of(topic, ranges), take)
            for number, end in short.items():
                _tell_short(self.works[topic, number], end)
        self.input_messages = scan.messages
        for place, start in self._broker.log_starts(places).items():
            self.works[place].log_start = start

    def _read_outputs(self, ends: Mapping[Place, int], progress: Progress) -> None:
        starts = self._broker.log_starts(list(ends))
        ranges = {place: (starts[place], end) for place, end in ends.items()}
        progress.stage("reading the outputs", _length(ranges))
        scan = Scan(self._settings, self._group, self._log_end, progress.moved)
        for topic in sorted({topic for topic, _ in ends}):

            def take(number: int, run: list[Message], topic: str = topic) -> None:
                self.outputs.take(topic, number, run)

            scan.read(topic, _of(topic, ranges), take)
        self.output_messages = scan.messages

    def _judged(self, ends: Mapping[Place, int]) -> dict[Place, PartitionReport]:
        trimmed = self._trimmed(ends)
        return {
            place: judge(
                work,
                Circumstances(
                    whole=self._scope.whole,
                    start=self._starts[place],
                    input_gone=self._gone(work.bound),
                    horizon=max((work.earliest.get(n, ALWAYS) for n in trimmed), default=NEVER),
                ),
                self._live.dead_letters(work.bound.row, *self._letters_range(place)),
            )
            for place, work in self.works.items()
        }

    def _letters_range(self, place: Place) -> Range:
        """All below H, or those of the range."""
        work = self.works[place]
        return (0 if self._scope.whole else work.begin), work.end

    def _log_end(self, place: Place) -> int:
        return self._broker.log_ends([place])[place]

    def _trimmed(self, ends: Mapping[Place, int]) -> list[int]:
        """The output partitions that no longer hold all that was ever in them."""
        starts = self._broker.log_starts(list(ends))
        compacted = {topic for topic in {t for t, _ in ends} if self._compacted(topic)}
        return [
            self.outputs.number(place)
            for place, start in starts.items()
            if start > 0 or place[0] in compacted
        ]

    def _gone(self, bound: Bound) -> str | None:
        """Why the input log does not hold, or may not, what the row was made from."""
        topic = self._bounds.topics[bound.row.topic]
        if topic.topic_id != bound.row.topic_id:
            return "the input topic was recreated"
        return "the input topic is compacted" if self._compacted(topic.name) else None

    def _compacted(self, topic: str) -> bool:
        if topic not in self._policies:
            config = self._broker.topic_configs([topic])[topic]
            self._policies[topic] = "compact" in config.get("cleanup.policy", "")
        return self._policies[topic]

    def _existing(self, places: Sequence[Place]) -> list[Place]:
        """Those whose log is the one that the row speaks of."""
        return [
            (topic, number)
            for topic, number in places
            if number < self._bounds.topics[topic].partitions
            and self._bounds.topics[topic].topic_id
            == self._bounds.partitions[topic, number].row.topic_id
        ]


def _tell_short(work: Work, end: int) -> None:
    work.book.find(Kind.INPUT, f"handled up to {work.end}, the log ends at {end}", work.end - end)


def _of(topic: str, ranges: Mapping[Place, Range]) -> dict[int, Range]:
    return {number: given for (name, number), given in ranges.items() if name == topic}


def _length(ranges: Mapping[Place, Range]) -> int:
    return sum(max(0, end - begin) for begin, end in ranges.values())


def _empty(place: Place, book: Book) -> PartitionReport:
    """Of a partition that has no row."""
    return PartitionReport(
        *place,
        start=None,
        end=None,
        next_offset=None,
        committed_offset=None,
        published_offset=None,
        records=0,
        handled=0,
        dead_lettered=0,
        skipped=0,
        duplicates=0,
        outputs=0,
        outputs_found=0,
        outputs_waiting=0,
        outputs_later=0,
        dead_letters=0,
        findings=tuple(book.findings.values()),
        unverifiable=(),
        recorded=(),
    )
