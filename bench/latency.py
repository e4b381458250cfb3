"""From produce to read_committed visibility of the output, at steady rates."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Sequence

from confluent_kafka import Consumer, TopicPartition

from bench.contenders import Contender, floor, processor
from bench.ground import OUTPUT_PARTITIONS, Ground
from bench.results import Result, Series
from bench.send import key_of
from bench.throughput import FULL, Case, measure
from bench.trial import Trial

RATES = (100, 1_000, 10_000)
SECONDS = 4.0
WARM_RATE, WARM_SECONDS = 1_000, 3.0
PARTITIONS = 12
ARRIVE_SECONDS, POLL_SECONDS = 60.0, 0.05
WARM_BROKER_SECONDS = 20.0
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Reader:
    """Notes when each output becomes visible to a read_committed consumer."""

    def __init__(self, servers: str, topic: str) -> None:
        self.seen: dict[str, float] = {}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "bench-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(OUTPUT_PARTITIONS)])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            messages = self._consumer.consume(1, 0.05)
            messages += self._consumer.consume(10_000, 0) if messages else []
            now = time.monotonic()
            for message in messages:
                if message.error() is None:
                    self.seen.setdefault(message.key().decode(), now)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


class Sending:
    """A trial whose messages are sent while it runs."""

    def __init__(self, ground: Ground, contender: Contender) -> None:
        self._ground = ground
        self._input = ground.topic("input", PARTITIONS)
        self._sent = 0
        self._trial = Trial(ground, contender, self._input, PARTITIONS)
        self._reader = Reader(ground.servers, self._trial.output)

    def at(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds of each message, in order of sending.

        :raises SystemExit: when one does not come through.
        """
        file = self._ground.folder / f"{self._trial.name}-{self._sent}.sent"
        first = self._sent
        arguments = [self._input, PARTITIONS, first, rate, seconds, file]
        subprocess.run(
            [sys.executable, "-m", "bench.send", *map(str, arguments)],
            env={**os.environ, **self._ground.stack.environment},
            check=True,
        )
        sent = array("d")
        sent.frombytes(file.read_bytes())
        self._sent += len(sent)
        seen = self._reader.seen
        deadline = time.monotonic() + ARRIVE_SECONDS
        while len(seen) < self._sent:
            self._trial.running.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"{self._trial.contender.name}: not all came through: no figure")
            time.sleep(POLL_SECONDS)
        keys = (key_of(first + number, PARTITIONS) for number in range(len(sent)))
        return [(seen[key] - when) * 1_000 for key, when in zip(keys, sent, strict=True)]

    def end(self) -> None:
        """:raises SystemExit: when anything was lost or doubled."""
        done = self._trial.end()
        if done != self._sent:
            raise SystemExit(f"offsets of {done:,} of {self._sent:,} messages: no figure")
        self._ground.drop(self._input)

    def close(self) -> None:
        self._reader.close()
        self._trial.kill()


def milliseconds(
    ground: Ground, contender: Contender, rates: Sequence[float] = RATES
) -> dict[float, list[float]]:
    """By rate, sorted; measured one after the other on a contender that has run warm."""
    trial = Sending(ground, contender)
    try:
        trial.at(WARM_RATE, contender.warm_seconds or WARM_SECONDS)
        found = {rate: sorted(trial.at(rate, SECONDS)) for rate in rates}
        trial.end()
    finally:
        trial.close()
    for rate, each in found.items():
        told = ", ".join(f"{name} {quantile(each, share):.1f}" for name, share in SHARES.items())
        print(f"  {contender.name} at {rate:,.0f}/s, ms: {told}", file=sys.stderr)
    return found


def warm_broker(ground: Ground) -> None:
    """Small transactions, a thousand and more, which do not count.

    A broker that has ended a few hundred only takes three times as long for each, until its Java
    has compiled what they run through: 25 ms instead of 7, measured.
    """
    print("  the broker's own Java gets warm: a run that does not count", file=sys.stderr)
    small = processor("transform", "small transactions", batch_max_messages=2)
    measure(ground, Case(small, FULL), WARM_BROKER_SECONDS)


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def compare(
    name: str,
    ground: Ground,
    count: int,
    contenders: Sequence[Contender],
    rates: Sequence[float] = RATES,
) -> Result:
    """All contenders in turn, round by round."""
    values: dict[str, list[float]] = {}
    for number in range(count):
        for contender in contenders if number % 2 == 0 else list(reversed(contenders)):
            for rate, found in milliseconds(ground, contender, rates).items():
                for share_name, share in SHARES.items():
                    case = f"{contender.name}, {rate:,.0f}/s, {share_name}"
                    values.setdefault(case, []).append(quantile(found, share))
    series = {case: Series(tuple(each)) for case, each in sorted(values.items())}
    return Result(name, "From produce to visible", "ms", series)


def latency(ground: Ground, count: int) -> Result:
    """Beside the loop that guarantees nothing, and one of Kafka transactions alone."""
    ours, floored = processor("full"), floor("at-least-once")
    raw = floor("raw", tables=False)
    warm_broker(ground)
    result = compare("latency", ground, count, [ours, floored, raw])
    for rate in RATES:
        for share in SHARES:
            case = f"{rate:,.0f}/s, {share}"
            target = 2.0 if (rate, share) == (1_000, "p50") else None
            result.ratio(f"{ours.name}, {case}", f"{floored.name}, {case}", target, at_most=True)
            result.ratio(f"{ours.name}, {case}", f"{raw.name}, {case}", at_most=True)
    return result
