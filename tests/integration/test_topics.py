"""`processor topics` on the real broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine, command_line, write_pipeline
from confluent_kafka import Producer

from devstack import Kafka
from processor.errors import ConfigurationError
from processor.operations.broker import Broker
from processor.operations.topics import Wish, create, describe
from processor.settings import Kafka as KafkaSettings
from processor.settings import Settings


@pytest.fixture
def broker(kafka: Kafka) -> Broker:
    broker = Broker(Settings(kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers)))
    broker.wait()
    return broker


@pytest.fixture
def run(tmp_path: Path, kafka: Kafka) -> CommandLine:
    return command_line(tmp_path, kafka, "postgresql://nobody@127.0.0.1:1/none")


def test_topics_are_created_once(broker: Broker, group: str) -> None:
    names = [f"{group}-in", f"{group}-out"]
    wish = Wish(partitions=3, replication=1, retention_ms=3_600_000)
    first = create(broker, names, wish)
    assert [(each.topic, each.action) for each in first] == [(name, "created") for name in names]
    assert {(each.found.partitions, each.found.replication) for each in first} == {(3, 1)}
    assert {each.found.retention_ms for each in first} == {3_600_000}
    assert {each.action for each in create(broker, names, wish)} == {"exists"}
    assert {each.action for each in create(broker, names, Wish())} == {"exists"}


def test_an_existing_topic_is_compared_and_left_as_it_is(broker: Broker, group: str) -> None:
    create(broker, [group], Wish(partitions=3, retention_ms=3_600_000))
    (outcome,) = create(broker, [group], Wish(partitions=5, replication=3, retention_ms=-1))
    assert outcome.action == "differs"
    assert outcome.differences == (
        "3 partitions instead of 5",
        "replication 1 instead of 3",
        "retention 1h instead of forever",
    )
    (found,) = describe(broker, [group])
    assert (found.partitions, found.replication, found.retention_ms) == (3, 1, 3_600_000)


def test_what_the_broker_refuses_is_told_by_topic(broker: Broker, group: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"creating topic '{group}'.*eplication"):
        create(broker, [group], Wish(replication=3))


def test_the_log_is_counted(broker: Broker, kafka: Kafka, topic: Callable[..., str]) -> None:
    name = topic("counted", partitions=2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(7):
        producer.produce(name, b"x", partition=number % 2)
    producer.flush(30)
    (found,) = describe(broker, [name])
    assert (found.messages, found.in_sync, found.min_insync_replicas) == (7, 1, 1)


def test_create_and_list_as_commands(run: CommandLine, group: str) -> None:
    reference = write_pipeline(run.directory, group, f"{group}-in", f"{group}-out")
    missing = run("topics", "list", reference)
    assert (missing.code, "run: processor topics create" in missing.err) == (0, True)
    made = run("topics", "create", reference, "--partitions", "4", "--retention", "7d", "--json")
    assert made.code == 0, made.err
    assert [(each["topic"], each["action"]) for each in made.json] == [
        (f"{group}-in", "created"),
        (f"{group}-out", "created"),
    ]
    listed = run("topics", "list", reference, "--json").json
    assert [(each["topic"], each["partitions"], each["retention_ms"]) for each in listed] == [
        (f"{group}-in", 4, 604_800_000),
        (f"{group}-out", 4, 604_800_000),
    ]
    everything = run("topics", "list")
    assert f"{group}-out" in everything.out
    assert "__consumer_offsets" not in everything.out


def test_differences_are_told_and_are_no_failure(run: CommandLine, group: str) -> None:
    reference = write_pipeline(run.directory, group, f"{group}-in", f"{group}-out")
    run("topics", "create", reference, "--partitions", "2")
    again = run("topics", "create", reference, "--partitions", "3")
    assert again.code == 0
    assert f"{group}-in is left as it is: 2 partitions instead of 3" in again.err
    assert "differs" in again.out
