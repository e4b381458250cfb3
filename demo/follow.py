"""`python -m demo.follow TOPIC`: prints a topic's committed messages as they come, until Ctrl-C.

Kafka is where PROCESSOR_KAFKA__BOOTSTRAP_SERVERS says.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from confluent_kafka import Consumer, TopicPartition

VARIABLE = "PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"
LATEST = 3
"""Messages of each partition that were there before."""


def main(arguments: list[str]) -> int:
    """The exit status."""
    if len(arguments) != 1 or VARIABLE not in os.environ:
        print(f"usage: {VARIABLE}=… python -m demo.follow TOPIC", file=sys.stderr)
        return 2
    try:
        _follow(os.environ[VARIABLE], arguments[0])
    except KeyboardInterrupt:
        return 0
    return 0


def _follow(bootstrap_servers: str, topic: str) -> None:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "user-events-follow",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    try:
        consumer.assign(_tail(consumer, topic))
        while True:
            for message in consumer.consume(1_000, 0.2):
                if not message.error():
                    print(f"{message.partition()}/{message.offset()}", *_text(message), flush=True)
    finally:
        consumer.close()


def _tail(consumer: Consumer, topic: str) -> list[TopicPartition]:
    found = []
    for number in consumer.list_topics(topic, 10).topics[topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
        found.append(TopicPartition(topic, number, max(low, high - LATEST)))
    return found


def _text(message: Any) -> tuple[str, str]:
    key, value = message.key() or b"", message.value() or b""
    return key.decode(errors="replace"), value.decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
