"""What a cluster must be for the promise to hold on it. Facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from processor.operations.broker import Broker, Cluster, Topic
from processor.operations.broker_errors import ForbiddenError
from processor.operations.check.finding import Area, Finding
from processor.operations.topics import how_to_create, topics_of
from processor.operations.units import duration
from processor.pipeline import Pipeline
from processor.settings import Settings

OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
NOTHING = frozenset({"NONE"})
WEEK_MINUTES = 7 * 24 * 60
SINCE_4_3 = "group.coordinator.background.threads"
"""A setting of Kafka 4.3 and later: a client is not told the brokers' version."""

kafka = Area("kafka")
topics = Area("topics")
access = Area("access")

Config = Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What the cluster said of itself; None for what it may not tell this user."""

    cluster: Cluster
    broker: Config | None
    topics: Mapping[str, Topic | ForbiddenError | None]
    topic_configs: Mapping[str, Config] = field(default_factory=dict)
    group_operations: frozenset[str] = frozenset()


def gather(broker: Broker, pipeline: Pipeline, group: str) -> Facts:
    """Ask for everything that :func:`judge` looks at."""
    cluster = broker.cluster()
    found = broker.visible_topics([*topics_of(pipeline), OFFSETS, TRANSACTIONS])
    configs: dict[str, Config] = {}
    for name in topics_of(pipeline):
        if isinstance(found[name], Topic):
            configs |= _allowed(partial(broker.topic_configs, [name])) or {}
    operations = _allowed(partial(broker.group_operations, group))
    return Facts(
        cluster,
        _allowed(partial(broker.broker_config, cluster.brokers[0])),
        found,
        configs,
        NOTHING if operations is None else operations,
    )


def _allowed(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ForbiddenError:
        return None


def judge(facts: Facts, settings: Settings, pipeline: Pipeline, group: str) -> Iterator[Finding]:
    count = len(facts.cluster.brokers)
    yield kafka.ok(f"cluster {facts.cluster.cluster_id} answers, {count} broker(s)")
    if facts.broker is None:
        yield kafka.warning(
            "the brokers' configuration may not be read, so durability is unknown",
            "grant DescribeConfigs on the cluster and the topics",
        )
    else:
        yield transaction_timeout(facts.broker, settings)
        yield from session_timeout(facts.broker, settings)
        yield offsets_retention(facts.broker)
        yield transaction_markers(facts.broker)
        yield from internal_topics(facts)
    for name in topics_of(pipeline):
        found, config = facts.topics.get(name), facts.topic_configs.get(name)
        yield from topic(name, found, config, how_to_create(pipeline))
    yield from rights(facts, pipeline, group)


def transaction_timeout(broker: Config, settings: Settings) -> Finding:
    limit = int(broker["transaction.max.timeout.ms"])
    wanted = int(settings.kafka.transaction_timeout_seconds * 1000)
    if wanted > limit:
        return kafka.error(
            f"transactions of {wanted} ms are configured, the brokers allow {limit} ms",
            "lower kafka.transaction_timeout_seconds or raise transaction.max.timeout.ms",
        )
    return kafka.ok(f"transactions may last {wanted} ms (the brokers allow {limit} ms)")


def session_timeout(broker: Config, settings: Settings) -> Iterator[Finding]:
    if settings.kafka.group_protocol != "classic":
        return  # the brokers alone decide it
    low = int(broker["group.min.session.timeout.ms"])
    high = int(broker["group.max.session.timeout.ms"])
    wanted = int(settings.kafka.session_timeout_seconds * 1000)
    if low <= wanted <= high:
        yield kafka.ok(f"a session of {wanted} ms is within the brokers' bounds")
    else:
        yield kafka.error(
            f"a session of {wanted} ms is outside the brokers' {low} to {high} ms",
            "change kafka.session_timeout_seconds or group.min/max.session.timeout.ms",
        )


def offsets_retention(broker: Config) -> Finding:
    minutes = int(broker["offsets.retention.minutes"])
    told = duration(minutes * 60_000)
    if minutes < WEEK_MINUTES:
        return kafka.warning(
            f"offsets of a stopped group are forgotten after {told}",
            "raise offsets.retention.minutes; a group without offsets halts where outputs are open",
        )
    return kafka.ok(f"offsets of a stopped group are kept for {told}")


def transaction_markers(broker: Config) -> Finding:
    """https://github.com/apache/kafka/pull/22680, docs/decisions/0013."""
    if SINCE_4_3 in broker:
        return kafka.warning(
            "the brokers are of Kafka 4.3 or later: 4.3.0 to 4.4.0 can leave a transaction without"
            " its end when a broker is killed (KAFKA-20734)",
            "Kafka 4.2, or a release whose notes say that KAFKA-20734 is mended",
        )
    return kafka.ok("the brokers, older than Kafka 4.3, end what they have decided (KAFKA-20734)")


