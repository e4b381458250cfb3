"""Getting events into a real topic: ``UserEventProducer`` and ``processor produce``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from devstack import Kafka
from pipelines.user_events import DeliveryError, UserEventProducer, pipeline
from processor.cli.produce import produce
from processor.errors import ConfigurationError, Exit, ProcessorError, Unreachable

ROOT = Path(__file__).parents[2]
NOWHERE = "127.0.0.1:1"

Topic = Callable[..., str]
Read = Callable[[str], list[Message]]


@pytest.fixture
def read(kafka: Kafka) -> Iterator[Read]:
    """All messages that a topic has by now, in order per partition (it has no transactions)."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "never-committed",
            "enable.auto.commit": False,
        }
    )

    def messages(topic: str) -> list[Message]:
        numbers = consumer.list_topics(topic, 10).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in numbers]
        expected = sum(consumer.get_watermark_offsets(place, 10)[1] for place in places)
        consumer.assign(places)
        found = consumer.consume(expected, 30) if expected else []
        assert len(found) == expected, "not all messages within 30 s"
        assert not [message.error() for message in found if message.error()]
        return list(found)

    yield messages
    consumer.close()


def decoded(message: Message) -> Any:
    """The event, as the pipeline's route decodes it."""
    _, event = pipeline.routes["user-events"].decode(message.value())
    return event


def test_every_event_arrives_once_and_in_its_users_order(
    kafka: Kafka, topic: Topic, read: Read
) -> None:
    name = topic("events", partitions=3)
    with UserEventProducer(kafka.bootstrap_servers, name) as producer:
        ids = [
            producer.send_user_event(number % 20, "page_view", {"page": "/", "duration": number})
            for number in range(5_000)
        ]
        producer.flush()
        assert (producer.delivered, producer.failed, producer.pending) == (5_000, 0, 0)
    found = read(name)
    events = [decoded(message) for message in found]
    assert sorted(event.event_id for event in events) == sorted(ids)
    for user in range(20):
        durations = [event.data.duration for event in events if event.user_id == user]
        assert durations == list(range(user, 5_000, 20))
    assert len({message.partition() for message in found}) == 3
    assert {message.key() for message in found} == {b"%d" % user for user in range(20)}


def test_an_event_is_what_it_was_told_to_be(kafka: Kafka, topic: Topic, read: Read) -> None:
    name = topic("events")
    at = datetime(2025, 3, 1, 12, 0, 0, 250_000)
    own_id = UUID(int=7)
    with UserEventProducer(kafka.bootstrap_servers, name) as producer:
        given = producer.send_user_event(
            "0042", "purchase", {"amount": "9.90"}, timestamp=at, event_id=own_id
        )
    (message,) = read(name)
    assert given == own_id
    assert message.key() == b"42"
    assert json.loads(message.value()) == {
        "event_type": "purchase",
        "user_id": 42,
        "timestamp": "2025-03-01T12:00:00.250000Z",
        "event_data": {"amount": "9.90"},
        "event_id": str(own_id),
    }
    assert decoded(message).timestamp == at.replace(tzinfo=UTC)


def test_keys_are_partitioned_as_by_java(kafka: Kafka, topic: Topic, read: Read) -> None:
    name = topic("events", partitions=12)
    with UserEventProducer(kafka.bootstrap_servers, name) as producer:
        for user in (1, 21, 42, 100, 12345):
            producer.send_user_event(user, "login", {})
    partitions = {int(message.key()): message.partition() for message in read(name)}
    assert partitions == {user: murmur2(b"%d" % user) % 12 for user in partitions}


