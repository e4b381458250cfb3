"""One seed of a world in which messages fail, keys are parked, and letters are handled again.

The same workers and faults as in :mod:`tests.simulation.simulation`. Handlers fail until their
message is mended; an operator mends, replays, sends triggers twice or not at all, and discards. In
the end every message that was not discarded has taken effect once in both stores, in the order of
its key.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import psycopg

from processor.engine.batch import Partition
from processor.engine.triggers import (
    letter_trigger,
    queue_triggers,
    replays_topic,
    trigger_key,
)
from processor.testing.scheduler import Process
from tests.simulation import pipeline as simulated
from tests.simulation.audit import Audit
from tests.simulation.pipeline import INPUT, OUTPUT, Told
from tests.simulation.plan import RARE_KINDS, Plan
from tests.simulation.simulation import GROUP, Outcome, Simulation

REPLAYS = replays_topic(GROUP)
REPLAYS_PARTITIONS = 2
OPERATOR_SECONDS = 0.7
PATIENCE_SECONDS = 2.0
DISCARDED_SHARE = 0.05


class RedriveAudit(Audit):
    """Judges by message and key: where an effect comes from does not matter here."""

    _topics = (INPUT, REPLAYS)

    def at_rest(self, halted: Collection[int]) -> bool:
        """Nothing waits, and P = K = H = end everywhere."""
        del halted
        waiting = any(row["state"] in ("failed", "parked", "pending") for row in self.letters())
        if waiting or self._server.committed("parked_keys"):
            return False
        rows = {(row["topic"], row["partition"]): row for row in self._server.rows("progress")}
        return all(map(rows.__contains__, self._places())) and all(
            self._rests(row) for row in rows.values()
        )

    def letters(self) -> list[dict[str, Any]]:
        return self._server.committed("dead_letters")

    def state(self) -> str:
        told = Counter(row["state"] for row in self.letters())
        rows = [
            f"{row['topic']}/{row['partition']}: P {row['published_offset']}"
            f" K {self._k(row)} H {row['next_offset']}"
            f" end {self._broker.log(row['topic'], row['partition']).end}"
            for row in self._server.rows("progress")
        ]
        return f"{'; '.join(rows)}; letters {dict(told)}"

    def violations(self, halted: Collection[int]) -> list[str]:
        del halted
        discarded = {
            (row["partition"], row["offset"])
            for row in self.letters()
            if row["state"] == "discarded"
        }
        wanted = [s for s in self._sent.values() if (s.lane, s.offset) not in discarded]
        effects = {row["n"]: row for row in self._server.committed("effects")}
        runs = Counter(row["n"] for row in self._server.committed("effects"))
        found = [f"message {n} has {count} effects" for n, count in runs.items() if count > 1]
        found += [f"message {s.act.n} has no effect" for s in wanted if s.act.n not in effects]
        numbers = {each.act.n for each in wanted}
        found += [f"message {n} was discarded and has an effect" for n in runs if n not in numbers]
        found += self._letters_once()
        found += self._outputs_once(wanted, effects)
        found += self._totals()
        found += self._in_order(wanted, effects)
        return found

    def sample(self) -> None:
        """What P, K and H do is watched elsewhere."""

    def _places(self) -> Iterable[tuple[str, int]]:
        yield from ((INPUT, number) for number in range(self._partitions))
        if REPLAYS in self._broker.topics:
            yield from ((REPLAYS, number) for number in range(REPLAYS_PARTITIONS))

    def _k(self, row: dict[str, Any]) -> int | None:
        k, _ = self._broker.committed(self._group, row["topic"], row["partition"])
        return None if k is None else k.offset

    def _rests(self, row: dict[str, Any]) -> bool:
        end = self._broker.log(row["topic"], row["partition"]).end
        return row["published_offset"] == self._k(row) == row["next_offset"] == end

    def _letters_once(self) -> list[str]:
        counts = Counter((row["partition"], row["offset"]) for row in self.letters())
        return [f"{place} is {count} dead letters" for place, count in counts.items() if count > 1]

    def _outputs_once(self, wanted: Sequence[Any], effects: dict[int, Any]) -> list[str]:
        found = []
        seen = Counter((told.n, told.at) for told, _ in self._told())
        runs = {(told.n, told.at): told.run for told, _ in self._told()}
        due = {
            (each.act.n, at)
            for each in wanted
            if each.act.do != "silent"
            for at in range(each.act.outputs)
        }
        for place in sorted(due | set(seen)):
            if seen[place] != (place in due):
                found.append(f"output {place} is there {seen[place]} times")
            elif place in due and runs[place] != effects.get(place[0], {"run": None})["run"]:
                found.append(f"output {place} is of another run than the effect")
        return found

    def _told(self) -> list[tuple[Told, int]]:
        """In the order of each partition of the output topic."""
        return [
            (msgspec.json.decode(each.value() or b"", type=Told), each.partition())
            for each in self._broker.visible(OUTPUT)
        ]

    def _in_order(self, wanted: Sequence[Any], effects: dict[int, Any]) -> list[str]:
        """Within a partition and key: runs in Postgres, and places in the output topic."""
        keys: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for each in sorted(wanted, key=lambda each: (each.lane, each.offset)):
            if each.draft.key is not None:
                keys[each.lane, each.draft.key].append(each.act.n)
        place = {told.n: at for at, (told, _) in enumerate(self._told())}
        found = []
        for key, numbers in keys.items():
            runs = [effects[n]["run"] for n in numbers if n in effects]
            if runs != sorted(runs):
                found.append(f"key {key}: effects in the order {runs} of their runs")
            places = [place[n] for n in numbers if n in place]
            if places != sorted(places):
                found.append(f"key {key}: outputs of {numbers} at {places}")
        return found


class Redrive(Simulation):
    """With an operator, and handlers that fail until their message is mended."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        super().__init__(seed, trace)
        self.plan = _calmer(self.plan)
        self._left, self._to_come = len(self.plan.arrivals), 0
        self.pipeline = simulated.parking
        self.chance = Random(seed)
        self._asked: dict[int, float] = {}
        """When each letter, and each queue (negative), was asked for last."""
        self.audit = RedriveAudit(self.broker, self.server, self.plan.partitions, GROUP)
        self.broker.watch = self.audit.sample

    def _schedule(self) -> None:
        super()._schedule()
        self.time.later(self.chance.uniform(0.0, 3.0), self._create_topic)

    def _create_topic(self) -> None:
        self.broker.create_topic(REPLAYS, REPLAYS_PARTITIONS)
        self.time.spawn(Process("operator"), self._operate)

    def _operate(self) -> None:
        while not self._over:
            self.time.pause(self.chance.uniform(0.1, OPERATOR_SECONDS))
            try:
                connection: Any = self.server.connect(autocommit=True)
                try:
                    self._act(connection)
                finally:
                    connection.close()
            except psycopg.Error:
                continue

    def _act(self, connection: Any) -> None:
        for number, partition, offset, key, state in connection.execute(_WAITING).fetchall():
            if self._is_patient(number):
                continue
            if self.chance.random() < 0.7 or self._calm:
                simulated.runs.mended.add((partition, offset))
            if self.chance.random() < DISCARDED_SHARE and state == "failed":
                connection.execute(_DISCARD, (number,))
                continue
            connection.execute(_MARK, (number,))
            times = self.chance.choice((0, 1, 1, 2)) if not self._calm else 1
            self._send([letter_trigger(Partition(INPUT, partition), key, number)] * times)
        for number, partition, key in connection.execute(_QUEUES).fetchall():
            if connection.execute(_BLOCKED, (number, number)).fetchall():
                continue
            if not self._is_patient(-number):
                at = trigger_key(Partition(INPUT, partition), key)
                self._send(queue_triggers(at, number, self.chance.choice((0, 0, 1, 3))))

    def _is_patient(self, number: int) -> bool:
        """Somebody who asks again at once, for ever, is never done."""
        now = self.time.now()
        if self.chance.random() < 0.5 or now - self._asked.get(number, -1e9) < PATIENCE_SECONDS:
            return True
        self._asked[number] = now
        return False

    def _send(self, triggers: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in triggers:
            number = self.broker.partition_of(key, REPLAYS_PARTITIONS)
            self.broker.append(REPLAYS, number, value, key, [], 1)


def _calmer(plan: Plan) -> Plan:
    """Without a database that goes back: what was replayed then is another story."""
    return replace(
        plan,
        kinds=plan.kinds - set(RARE_KINDS),
        timed=tuple(each for each in plan.timed if each.kind not in RARE_KINDS),
        arrivals=tuple(each for each in plan.arrivals if each.transaction != "aborted"),
    )


_WAITING = """
SELECT l.id, l.partition, l."offset", l.key, l.state FROM processor.dead_letters l
JOIN processor.progress p ON p.topic = l.topic AND p.partition = l.partition
WHERE l.state IN ('failed', 'pending') AND p.published_offset > l."offset" ORDER BY l.id
"""
_DISCARD = (
    "UPDATE processor.dead_letters SET state = 'discarded' WHERE id = %s AND state = 'failed'"
)
_MARK = "UPDATE processor.dead_letters SET state = 'pending' WHERE id = %s AND state = 'failed'"
_QUEUES = """
SELECT k.letter_id, l.partition, l.key FROM processor.parked_keys k
JOIN processor.dead_letters l ON l.id = k.letter_id ORDER BY k.letter_id
"""
_BLOCKED = """
SELECT id FROM processor.dead_letters
WHERE (id = %s OR parked_behind = %s) AND state IN ('failed', 'pending')
"""


def simulate(seed: int, trace: bool = False) -> Outcome:
    """Run one seed; the same seed always goes the same way."""
    return Redrive(seed, trace).run()