def internal_topics(facts: Facts) -> Iterator[Finding]:
    """Offsets and transactions are part of the truth: losing their tail breaks the promise."""
    assert facts.broker is not None
    settings = {
        OFFSETS: "offsets.topic.replication.factor",
        TRANSACTIONS: "transaction.state.log.replication.factor",
    }
    for name, setting in settings.items():
        found = facts.topics.get(name)
        told = int(facts.broker[setting])
        replication = found.replication if isinstance(found, Topic) else told
        if replication < 3:
            yield kafka.warning(
                f"{name} has {replication} replica(s): a lost disk can lose commits",
                f"three brokers and {setting}=3",
            )
        else:
            yield kafka.ok(f"{name} has {replication} replicas")
    yield in_sync_minimum("transaction.state.log.min.isr", facts.broker)
    yield in_sync_minimum("min.insync.replicas", facts.broker)


def in_sync_minimum(setting: str, broker: Config) -> Finding:
    minimum = int(broker[setting])
    if minimum < 2:
        return kafka.warning(
            f"{setting} is {minimum}: one broker's word is taken for durable",
            f"{setting}=2 with three replicas",
        )
    return kafka.ok(f"{setting} is {minimum}")


def topic(
    name: str, found: Topic | ForbiddenError | None, config: Config | None, how_to_create: str
) -> Iterator[Finding]:
    if isinstance(found, ForbiddenError):
        return  # told with the rights
    if found is None:
        yield topics.error(f"{name} does not exist", how_to_create)
        return
    yield topics.ok(f"{name} exists, {found.partitions} partition(s)")
    if found.replication < 3:
        yield topics.warning(
            f"{name} has {found.replication} replica(s): a lost disk loses messages",
            "three replicas",
        )
    if config is not None:
        yield from topic_config(name, found, config)


def topic_config(name: str, found: Topic, config: Config) -> Iterator[Finding]:
    minimum = int(config["min.insync.replicas"])
    if minimum > found.in_sync:
        yield topics.error(
            f"{name} needs {minimum} replicas in sync and has {found.in_sync}: writes are refused",
            "bring the brokers back, or lower the topic's min.insync.replicas",
        )
    elif minimum < 2 <= found.replication:
        yield topics.warning(
            f"{name} takes a write for durable with {minimum} replica in sync",
            "min.insync.replicas=2",
        )
    if config.get("unclean.leader.election.enable") == "true":
        yield topics.warning(
            f"{name} may elect a leader that lacks committed messages",
            "unclean.leader.election.enable=false",
        )


def rights(facts: Facts, pipeline: Pipeline, group: str) -> Iterator[Finding]:
    """As far as the brokers tell; the right to a transactional id they do not."""
    for name, wanted in _wanted_rights(pipeline):
        found = facts.topics.get(name)
        granted = found.operations if isinstance(found, Topic) else frozenset()
        if isinstance(found, ForbiddenError) or (granted and wanted not in granted):
            yield access.error(f"{wanted} on topic {name} is not granted", f"grant {wanted}")
    if facts.group_operations and "READ" not in facts.group_operations:
        yield access.error(f"READ on group {group} is not granted", "grant READ on the group")
    elif facts.group_operations:
        yield access.ok(f"group {group} may be used")


def _wanted_rights(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    yield from ((name, "READ") for name in pipeline.routes)
    yield from ((name, "WRITE") for name in pipeline.outputs)