def murmur2(data: bytes) -> int:
    """The hash of Java's default partitioner, without its sign."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        part = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        part = (part ^ (part >> 24)) * multiplier & mask
        value = (value * multiplier & mask) ^ part
    if data[whole:]:
        value = (value ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    value = (value ^ (value >> 13)) * multiplier & mask
    return (value ^ (value >> 15)) & 0x7FFFFFFF


def test_what_the_broker_refuses_is_raised_by_flush(kafka: Kafka, topic: Topic, read: Read) -> None:
    name = topic("small", config={"max.message.bytes": "2000"})
    producer = UserEventProducer(kafka.bootstrap_servers, name, client={"compression.type": "none"})
    good = producer.send_user_event(1, "login", {})
    producer.flush()
    bad = producer.send_user_event(1, "login", {"text": "x" * 5_000})
    with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE") as raised:
        producer.flush()
    assert [failure.event_id for failure in raised.value.failures] == [bad]
    assert (producer.delivered, producer.failed) == (1, 1)
    producer.flush()
    assert [decoded(message).event_id for message in read(name)] == [good]


def test_what_the_broker_refuses_is_raised_by_the_next_call(kafka: Kafka, topic: Topic) -> None:
    name = topic("small", config={"max.message.bytes": "2000"})
    # Alone in its batch: the broker refuses batches, the good with the bad.
    client = {"compression.type": "none", "batch.num.messages": 1}
    with UserEventProducer(kafka.bootstrap_servers, name, client=client) as producer:
        bad = producer.send_user_event(1, "login", {"text": "x" * 5_000})
        failures = until_raised(lambda: producer.send_user_event(2, "login", {}))
        assert [failure.event_id for failure in failures] == [bad]
        producer.send_user_event(3, "login", {})
    assert producer.failed == 1


def until_raised(call: Callable[[], object]) -> list[Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            call()
        except DeliveryError as error:
            return error.failures
        time.sleep(0.01)
    raise AssertionError("no delivery error within 30 s")


def test_what_the_broker_refuses_is_raised_at_the_end_of_the_block(
    kafka: Kafka, topic: Topic
) -> None:
    name = topic("small", config={"max.message.bytes": "2000"})
    client = {"compression.type": "none"}
    with (
        pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"),
        UserEventProducer(kafka.bootstrap_servers, name, client=client) as producer,
    ):
        producer.send_user_event(1, "login", {"text": "x" * 5_000})


def test_an_exception_of_the_block_is_not_covered_up(kafka: Kafka, topic: Topic) -> None:
    def broken() -> None:
        with UserEventProducer(kafka.bootstrap_servers, topic("events")) as producer:
            with pytest.raises(DeliveryError):
                producer.send_user_event(1, "login", {"text": "x" * 2_000_000})
            producer.topic = topic("small", config={"max.message.bytes": "200"})
            producer.send_user_event(1, "login", {"text": "x" * 500})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        broken()
    assert "MSG_SIZE_TOO_LARGE" in raised.value.__notes__[0]


def test_an_event_larger_than_the_client_takes_is_raised_at_once(
    kafka: Kafka, topic: Topic
) -> None:
    with UserEventProducer(kafka.bootstrap_servers, topic("events")) as producer:
        with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):
            producer.send_user_event(1, "login", {"text": "x" * 2_000_000})
        producer.send_user_event(1, "login", {})
    assert (producer.delivered, producer.failed) == (1, 1)


def test_a_topic_that_is_deleted_meanwhile_is_no_silence(
    kafka: Kafka, topic: Topic, admin: AdminClient
) -> None:
    name = topic("doomed")
    producer = UserEventProducer(
        kafka.bootstrap_servers,
        name,
        delivery_timeout_seconds=3,
        client={"topic.metadata.propagation.max.ms": 500},
    )
    producer.send_user_event(1, "login", {})
    producer.flush()
    admin.delete_topics([name])[name].result(30)
    failures = until_raised(lambda: (producer.send_user_event(2, "login", {}), producer.flush(1)))
    assert failures
    assert producer.delivered + producer.failed + producer.pending > 1


def test_a_broker_that_is_away_fails_each_event_in_time() -> None:
    producer = UserEventProducer(NOWHERE, delivery_timeout_seconds=1)
    ids = [producer.send_user_event(1, "login", {}) for _ in range(3)]
    with pytest.raises(Unreachable, match="3 events for 'user-events' are not delivered yet"):
        producer.flush(0.1)
    with pytest.raises(DeliveryError, match=r"_MSG_TIMED_OUT.*\(and 2 more\)") as raised:
        producer.flush()
    assert [failure.event_id for failure in raised.value.failures] == ids
    assert (producer.delivered, producer.failed, producer.pending) == (0, 3, 0)


def test_a_full_queue_waits_and_then_gives_up() -> None:
    producer = UserEventProducer(
        NOWHERE,
        delivery_timeout_seconds=0.1,
        client={"queue.buffering.max.messages": 10, "delivery.timeout.ms": 600_000},
    )
    for _ in range(10):
        producer.send_user_event(1, "login", {})
    began = time.monotonic()
    with pytest.raises(Unreachable, match="queue for 'user-events' stays full"):
        producer.send_user_event(1, "login", {})
    assert 5 <= time.monotonic() - began < 10
    assert producer.pending == 10


def test_a_full_queue_goes_on_when_there_is_room(kafka: Kafka, topic: Topic, read: Read) -> None:
    name = topic("events")
    client = {"queue.buffering.max.messages": 10}
    with UserEventProducer(kafka.bootstrap_servers, name, client=client) as producer:
        for _ in range(500):
            producer.send_user_event(1, "login", {})
    assert len(read(name)) == 500


@pytest.mark.parametrize(
    ("user_id", "event_type", "data", "complaint"),
    [
        ("abc", "login", {}, "user_id is not a whole number: 'abc'"),
        (2**63, "login", {}, "user_id is beyond 64 bits"),
        (1, "log\0in", {}, r"U\+0000"),
        (1, "login", {"text": "\0"}, r"U\+0000"),
        (1, "login", {"text": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_what_no_consumer_could_store_is_not_sent(
    user_id: Any, event_type: str, data: dict[str, Any], complaint: str
) -> None:
    producer = UserEventProducer(NOWHERE)
    with pytest.raises(ValueError, match=complaint):
        producer.send_user_event(user_id, event_type, data)
    assert producer.pending == 0


@pytest.mark.parametrize("name", ["acks", "enable.idempotence", "partitioner", "retries"])
def test_the_delivery_cannot_be_weakened(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        UserEventProducer(NOWHERE, client={name: "0"})


def test_an_unknown_property_is_named() -> None:
    with pytest.raises(ConfigurationError, match="compresion"):
        UserEventProducer(NOWHERE, client={"compresion.type": "lz4"})


GENERATOR = "pipelines.user_events:sample_events"


@pytest.fixture
def configured(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap_servers)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``made`` with other generators."""
    (tmp_path / "made.py").write_text(
        """
def without_topic(users, types, seed):
    return iter([(None, b"1"), (b"key", None)])

def failing(users, types, seed):
    yield from [(b"1", b"{}")] * 3
    raise KeyError("the fourth")

def of_text(users, types, seed):
    yield "key", "value"
"""
    )
    monkeypatch.syspath_prepend(tmp_path)


