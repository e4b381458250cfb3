"""What stands in the fakes at the end of a simulation and on the way, for the two-store checker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from processor.engine.outbox import PROVENANCE_HEADER, read_provenance
from tests.simulation.kafka.broker import Broker
from tests.simulation.pipeline import BAD, INPUT, OUTPUT, SHARED, Act, Told
from tests.simulation.postgres import Server
from tests.support import checker
from tests.support.checker import Effect, History, Input, Letter, Manifest, Output, Sample


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of the input topic that is to take effect."""

    partition: int
    offset: int
    act: Act


class Audit:
    """Collects while the simulation runs, judges at its end."""

    def __init__(self, broker: Broker, server: Server, partitions: int, group: str) -> None:
        self._broker = broker
        self._server = server
        self._partitions = partitions
        self._group = group
        self._sent: list[Sent] = []
        self._numbers = 0
        self._samples: list[Sample] = []
        self._last: dict[int, Sample] = {}

    @property
    def messages(self) -> int:
        return len(self._sent)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def arrived(self, partition: int, offsets: Sequence[int], values: Sequence[bytes]) -> None:
        """Messages were appended to the input."""
        self._sent += [
            Sent(partition, offset, msgspec.json.decode(value, type=Act))
            for offset, value in zip(offsets, values, strict=True)
        ]

    def sample(self) -> None:
        """P, K, H and the outbox at this very moment, of each partition where any has changed."""
        for sample in self._now():
            if self._last.get(sample.partition) != sample:
                self._last[sample.partition] = sample
                self._samples.append(sample)

    def at_rest(self) -> bool:
        """P = K = H = end everywhere, and nothing pending or kept."""
        rested = 0
        for sample in self._now():
            end = self._broker.log(INPUT, sample.partition).end
            levels = (sample.published, sample.committed, sample.next_offset)
            if levels != (end, end, end) or sample.outbox or sample.intent:
                return False
            rested += 1
        return rested == self._partitions

    def state(self) -> str:
        """Where everything stands, in a line."""
        ends = [self._broker.log(INPUT, number).end for number in range(self._partitions)]
        told = [
            f"{s.partition}: P {s.published} K {s.committed} H {s.next_offset}" for s in self._now()
        ]
        return f"{'; '.join(told) or 'no rows'}; ends {ends}"

    def violations(self) -> list[str]:
        """All that the checker finds, in sentences."""
        effects = self._server.committed("effects")
        outputs = self._outputs()
        runs = {(row["partition"], row["offset"]): row["run"] for row in effects}
        found = [
            *checker.check_effects(self._history(effects)),
            *checker.check_letters(self._history(effects)),
            *checker.check_samples(self._samples),
            *checker.check_provenance([output for output, _ in outputs]),
        ]
        for at in (0, 1):
            found += checker.check_outputs(
                History(
                    inputs=[
                        Input(s.partition, s.offset, runs.get((s.partition, s.offset), -1))
                        for s in self._sent
                        if s.act.do not in {"silent", *BAD} and s.act.outputs > at
                    ],
                    outputs=[output for output, told in outputs if told.at == at],
                )
            )
        return [*(each.sentence for each in found), *self._totals(effects)]

    def _totals(self, effects: Sequence[dict[str, Any]]) -> list[str]:
        """What was added up agrees with what was inserted."""
        wanted: Counter[int] = Counter(row["partition"] for row in effects)
        shared = {sent.act.n for sent in self._sent if sent.act.do == "shared"}
        wanted[SHARED] = sum(row["n"] in shared for row in effects)
        found = {row["partition"]: row["total"] for row in self._server.committed("totals")}
        return [
            f"total of {partition} is {found.get(partition, 0)} instead of {wanted[partition]}"
            for partition in sorted({*wanted, *found})
            if found.get(partition, 0) != wanted[partition]
        ]

    def _history(self, effects: Sequence[dict[str, Any]]) -> History:
        return History(
            inputs=[Input(s.partition, s.offset, s.act.n, s.act.do not in BAD) for s in self._sent],
            effects=[Effect(row["partition"], row["offset"], row["n"]) for row in effects],
            letters=[
                Letter(row["partition"], row["offset"])
                for row in self._server.committed("dead_letters")
            ],
        )

    def _outputs(self) -> list[tuple[Output, Told]]:
        """What consumers that read committed data see, in each partition's order."""
        found = []
        for record in self._broker.visible(OUTPUT):
            told = msgspec.json.decode(record.value() or b"", type=Told)
            source = read_provenance(dict(record.headers() or ())[PROVENANCE_HEADER])
            output = Output(
                source.partition,
                source.source_offset,
                told.run,
                record.partition(),
                source.first,
                source.next,
                source.ordinal,
                source.count,
            )
            found.append((output, told))
        return found

    def _now(self) -> list[Sample]:
        found = []
        outbox: dict[int, list[Manifest]] = {}
        for row in self._server.committed("outbox"):
            manifest = Manifest(row["first_offset"], row["next_offset"])
            outbox.setdefault(row["progress_id"], []).append(manifest)
        for row in self._server.committed("progress"):
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
