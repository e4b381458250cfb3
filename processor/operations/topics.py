"""A pipeline's topics: create the missing ones, tell how the existing ones differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from processor.operations.broker import Broker, Place
from processor.operations.units import duration
from processor.pipeline import Pipeline

BROKER_DEFAULT = -1
DEFAULT_PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """How topics shall be. None leaves it to the default, and an existing topic as it is."""

    partitions: int | None = None
    replication: int | None = None
    retention_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is."""

    topic: str
    partitions: int
    replication: int
    in_sync: int
    retention_ms: int
    min_insync_replicas: int
    max_message_bytes: int
    messages: int
    """The length of its log, transaction markers and compacted records included."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one topic: an existing one is never changed."""

    topic: str
    action: Literal["created", "exists", "differs"]
    differences: tuple[str, ...]
    found: Found


def how_to_create(pipeline: Pipeline) -> str:
    """The command that makes a pipeline's topics."""
    return f"processor topics create {pipeline.reference or 'PIPELINE'}"


def topics_of(pipeline: Pipeline) -> list[str]:
    """Inputs first, then outputs, each once."""
    return list(dict.fromkeys([*pipeline.routes, *pipeline.outputs]))


def create(broker: Broker, names: Sequence[str], wish: Wish) -> list[Outcome]:
    """Create what is missing; idempotent."""
    existing = broker.topics(names)
    created = {name for name in names if existing[name] is None and _create(broker, name, wish)}
    return [_outcome(found, found.topic in created, wish) for found in describe(broker, names)]


def describe(broker: Broker, names: Sequence[str]) -> list[Found]:
    """All of the named topics that exist."""
    topics = {name: topic for name, topic in broker.topics(names).items() if topic is not None}
    places = [(name, i) for name, topic in topics.items() for i in range(topic.partitions)]
    starts, ends = broker.log_starts(places), broker.log_ends(places)
    found = []
    for name, config in broker.topic_configs(list(topics)).items():
        messages = sum(ends[place] - starts[place] for place in _of(name, places))
        topic = topics[name]
        found.append(
            Found(
                name,
                topic.partitions,
                topic.replication,
                topic.in_sync,
                int(config["retention.ms"]),
                int(config["min.insync.replicas"]),
                int(config["max.message.bytes"]),
                messages,
            )
        )
    return found


def differences(found: Found, wish: Wish) -> Iterator[str]:
    """How an existing topic is not as it was asked for."""
    if wish.partitions is not None and found.partitions != wish.partitions:
        yield f"{found.partitions} partitions instead of {wish.partitions}"
    if wish.replication is not None and found.replication != wish.replication:
        yield f"replication {found.replication} instead of {wish.replication}"
    if wish.retention_ms is not None and found.retention_ms != wish.retention_ms:
        is_, wanted = duration(found.retention_ms), duration(wish.retention_ms)
        yield f"retention {is_} instead of {wanted}"


def _create(broker: Broker, name: str, wish: Wish) -> bool:
    config = {} if wish.retention_ms is None else {"retention.ms": str(wish.retention_ms)}
    return broker.create(
        name,
        wish.partitions or DEFAULT_PARTITIONS,
        wish.replication or BROKER_DEFAULT,
        config,
    )


def _outcome(found: Found, created: bool, wish: Wish) -> Outcome:
    if created:
        return Outcome(found.topic, "created", (), found)
    different = tuple(differences(found, wish))
    return Outcome(found.topic, "differs" if different else "exists", different, found)


def _of(topic: str, places: Sequence[Place]) -> Iterator[Place]:
    return (place for place in places if place[0] == topic)
