"""What is to be verified, and whether there is such a thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from processor.engine.triggers import replays_topic
from processor.errors import ConfigurationError
from processor.operations.broker import Broker, Place, Topic
from processor.operations.topics import how_to_create
from processor.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be verified; None means all."""

    topic: str | None = None
    partition: int | None = None
    start: int | None = None
    end: int | None = None

    @property
    def whole(self) -> bool:
        return self.start is None and self.end is None


def replays_of(broker: Broker, group: str) -> list[str]:
    """The group's topic of replays, if it has one: an input, and an output of drained keys."""
    topic = replays_topic(group)
    return [topic] if broker.topics([topic])[topic] is not None else []


def chosen_topics(inputs: list[str], scope: Scope) -> list[str]:
    """The input topics that are meant."""
    if scope.topic is not None and scope.topic not in inputs:
        raise ConfigurationError(
            f"--topic {scope.topic!r} is no input of this pipeline; its inputs: {', '.join(inputs)}"
        )
    if scope.start is not None and scope.end is not None and scope.start >= scope.end:
        raise ConfigurationError(
            f"--from {scope.start} --to {scope.end} is empty; --to is the first offset left out"
        )
    return inputs if scope.topic is None else [scope.topic]


def described(broker: Broker, names: Sequence[str], pipeline: Pipeline) -> dict[str, Topic]:
    found = broker.topics(names)
    missing = sorted(name for name, topic in found.items() if topic is None)
    if missing:
        raise ConfigurationError(
            f"Kafka has no topic {', '.join(map(repr, missing))}; run: {how_to_create(pipeline)}"
        )
    return {name: topic for name, topic in found.items() if topic is not None}


def require_partition(topics: Mapping[str, Topic], chosen: Sequence[str], scope: Scope) -> None:
    if scope.partition is None:
        return
    most = max(topics[name].partitions for name in chosen)
    if scope.partition >= most:
        raise ConfigurationError(
            f"--partition {scope.partition}: {', '.join(chosen)} has partitions 0 to {most - 1}"
        )


def places_of(
    topics: Mapping[str, Topic], names: Sequence[str] | Mapping[str, object]
) -> list[Place]:
    return [(name, number) for name in names for number in range(topics[name].partitions)]
