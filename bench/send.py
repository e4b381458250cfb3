"""Sends at a steady rate: ``python -m bench.send TOPIC PARTITIONS FIRST RATE SECONDS FILE``.

FILE holds, as doubles, when each message was sent, by the system's monotonic clock. FIRST is how
many were sent to the topic before; keys go on from there.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from pathlib import Path

import msgspec
from confluent_kafka import Producer

from bench.work.events import event

TICK_SECONDS = 0.001
MESSAGE_BYTES = 200


def key_of(number: int, partitions: int) -> str:
    return f"{number % partitions}-{number // partitions}"


def main(topic: str, partitions: int, first: int, rate: float, seconds: float, file: Path) -> None:
    servers = os.environ["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"]
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0, "acks": "all"})
    producer.list_topics(topic, 10)
    value = msgspec.json.Encoder().encode(event(1, MESSAGE_BYTES))
    sent = array("d")
    total = int(rate * seconds)
    began = time.monotonic()
    while len(sent) < total:
        due = min(total, int((time.monotonic() - began) * rate) + 1)
        for number in range(len(sent), due):
            sent.append(time.monotonic())
            at = first + number
            producer.produce(topic, value, key_of(at, partitions), at % partitions)
        producer.poll(0)
        time.sleep(max(0.0, min(TICK_SECONDS, began + len(sent) / rate - time.monotonic())))
    if producer.flush(30):
        raise SystemExit("not all could be sent")
    file.write_bytes(sent.tobytes())


if __name__ == "__main__":
    topic, partitions, first, rate, seconds, file = sys.argv[1:]
    main(topic, int(partitions), int(first), float(rate), float(seconds), Path(file))