def summary_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("configured")
def test_produce_sends_what_was_asked_for(
    topic: Topic, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    name = topic("events", partitions=3)
    produce(
        GENERATOR, name, rate=0, count=3_000, users=5, types="page_view=1,login=1", as_json=True
    )
    summary = summary_of(capsys)
    assert (summary["topic"], summary["produced"], summary["delivered"]) == (name, 3_000, 3_000)
    assert (summary["failed"], summary["unknown"], summary["stopped"]) == (0, 0, False)
    events = [decoded(message) for message in read(name)]
    assert len({event.event_id for event in events}) == 3_000
    assert {event.user_id for event in events} == {1, 2, 3, 4, 5}
    assert {event.event_type for event in events} == {"page_view", "login"}
    assert 1_200 < sum(event.event_type == "page_view" for event in events) < 1_800


@pytest.mark.usefixtures("configured")
def test_the_same_seed_makes_the_same_events(topic: Topic, read: Read) -> None:
    def untimed(seed: int) -> list[Any]:
        name = topic("events")
        produce(GENERATOR, name, rate=0, count=50, seed=seed)
        return [json.loads(message.value()) | {"timestamp": None} for message in read(name)]

    first = untimed(7)
    assert len(first) == 50
    assert untimed(7) == first
    assert untimed(8) != first


@pytest.mark.usefixtures("configured")
def test_the_rate_is_kept(topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    produce(GENERATOR, topic("events"), rate=200, count=401, as_json=True)
    assert 2.0 <= summary_of(capsys)["seconds"] < 3.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_produce_runs_until_it_is_stopped(
    number: signal.Signals, kafka: Kafka, topic: Topic, read: Read
) -> None:
    name = topic("events")
    process = started(kafka.bootstrap_servers, "--topic", name, "--rate", "500", "--count", "0")
    try:
        deadline = time.monotonic() + 30
        while not read(name) and time.monotonic() < deadline:
            assert process.poll() is None
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    found = len(read(name))
    assert found > 0
    assert out.startswith(f"stopped: {found:,} events to {name}")
    assert out.endswith(f" {found:,} delivered, 0 not\n")


def started(servers: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """``processor produce``, as a process of its own in the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-m", "processor", "produce", GENERATOR, *arguments],
        cwd=ROOT,
        env=os.environ | {"PROCESSOR_KAFKA__BOOTSTRAP_SERVERS": servers} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_broker_that_is_away_is_told_in_a_line() -> None:
    began = time.monotonic()
    process = started(NOWHERE, PROCESSOR_START_TIMEOUT_SECONDS="1")
    out, complaint = process.communicate(timeout=30)
    assert process.returncode == 3
    assert out == ""
    assert complaint.splitlines()[-1].startswith(f"error: Kafka at {NOWHERE} does not answer")
    assert "Traceback" not in complaint
    assert time.monotonic() - began < 15


@pytest.mark.usefixtures("configured")
def test_a_missing_topic_is_told_and_not_made(admin: AdminClient) -> None:
    with pytest.raises(ConfigurationError, match=r"no topic 'no-such-topic'.*topics create"):
        produce(GENERATOR, "no-such-topic")
    assert "no-such-topic" not in admin.list_topics(timeout=10).topics


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("generator", "types", "complaint"),
    [
        ("pipelines.nowhere:sample_events", None, "no module 'pipelines.nowhere'"),
        ("pipelines.user_events:samples_of", None, "has no 'samples_of'"),
        ("pipelines.user_events", None, "is not of the form module:attribute"),
        ("pipelines.user_events:pipeline", None, "is no generator: it cannot be called"),
        ("math:sqrt", None, "'math:sqrt': "),
        (GENERATOR, "page_view=many", "'page_view=many' is not of the form"),
        (GENERATOR, "page_view=-1", "'page_view=-1' is not of the form"),
        (GENERATOR, "page_view=0", "the types need proportions"),
        ("made:without_topic", None, "'made:without_topic' names no topic of its own; add --topic"),
    ],
)
def test_a_wrong_argument_is_told_in_a_line(
    generator: str, types: str | None, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]*$") as raised:
        produce(generator, types=types)
    assert complaint in str(raised.value)


@pytest.mark.usefixtures("configured", "made")
def test_any_pairs_of_bytes_will_do(topic: Topic, read: Read) -> None:
    name = topic("events")
    produce("made:without_topic", name, rate=0)
    assert [(each.key(), each.value()) for each in read(name)] == [(None, b"1"), (b"key", None)]


@pytest.mark.usefixtures("configured", "made")
@pytest.mark.parametrize(
    ("generator", "sent", "complaint"),
    [
        ("made:failing", 3, "'made:failing': KeyError: 'the fourth'"),
        ("made:of_text", 0, "it yields str where bytes or None must be"),
    ],
)
def test_what_came_before_a_failing_generator_is_delivered(
    topic: Topic, read: Read, generator: str, sent: int, complaint: str
) -> None:
    name = topic("events")
    with pytest.raises(ConfigurationError, match=complaint):
        produce(generator, name)
    assert len(read(name)) == sent


@pytest.mark.usefixtures("configured")
def test_produce_fails_when_the_broker_refuses(
    topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    name = topic("small", config={"max.message.bytes": "100"})
    with pytest.raises(ProcessorError, match=f"not delivered to '{name}': MSG_SIZE") as raised:
        produce(GENERATOR, name, count=5, as_json=True)
    assert raised.value.exit_code == Exit.VERDICT
    summary = summary_of(capsys)
    assert summary["failed"] > 0
    assert summary["delivered"] == 0
