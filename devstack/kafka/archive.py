"""Makes the class data archive: a short life of a broker, whose classes are dumped at its end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from devstack.errors import StackError
from devstack.kafka.cluster import Kafka
from devstack.kafka.jvm import archive_file
from devstack.parts import java

TOPIC = "archive"
WARM_UP_SECONDS = 30.0
# Dumping takes seconds on a busy machine.
STOP_SECONDS = 120.0


def ensure_archive() -> str:
    """Makes the archive unless it is there; one line that says what came of it.

    Without an archive everything works, only each start takes some two seconds longer.
    """
    archive = archive_file()
    if archive.exists():
        return "ready: Kafka starts in about half the time"
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            fresh = Path(folder) / archive.name
            _record(Path(folder), fresh)
            if not fresh.exists():
                return f"none (starts take longer): Java {java().version} did not make it"
            fresh.rename(archive)
    except (StackError, OSError) as error:
        return f"none (starts take longer): {str(error).splitlines()[0]}"
    return "made: Kafka starts in about half the time"


def _record(folder: Path, archive: Path) -> None:
    kafka = Kafka(folder / "kafka", archive=archive)
    try:
        kafka.start()
        _use(kafka.bootstrap_servers)
        kafka.nodes[0].stop(STOP_SECONDS)
    finally:
        kafka.close()


def _use(bootstrap_servers: str) -> None:
    """One transaction, written and read: loads the classes that a first client would wait for."""
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    connection: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 3}
    admin = AdminClient(connection)
    for future in admin.create_topics([NewTopic(TOPIC, 1)]).values():
        future.result(WARM_UP_SECONDS)
    producer = Producer({**connection, "transactional.id": TOPIC})
    producer.init_transactions(WARM_UP_SECONDS)
    producer.begin_transaction()
    producer.produce(TOPIC, b"value")
    producer.commit_transaction(WARM_UP_SECONDS)
    consumer = Consumer({**connection, "group.id": TOPIC, "auto.offset.reset": "earliest"})
    consumer.subscribe([TOPIC])
    consumer.poll(WARM_UP_SECONDS)
    consumer.commit(asynchronous=False)
    consumer.close()
