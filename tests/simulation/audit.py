"""What stands in the fakes at the end of a simulation and on the way, for the two-store checker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from processor.engine.outbox import PROVENANCE_HEADER, read_provenance
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.log import Draft, Headers
from processor.testing.postgres import Server
from tests.simulation.pipeline import BAD, INPUT, OUTPUT, SHARED, Act, Told
from tests.support import checker
from tests.support.history import Effect, History, Input, Letter, Manifest, Output, Sample

RECREATED = 100
"""Added to the partition's number for messages of the topic that took the first one's place."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of the input topic that is to take effect."""

    lane: int
    """The partition, of the first topic or of the one that was created after it."""
    offset: int
    act: Act
    draft: Draft

    @property
    def told(self) -> tuple[object, ...]:
        """What its outputs carry on."""
        return self.draft.key, tuple(self.draft.headers), self.draft.timestamp

    @property
    def input(self) -> Input:
        letter = (self.draft.value, *self.told)
        is_good = self.act.do not in BAD
        return Input(self.lane, self.offset, self.act.n, is_good, self.told, letter)


class Audit:
    """Collects while the simulation runs, judges at its end."""

    def __init__(self, broker: Broker, server: Server, partitions: int, group: str) -> None:
        self._broker = broker
        self._server = server
        self._partitions = partitions
        self._group = group
        self._topic_ids = [broker.topics[INPUT].topic_id]
        self._sent: dict[int, Sent] = {}
        self._samples: list[Sample] = []
        self._last: dict[int, Sample] = {}
        self._seen: object = None
        self._numbers = 0
        self._is_restored = False
        self._earlier: list[checker.Violation] = []
        """What the samples before a failover or a restore have shown."""

    @property
    def messages(self) -> int:
        return len(self._sent)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def arrived(self, partition: int, offsets: Sequence[int], drafts: Sequence[Draft]) -> None:
        """Messages were appended to the input."""
        lane = partition + RECREATED * (len(self._topic_ids) - 1)
        for offset, draft in zip(offsets, drafts, strict=True):
            act = msgspec.json.decode(draft.value or b"", type=Act)
            self._sent[act.n] = Sent(lane, offset, act, draft)

    def recreated(self) -> None:
        """The input topic is about to be deleted and created again."""
        self._judge_samples()
        self._topic_ids.append("")

    def failed_over(self) -> None:
        """What the primary has committed and told nobody of is gone."""
        self._judge_samples()

    def restored(self) -> None:
        """Postgres goes back: from now on P and H may, too."""
        self._judge_samples()
        self._is_restored = True

    def _judge_samples(self) -> None:
        """Those so far are of one history."""
        if not self._is_restored:
            self._earlier += checker.check_samples(self._samples)
        self._samples.clear()
        self._last.clear()

    def sample(self) -> None:
        """P, K, H and the outbox at this very moment, of each partition where any has changed."""
        k = self._broker.group(self._group).offsets.committed
        seen = self._server.rows("progress"), self._server.rows("outbox"), dict(k)
        if seen == self._seen:
            return  # what was committed was something else
        self._seen = seen
        for sample in self._now():
            if self._last.get(sample.partition) != sample:
                self._last[sample.partition] = sample
                self._samples.append(sample)

    def at_rest(self, halted: Collection[int]) -> bool:
        """P = K = H = end everywhere, and nothing pending or kept, but for what is halted."""
        rested = set(halted)
        current = self._rows_of_the_topic()
        for sample in self._now():
            if sample.partition not in current:
                continue  # its numbers are of a topic that is gone
            end = self._broker.log(INPUT, sample.partition).end
            levels = (sample.published, sample.committed, sample.next_offset)
            if levels == (end, end, end) and not sample.outbox and not sample.intent:
                rested.add(sample.partition)
        return rested.issuperset(range(self._partitions))

    def state(self) -> str:
        """Where everything stands, in a line."""
        ends = [self._broker.log(INPUT, number).end for number in range(self._partitions)]
        told = [
            f"{s.partition}: P {s.published} K {s.committed} H {s.next_offset}" for s in self._now()
        ]
        return f"{'; '.join(told) or 'no rows'}; ends {ends}"

    def violations(self, halted: Collection[int]) -> list[str]:
        """All that the checker finds, in sentences.

        :param halted: partitions that have stopped, with cause: nothing more is known of them.
        """
        self._topic_ids[-1] = self._broker.topics[INPUT].topic_id
        effects = self._effects()
        sent = [each for each in self._sent.values() if each.lane % RECREATED not in halted]
        if len(self._topic_ids) > 1:
            done = {(each.partition, each.offset) for each in (*effects, *self._letters())}
            # What was not handled when its topic was deleted is gone.
            sent = [s for s in sent if s.lane >= RECREATED or (s.lane, s.offset) in done]
        outputs = self._outputs()
        lanes = {each.lane for each in sent}
        doubled = [
            *_twice("took effect", ((each.partition, each.offset) for each in effects)),
            *_twice("has an output", ((o.partition, o.offset, t.at) for o, t in outputs)),
            *_swapped(outputs),
        ]
        effects = [each for each in effects if each.partition in lanes]
        history = History(
            inputs=[each.input for each in sent],
            effects=effects,
            letters=[each for each in self._letters() if each.partition in lanes],
        )
        self._judge_samples()
        found = [
            *self._earlier,
            *checker.check_effects(history),
            *checker.check_letters(history),
            *checker.check_provenance([output for output, _ in outputs]),
        ]
        for at in (0, 1):
            found += checker.check_outputs(
                History(
                    inputs=[
                        Input(s.lane, s.offset, self._run_of(s), told=s.told)
                        for s in sent
                        if s.act.do not in {"silent", *BAD} and s.act.outputs > at
                    ],
                    outputs=[o for o, told in outputs if told.at == at and o.partition in lanes],
                )
            )
        sentences = [each.sentence for each in found]
        return [*sentences, *doubled, *self._totals(), *self._sights()]

    def _effects(self) -> list[Effect]:
        """Which topic a message was of is known by its number."""
        self._runs = {row["n"]: row["run"] for row in self._server.committed("effects")}
        found = []
        for row in self._server.committed("effects"):
            sent = self._sent.get(row["n"])
            lane = row["partition"] if sent is None else sent.lane
            found.append(Effect(lane, row["offset"], row["n"]))
        return found

    def _run_of(self, sent: Sent) -> int:
        """The run of its handler that Postgres holds; -1 when it holds none."""
        return self._runs.get(sent.act.n, -1)

    def _letters(self) -> list[Letter]:
        found = []
        for row in self._server.committed("dead_letters"):
            lane = row["partition"] + RECREATED * self._topic_ids.index(row["topic_id"])
            headers = tuple(map(tuple, msgspec.msgpack.decode(row["headers"])))
            content = (row["value"], row["key"], headers, row["timestamp"])
            found.append(Letter(lane, row["offset"], content))
        return found

    def _totals(self) -> list[str]:
        """What was added up agrees with what was inserted."""
        effects = self._server.committed("effects")
        wanted: Counter[int] = Counter(row["partition"] for row in effects)
        shared = {sent.act.n for sent in self._sent.values() if sent.act.do == "shared"}
        wanted[SHARED] = sum(row["n"] in shared for row in effects)
        found = {row["partition"]: row["total"] for row in self._server.committed("totals")}
        return [
            f"total of {partition} is {found.get(partition, 0)} instead of {wanted[partition]}"
            for partition in sorted({*wanted, *found})
            if found.get(partition, 0) != wanted[partition]
        ]

    def _sights(self) -> list[str]:
        """Whoever asked Postgres has seen all that came before it in its partition."""
        if len(self._topic_ids) > 1:
            return []  # offsets of two topics do not tell which came before
        effects = self._server.committed("effects")
        found = []
        for row in effects:
            before = sum(
                each["partition"] == row["partition"] and each["offset"] < row["offset"]
                for each in effects
            )
            if row["seen"] is not None and row["seen"] != before:
                found.append(f"message {row['n']} saw {row['seen']} before it, not {before}")
        return found

    def _outputs(self) -> list[tuple[Output, Told]]:
        """What consumers that read committed data see, in each partition's order."""
        found = []
        for record in self._broker.visible(OUTPUT):
            told = msgspec.json.decode(record.value() or b"", type=Told)
            source = read_provenance(dict(record.headers() or ())[PROVENANCE_HEADER])
            output = Output(
                source.partition + RECREATED * self._topic_ids.index(source.topic_id),
                source.source_offset,
                told.run,
                record.partition(),
                source.first,
                source.next,
                source.ordinal,
                source.count,
                (record.key(), _own(record.headers()), record.timestamp()[1]),
            )
            found.append((output, told))
        return found

    def _rows_of_the_topic(self) -> set[int]:
        topic_id = self._broker.topics[INPUT].topic_id
        rows = self._server.rows("progress")
        return {row["partition"] for row in rows if row["topic_id"] == topic_id}

    def _now(self) -> list[Sample]:
        found = []
        outbox: dict[int, list[Manifest]] = {}
        for row in self._server.rows("outbox"):
            manifest = Manifest(row["first_offset"], row["next_offset"])
            outbox.setdefault(row["progress_id"], []).append(manifest)
        for row in self._server.rows("progress"):
            if row["superseded_at"] is not None:
                continue
            k, _ = self._broker.committed(self._group, INPUT, row["partition"])
            found.append(
                Sample(
                    row["partition"],
                    row["published_offset"],
                    None if k is None else k.offset,
                    row["next_offset"],
                    intent=row["intent"] is not None,
                    outbox=tuple(sorted(outbox.get(row["id"], ()))),
                    lineage=row["lineage"],
                )
            )
        return sorted(found)


def _own(headers: Headers) -> Headers:
    """Without the provenance."""
    return tuple((name, value) for name, value in headers if name != PROVENANCE_HEADER)


def _twice(what: str, places: Iterable[tuple[int, ...]]) -> list[str]:
    """Also where a partition has stopped: it stops so that nothing is doubled."""
    counts = Counter(places)
    return [f"partition {p[0]} at {p[1]} {what} {n} times" for p, n in counts.items() if n > 1]


def _swapped(outputs: Iterable[tuple[Output, Told]]) -> list[str]:
    """A message's outputs stand in the order in which its handler gave them, in each place."""
    last: dict[tuple[object, ...], int] = {}
    found = []
    for output, told in outputs:
        message = output.place, output.partition, output.offset
        if told.at < last.get(message, -1):
            where = f"partition {output.partition} at {output.offset}"
            found.append(f"{where} has output {told.at} behind {last[message]}")
        last[message] = told.at
    return found
