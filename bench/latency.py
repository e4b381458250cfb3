"""From produce to read_committed visibility of the output, at a steady rate.

``python -m bench.latency [--rate 100] [--seconds 10] [--rounds 3]``: the processor and the
at-least-once loop take turns on the same broker and database; medians and their ratio are printed.
Every round is audited for the messages that it sent: a lost or doubled one is an error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from confluent_kafka import Consumer, TopicPartition

from devstack import Service, Stack
from devstack.kafka.jvm import OPTIONS_VARIABLE
from devstack.process import Child
from pipelines.user_events import UserEventProducer
from pipelines.user_events.handlers import PROCESSED

REFERENCE = "pipelines.user_events:pipeline"
SETTLE_SECONDS = 1.5
WARM_RATE = 300
FIRST_WARM_SECONDS, WARM_SECONDS = 120, 5
"""A broker that has just started runs uncompiled: its steps take two to three times as long."""
COMPILED = "-XX:TieredStopAtLevel=4"


class _Reference(msgspec.Struct):
    event_id: str


@dataclass
class Round:
    """Latencies in milliseconds, sorted."""

    milliseconds: list[float]

    def quantile(self, share: float) -> float:
        return self.milliseconds[
            min(len(self.milliseconds) - 1, int(len(self.milliseconds) * share))
        ]


class Reader:
    """Notes when each output becomes visible to a read_committed consumer."""

    def __init__(self, servers: str) -> None:
        self.seen: dict[str, float] = {}
        self.count: Counter[str] = Counter()
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "latency-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )
        numbers = self._consumer.list_topics(PROCESSED, 10).topics[PROCESSED].partitions
        ends = []
        for number in numbers:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(PROCESSED, number), 5)
            ends.append(TopicPartition(PROCESSED, number, end))
        self._consumer.assign(ends)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        decode = msgspec.json.Decoder(_Reference).decode
        while not self._stop.is_set():
            for message in self._consumer.consume(1, 0.05) + self._consumer.consume(1_000, 0):
                if message.error() is None:
                    event_id = decode(message.value()).event_id
                    self.seen.setdefault(event_id, time.monotonic())
                    self.count[event_id] += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def measure(servers: str, rate: int, seconds: float) -> Round:
    """Send at the rate, one message at a time; each must be seen exactly once."""
    reader = Reader(servers)
    try:
        sent = _send(servers, rate, seconds)
        deadline = time.monotonic() + 20
        while len(reader.seen) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        reader.close()
    if set(reader.seen) != set(sent) or set(reader.count.values()) != {1}:
        raise SystemExit(f"sent {len(sent)}, seen {len(reader.seen)}: no figure")
    warm = list(sent)[len(sent) // 5 :]
    return Round(sorted((reader.seen[i] - sent[i]) * 1_000 for i in warm))


def _send(servers: str, rate: int, seconds: float) -> dict[str, float]:
    """When each event was sent, by its id."""
    sent: dict[str, float] = {}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("page_view", {"page": "/"}),
        ("purchase", {"amount": 5, "product": "x"}),
    ]
    with UserEventProducer(servers, client={"linger.ms": 0}) as producer:
        begin = time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            kind, data = kinds[number % 2]
            when = time.monotonic()
            sent[str(producer.send_user_event(number % 500, kind, data))] = when
    return sent


def prepare(stack: Stack) -> dict[str, str]:
    environment = {**stack.environment, "PROCESSOR_INSTANCE": "bench"}
    for command in (
        ["processor", "migrate"],
        ["alembic", "-n", "user_events", "upgrade", "head"],
        ["processor", "topics", "create", REFERENCE, "--partitions", "12"],
    ):
        subprocess.run(
            [sys.executable, "-m", *command],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
    return environment


def clear(stack: Stack) -> None:
    """The other side's rows would be taken for duplicates."""
    with psycopg.connect(stack.postgres.url) as connection:
        connection.execute(
            "TRUNCATE user_events.processed_events, user_events.purchases,"
            " user_events.user_analytics"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ[OPTIONS_VARIABLE] = COMPILED
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        environment = prepare(stack)
        servers = stack.kafka.bootstrap_servers
        results: dict[str, list[Round]] = {"processor": [], "at least once": []}
        for number in range(chosen.rounds):
            log = Path(folder) / f"{number}.log"
            with Service(REFERENCE, workers=1, log=log, environment=environment) as service:
                settle(servers, FIRST_WARM_SECONDS if number == 0 else WARM_SECONDS)
                results["processor"].append(measure(servers, chosen.rate, chosen.seconds))
                service.drain()
            clear(stack)
            command = [sys.executable, "-m", "bench.baseline", "user-events", f"baseline-{number}"]
            child = Child("baseline", command, log=log, environment=environment)
            settle(servers)
            results["at least once"].append(measure(servers, chosen.rate, chosen.seconds))
            child.kill()
            clear(stack)
    return told(results, chosen.rate)


def settle(servers: str, warm_seconds: int = WARM_SECONDS) -> None:
    """Warm up, then wait until messages come through and nothing older follows."""
    reader = Reader(servers)
    try:
        sent: set[str] = set()
        deadline = time.monotonic() + 60
        while not sent & set(reader.seen):
            if time.monotonic() > deadline:
                raise SystemExit("no message comes through: no figure")
            sent |= set(_send(servers, 10, 0.5))
        _send(servers, WARM_RATE, warm_seconds)
        count = -1
        while count != len(reader.seen):
            count = len(reader.seen)
            time.sleep(SETTLE_SECONDS)
    finally:
        reader.close()


def told(results: dict[str, list[Round]], rate: int) -> int:
    print(f"{rate} messages/s, milliseconds from produce to visible")
    for name, rounds in results.items():
        for share in (0.5, 0.99):
            values = [each.quantile(share) for each in rounds]
            spread = f"{min(values):.1f} to {max(values):.1f}"
            print(f"  {name:14} p{share * 100:g}: {statistics.median(values):6.1f} ({spread})")
    pairs = zip(results["processor"], results["at least once"], strict=True)
    ratios = [ours.quantile(0.5) / theirs.quantile(0.5) for ours, theirs in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"  ratio of the medians: {statistics.median(ratios):.2f} ({spread})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
